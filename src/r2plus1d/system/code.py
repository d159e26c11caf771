"""What a process runs: the package's modules and the stage's script, each by its syntax tree.

Comments, docstrings and layout are not in a syntax tree, so a change of those is no change of what runs.
"""

import ast
import functools
import hashlib
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the folder that the package lies in
PACKAGE = Path(__file__).resolve().parents[1].name
LIBRARIES: tuple[str, ...] = ("torch", "numpy", "av", "opencv-python-headless", "simplejpeg", "safetensors", "pandas")
LIBRARIES += ("scipy", "scikit-learn")
Trees = dict[str, str]  # digest by file: a module below ROOT, or a script below the working directory


@functools.cache
def tree(file: Path) -> str:
    """Hexadecimal digits for the file's syntax tree without docstrings; the same on every machine with this Python."""
    module = ast.parse(file.read_bytes())
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(module).encode()).hexdigest()[:16]


def running() -> Trees:
    """Of the modules that this process has loaded by now, and of the script it was started with."""
    names = sorted(name for name in sys.modules if name.startswith(f"{PACKAGE}."))
    files = [Path(file) for name in names if (file := getattr(sys.modules[name], "__file__", None))]
    found = {file.resolve().relative_to(ROOT).as_posix(): tree(file) for file in files}
    script = Path(sys.argv[0])
    if script.parent.name == "stages" and script.is_file():
        found[f"stages/{script.name}"] = tree(script)
    return found


def below(folder: str) -> Trees:
    """Of all files below a folder of the package, loaded or not."""
    files = sorted((ROOT / PACKAGE / folder).rglob("*.py"))
    return {file.relative_to(ROOT).as_posix(): tree(file) for file in files}


def changed(trees: Trees) -> list[str]:
    """The files that are another by now, or gone."""
    places = {name: Path(name) if name.startswith("stages/") else ROOT / name for name in trees}
    return [name for name, place in places.items() if not place.is_file() or tree(place) != trees[name]]


def libraries() -> dict[str, str]:
    """Versions of Python and of what computes, decodes and writes."""
    return {"python": ".".join(map(str, sys.version_info[:3]))} | {name: _version(name) for name in LIBRARIES}


def digest(files: Iterable[Path], *more: str) -> str:
    """A short name for some files of code, the versions of the libraries, and `more`, such as the device."""
    parts = [*map(tree, files), repr(libraries()), *more]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
