"""The original's reference vectors."""

from pathlib import Path

import pytest

from tests.support.project import ROOT

GOLDEN = (ROOT / "tests" / "golden", ROOT.parent / "shared" / "golden")  # committed extracts, and all there are


def find_golden(name: str) -> Path:
    for folder in GOLDEN:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} of the original's reference vectors is too large to commit and not beside this clone")
