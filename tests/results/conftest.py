"""What the tests of the report share: rows with figures that no stage measured, and the published ones."""

import json

import pytest

from r2plus1d.config import resolve
from r2plus1d.system import paths
from tests.support.figures import row_figures
from tests.support.project import ROOT


def figured(params: dict) -> list:
    return [row_figures(row, 70.0 + i) for i, row in enumerate(resolve.resolve(params).rows)]


@pytest.fixture
def rows(params) -> list:
    return figured(params)


@pytest.fixture(scope="module")
def published() -> dict:
    return json.loads((ROOT / paths.PUBLISHED).read_text())
