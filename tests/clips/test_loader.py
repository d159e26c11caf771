"""The order of an epoch, its share of each process, and the processes that read."""

import itertools
import os
import sys

import pytest
import torch

from r2plus1d.clips import items, loader
from r2plus1d.clips.loader import Schedule


def test_epoch_has_every_sample_once_and_the_last_batch_too():
    schedule = loader.Schedule(count=10, batch=4, seed=1, start=0, epochs=2)
    batches = list(schedule)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    assert len(schedule) == 6
    for epoch in range(2):
        seen = [item for batch in batches[3 * epoch : 3 * epoch + 3] for item in batch]
        assert sorted(seen) == [(epoch, i) for i in range(10)]
    assert list(loader.Schedule(10, 4, 1, start=1, epochs=2)) == batches[3:]


@pytest.mark.parametrize("labels", [None, [0] * 20 + [1] * 20])
def test_order_of_the_samples_is_of_the_seed_and_the_epoch(labels):
    def order(seed: int, epoch: int) -> list[int]:
        return [index for batch in Schedule(40, 8, seed, epoch, epoch + 1, labels=labels) for _, index in batch]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(one) for one in orders}) == 4
    assert order(0, 0) == orders[0]


def test_balanced_epoch_has_as_many_samples_and_every_class_equally_often():
    labels = [0] * 12 + [1] * 3 + [2]
    for epoch, batches in enumerate(
        (list(Schedule(16, 5, 1, 0, 1, labels=labels)), list(Schedule(16, 5, 1, 1, 2, labels=labels)))
    ):
        drawn = [index for batch in batches for _, index in batch]
        assert [len(batch) for batch in batches] == [5, 5, 5, 1]
        counts = [sum(labels[index] == k for index in drawn) for k in range(3)]
        assert sorted(counts) == [5, 5, 6]
        assert drawn.count(15) == counts[2]
        assert {drawn.count(index) for index in range(12, 15)} <= {1, 2}, "in turn, not at random"
        assert max(drawn.count(index) for index in range(12)) == 1
        assert {item for batch in batches for item, _ in batch} == {epoch}
    assert list(Schedule(16, 5, 1, 0, 2, labels=labels))[4:] == list(Schedule(16, 5, 1, 1, 2, labels=labels))


def test_parts_of_a_batch_are_together_the_batch():
    whole, parts = Schedule(11, 6, seed=3, start=0, epochs=2), Schedule(11, 6, seed=3, start=0, epochs=2, parts=4)
    drawn = list(parts)
    assert [len(part) for part in drawn] == [2, 2, 1, 1, 2, 1, 1, 1] * 2
    assert len(parts) == len(drawn) == 4 * len(list(whole))
    assert [[*itertools.chain(*drawn[i : i + 4])] for i in range(0, 16, 4)] == list(whole)


@pytest.mark.parametrize("count", [6, 7, 8, 9, 12, 13])
def test_no_part_of_a_batch_is_empty_in_every_process_and_all_have_as_many(count):
    """Batch norms over all processes need a sample in one of them."""
    shares = [list(Schedule(count, 6, 3, 0, 1, rank=rank, processes=2, parts=3)) for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) == len(Schedule(count, 6, 3, 0, 1, processes=2, parts=3))
    assert all(one or other for one, other in zip(*shares, strict=True))
    assert sorted(index for share in shares for part in share for _, index in part) == list(range(count))


class Priority(items.Clips):
    """Of the process that reads."""

    def __init__(self):
        pass

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return os.nice(0)


@pytest.mark.parametrize("workers", [None, 0, 1])
def test_readers_leave_the_cores_to_the_model_on_the_cpu(workers):
    (found,) = loader.loader(Priority(), torch.device("cpu"), workers, batch_size=1, collate_fn=loader.single)
    none = workers == 0 or (workers is None and sys.platform != "linux")
    assert found == os.nice(0) + (0 if none else loader.MODESTY)


def test_batch_is_shared_out_whole_and_evenly():
    whole = list(Schedule(11, 4, seed=3, start=0, epochs=1))
    shares = [list(Schedule(11, 4, seed=3, start=0, epochs=1, rank=rank, processes=3)) for rank in range(3)]
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert [item for part in parts for item in part] == batch
        assert 0 <= len(parts[0]) - len(parts[2]) <= 1
