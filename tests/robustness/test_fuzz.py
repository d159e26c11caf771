"""Mutated files and text, the same ones every time; benchmarks/trust/fuzz.py tries others, for longer."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.fuzz_targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_hostile_input_gives_a_sound_result_or_an_error_of_ours(name):
    target = TARGETS[name]
    options = {"max_examples": 100, "derandomize": True, "database": None, "deadline": None}
    settings(**options, suppress_health_check=list(HealthCheck))(given(target.inputs)(target.check))()
