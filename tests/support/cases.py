"""Cases of a test beyond those that tell most: a run of all tests takes them."""

import pytest


def slow(*values: object):
    """Of `pytest.mark.parametrize`."""
    return pytest.param(*values, marks=pytest.mark.slow)
