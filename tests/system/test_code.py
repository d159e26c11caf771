"""What counts as another code: the syntax tree, no comment and no docstring."""

import json
import subprocess
import sys

import pytest

from r2plus1d.system import code
from tests.support.project import ROOT

MODULE = '''"""What it is."""

import math


class Circle:
    """A circle."""

    def __init__(self, radius: float):
        """Of this radius."""
        self.radius = radius

    def area(self) -> float:
        return 2 * math.pi * self.radius


async def later() -> None:
    """Does nothing."""
'''


@pytest.fixture
def digest(tmp_path):
    """The digest of some text as a module."""
    written = iter(range(100))

    def digest(text: str) -> str:
        file = tmp_path / f"{next(written)}.py"
        file.write_text(text)
        return code.tree(file)

    return digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import math\n", "import math  # for pi\n"),
        ("\n\nclass", "\n# ---- Figures ----\nclass"),
        ('"""What it is."""\n', ""),
        ('"""A circle."""', '"""A figure\n    of one radius."""'),
        ('        """Of this radius."""\n', ""),
        ('"""Does nothing."""', "pass"),
        ("return 2 * math.pi * self.radius", "return (\n            2\n            * math.pi * self.radius)"),
        ("\n", "\r\n"),
    ],
    ids=["comment", "line", "module", "class", "method", "function", "layout", "line ends"],
)
def test_comments_docstrings_and_layout_are_no_change(digest, old, new):
    assert old in MODULE
    assert digest(MODULE.replace(old, new)) == digest(MODULE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 *", "3 *"),
        ("2 *", "2.0 *"),
        ("* self", "+ self"),
        ("import math", "import cmath as math"),
        ("def area", "@property\n    def area"),
        ("self.radius = radius", "self.radius = radius\n        'no docstring'"),
    ],
    ids=["number", "kind of number", "operator", "import", "decorator", "statement"],
)
def test_what_runs_otherwise_is_a_change(digest, old, new):
    assert old in MODULE
    assert digest(MODULE.replace(old, new)) != digest(MODULE)


def test_running_code_is_the_loaded_modules_and_the_script_of_the_stage(tmp_path):
    script = tmp_path / "stages" / "small.py"
    script.parent.mkdir()
    script.write_text("import json\nfrom r2plus1d.system import code, paths\nprint(json.dumps(code.running()))\n")
    command = [sys.executable, "stages/small.py"]
    environment = {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    modules = {f"r2plus1d/system/{name}.py" for name in ("__init__", "code", "paths")}
    assert json.loads(done.stdout) == {
        **{name: code.tree(ROOT / "src" / name) for name in modules},
        "stages/small.py": code.tree(script),
    }


def test_code_below_a_folder_is_named_though_it_is_not_loaded():
    assert set(code.below("model/cuda")) == {
        f"r2plus1d/model/cuda/{name}.py" for name in ("__init__", "batch_norm", "inference", "kernels", "training")
    }


def test_changed_files_are_those_that_are_another_or_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "same.py").write_text("x = 1  # one\n")
    (tmp_path / "stages" / "other.py").write_text("x = 1\n")
    trees = {name: code.tree(tmp_path / name) for name in ("stages/same.py", "stages/other.py")}
    trees["r2plus1d/system/gone.py"] = "0" * 16
    code.tree.cache_clear()  # as in a later process
    (tmp_path / "stages" / "same.py").write_text('"""Says one."""\nx = 1\n')
    (tmp_path / "stages" / "other.py").write_text("x = 2\n")
    assert code.changed(trees) == ["stages/other.py", "r2plus1d/system/gone.py"]
