"""Cases that `make test` leaves out, beside others that tell as much: CONTRIBUTING.md."""

import pytest


def slow(*values: object):
    """Of `pytest.mark.parametrize`."""
    return pytest.param(*values, marks=pytest.mark.slow)
