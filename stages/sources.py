"""The code of every stage -> sources/<stage>.txt: its script and the package's modules that it reaches, each with its
SHA-256, as `sha256sum` writes them.

DVC does not see Python imports. A stage depends on its own list, so it runs again when its code changes and only then.
"""

import ast
import functools
import sys
from pathlib import Path

from r2plus1d.system import paths
from r2plus1d.system.files import sha256, write_text
from r2plus1d.system.stage import run

PACKAGE = Path("src/r2plus1d")


def main() -> None:
    for script in sorted(Path("stages").glob("*.py")):
        lines = [f"{sha256(path)}  {path.as_posix()}" for path in sorted(reached(script))]
        write_text(paths.sources(script.stem), "\n".join(lines) + "\n")


def reached(script: Path) -> set[Path]:
    """The script, and what of the package it imports, directly or not, at its top or later."""
    found, new = set(), {script, PACKAGE / "__init__.py"}
    while new:
        path = new.pop()
        found.add(path)
        new |= {module for module in imported(path) if module.is_file()} - found
    return found


@functools.cache
def imported(path: Path) -> set[Path]:
    """What may be modules of the package, of those that a file names in its imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in names]
    inner = [PACKAGE.joinpath(*rest) for package, *rest in parts if package == PACKAGE.name and rest]
    return {path.with_suffix(".py") for path in inner} | {
        folder / "__init__.py" for path in inner for folder in (path, *path.parents) if PACKAGE in folder.parents
    }


if __name__ == "__main__":
    run(main, sys.argv)
