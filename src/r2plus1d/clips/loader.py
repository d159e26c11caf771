"""Batches of clips: their order, and the processes that read them ahead."""

import functools
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from r2plus1d.system.device import keep_freed_memory
from r2plus1d.system.errors import UserError
from r2plus1d.system.pool import WorkerError, deaf_children, end_with
from r2plus1d.system.processes import cores_each, processes

AUGMENTATION, ORDER = 0, 1  # separate the random streams drawn from one seed


MODESTY = 15  # of reader processes that share the CPU with a model, as `nice` counts


class Schedule:
    """The batches of all epochs from `start` on: lists of (epoch, index). Every sample once an epoch, in an order drawn
    from the seed and the epoch; the last batch of an epoch may be smaller. Given the samples' `labels`, an epoch has as
    many samples, but of each class equally many, or one more: those of a small class come again.

    Each batch comes in `parts`, whose sizes differ by one at most; a small one in fewer, of one sample a process.
    Of each batch, the share of process `rank` of `processes`: shares differ by one at most, and the first process has
    one of the largest.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        seed: int,
        start: int,
        epochs: int,
        rank: int = 0,
        processes: int = 1,
        labels: Sequence[int] | None = None,
        parts: int = 1,
    ):
        self.parts = parts
        self.count, self.batch, self.seed, self.start, self.epochs = count, batch, seed, start, epochs
        self.rank, self.processes = rank, processes
        self.by_class = None if labels is None else [np.flatnonzero(np.equal(labels, k)) for k in sorted(set(labels))]

    @property
    def batches_per_epoch(self) -> int:
        return -(-self.count // self.batch)

    def size(self, iteration: int) -> int:
        """Of an epoch's batch, counted from 1, over all processes."""
        return min(self.batch, self.count - (iteration - 1) * self.batch)

    def __len__(self) -> int:
        """Parts of batches."""
        sizes = [self.size(iteration + 1) for iteration in range(self.batches_per_epoch)]
        return (self.epochs - self.start) * sum(map(self.parts_of, sizes))

    def parts_of(self, size: int) -> int:
        """In how many parts a batch of so many samples comes: in none of them every process is without a sample."""
        return min(self.parts, -(-size // self.processes))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.start, self.epochs):
            order = self._order(np.random.default_rng([self.seed, ORDER, epoch]))
            for first in range(0, self.count, self.batch):
                batch = order[first : first + self.batch]
                shares = np.array_split(batch, self.processes)
                for part in np.array_split(shares[self.rank], self.parts_of(len(batch))):
                    yield [(epoch, index) for index in part.tolist()]

    def _order(self, rng: np.random.Generator) -> list[int]:
        """Of one epoch's samples."""
        if self.by_class is None:
            return rng.permutation(self.count).tolist()
        share, rest = divmod(self.count, len(self.by_class))
        more = set(rng.permutation(len(self.by_class))[:rest].tolist())
        drawn: list[int] = []
        for number, own in enumerate(self.by_class):
            size = share + (number in more)
            rounds = [rng.permutation(own) for _ in range(-(-size // len(own)))]
            drawn += np.concatenate(rounds)[:size].tolist() if rounds else []
        return rng.permutation(drawn).tolist()


class _Loader(DataLoader):
    """Names what went wrong in a reader process in one line, where torch gives a traceback."""

    def __iter__(self) -> Iterator:  # type: ignore[override]  # torch names a class of its own
        try:
            with deaf_children(signal.SIGTERM):  # whose handler, run amid a fork, would be lost
                batches = super().__iter__()
            yield from (pickle.loads(batch) if isinstance(batch, bytes) else batch for batch in batches)
        except (UserError, OSError) as error:
            if not str(error).startswith("Caught "):
                raise
            text = str(error).strip().splitlines()[-1].partition(": ")[2]
            system = re.fullmatch(r"\[Errno (\d+)\] (.*?)(?:: (['\"])(.*)\3)?", text)
            arguments = (int(system[1]), system[2], system[4]) if system else (text,)
            raise type(error)(*arguments) from None
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise WorkerError from error


def loader(dataset: Dataset, device: torch.device, workers: int | None, **options) -> Iterable:
    """Batches, read ahead by `workers` processes; None: one per core, or this process's share of the cores. With 0, and
    where None finds no way that is cheap (several processes on the CPU, or another system than Linux), they are read
    here, each when it is asked for. Without `collate_fn` they are `stacked`."""
    # Copies of this process begin at once. Where threads of torchrun's or a GPU's are, none is made.
    copies = device.type == "cpu" and sys.platform == "linux" and processes() == 1
    if workers is None:
        workers = cores_each() if copies or device.type == "cuda" else 0
    options["generator"] = torch.Generator()  # which it draws from when it starts: not from the model's, amid an epoch
    options.setdefault("collate_fn", stacked)
    if workers:
        options |= {"multiprocessing_context": "fork" if copies else "spawn"}
        options |= {"worker_init_fn": functools.partial(_begin, os.getpid(), modest=device.type == "cpu")}
        if device.type == "cpu":
            options["collate_fn"] = functools.partial(_packed, options["collate_fn"])
    return _Loader(dataset, num_workers=workers, pin_memory=device.type == "cuda", **options)


def _packed(collate: Callable[[list], object], items: list) -> bytes:
    """A batch as it goes through a pipe. Tensors would go through /dev/shm, of which a container has 64 MB: where it is
    full, torch 2.14 may wait for ever."""
    return pickle.dumps(collate(items))


def _begin(parent: int, _: int, modest: bool) -> None:
    """In each reader process. A `modest` one works when the model, on the same cores, waits: next to readers that got
    their share of the cores, a step took 1.4 times as long."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    end_with(parent)  # or a copy would hold the stage's lock until it missed its parent
    keep_freed_memory()
    if modest:
        os.nice(MODESTY)


def stacked(items: list[tuple[torch.Tensor, int]]) -> list[torch.Tensor]:
    """[clips, labels], in memory of this process: torch's own way takes shared memory in a reader process."""
    clips, labels = zip(*items, strict=True)
    return [torch.stack(clips), torch.tensor(labels)]


def single(items: list) -> object:
    """Collates batches of one item that keep their own form."""
    return items[0]
