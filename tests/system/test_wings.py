"""The direction of the imports, read from the source."""

import ast
from pathlib import Path

import pytest

from tests.support.project import ROOT

PACKAGE = ROOT / "src" / "r2plus1d"
WINGS = ("system", "config", "datasets", "video", "clips", "model", "zoo", "results")  # each knows those before it
FREE = ("cli.py", "__main__.py")  # may import any wing
MODULES = sorted(PACKAGE.rglob("*.py"))
IN_WINGS = [module for module in MODULES if module.parent != PACKAGE]


def named(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def imported(module: Path) -> set[str]:
    """The dotted names that a module imports, at its head or in a function; of `from a import b`, a.b."""
    found = set()
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(module)}, line {node.lineno}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(library: str) -> list[str]:
    return [named(module) for module in MODULES if library in {name.split(".")[0] for name in imported(module)}]


def test_package_consists_of_the_wings():
    assert {module.relative_to(PACKAGE).parts[0] for module in IN_WINGS} == set(WINGS)
    assert {module.name for module in MODULES if module.parent == PACKAGE} == {"__init__.py", *FREE}


@pytest.mark.parametrize("module", IN_WINGS, ids=named)
def test_module_imports_only_its_wing_and_those_before_it(module):
    wing = module.relative_to(PACKAGE).parts[0]
    known = [f"r2plus1d.{name}" for name in WINGS[: WINGS.index(wing) + 1]]
    own = [name for name in imported(module) if name.split(".")[0] == "r2plus1d"]
    assert [name for name in own if ".".join(name.split(".")[:2]) not in known] == []


def test_wings_have_empty_init_files():
    written = [module for module in IN_WINGS if module.name == "__init__.py"]
    assert {module.parent.name for module in written} >= set(WINGS)
    assert [named(module) for module in written if module.read_bytes()] == []


def test_dvc_and_the_decoder_are_imported_where_they_are_used_alone():
    assert importers("dvc") == ["system/kept.py"]
    assert importers("av") == ["datasets/encode.py", "video/decoding.py", "video/reading.py"]
