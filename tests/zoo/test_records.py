"""The records of a row: what counts as the same place to compute."""

import torch

from r2plus1d.config.schema import Runtime
from r2plus1d.zoo import records


def test_number_of_threads_counts_as_another_place_where_the_parameters_set_none():
    runtime, before = (
        Runtime(device="cpu", gpus=1, threads=None, lowered="auto", arithmetic="exact"),
        torch.get_num_threads(),
    )
    here = records.deciding(runtime)
    torch.set_num_threads(before + 1)
    try:
        assert records.deciding(runtime) != here
    finally:
        torch.set_num_threads(before)
    assert records.deciding(runtime) == here
