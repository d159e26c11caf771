"""From annotation lists to clips: what a training, validation or test item of a row is.

Shapes: T frames, H x W pixels, U distinct frames of a video; clips are uint8 [T, H, W, 3] until they reach the device.
All randomness of an item comes from (seed, epoch, index), so neither the number of reader processes nor the order in
which they work matters.
"""

import functools
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from r2plus1d import views
from r2plus1d.config import RowConfig
from r2plus1d.distributed import cores_each, processes
from r2plus1d.errors import UserError
from r2plus1d.lists import Sample
from r2plus1d.pool import WorkerError, deaf_children, end_with
from r2plus1d.runtime import keep_freed_memory
from r2plus1d.sampling import test_indices, train_indices

AUGMENTATION, ORDER = 0, 1  # separate the random streams drawn from one seed
MODESTY = 15  # of reader processes beside a model on the CPU, as `nice` counts


class Reader(Protocol):
    """Where frames come from: packed frames, loose ones or videos. `count` is how many the video has."""

    def read(self, path: str, indices: np.ndarray, count: int) -> np.ndarray: ...


class Clips(Dataset):
    """One item per video. Without reader processes the items of a batch are read by threads: decoding and resizing
    leave Python's lock. In a reader process one after the other: there are as many processes as cores."""

    def __init__(self, config: RowConfig, samples: list[Sample], reader: Reader):
        self.config, self.samples, self.reader = config, samples, reader

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, items: list) -> list:
        return list((map if get_worker_info() else _threads().map)(self.__getitem__, items))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores_each())


class TrainClips(Clips):
    """(epoch, index) -> (clip uint8 [T, crop, crop, 3], label): one random clip, cropped and flipped at random."""

    def __getitem__(self, item: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, index = item
        rng = np.random.default_rng([self.config.seed, AUGMENTATION, epoch, index])
        clip = training_clip(self.config, self.samples[index], self.reader, rng)
        return torch.from_numpy(clip), self.samples[index].label

    def collate(self, items: list[tuple[torch.Tensor, int]]) -> list[torch.Tensor]:
        """[clips, labels]; of no items too, a process's share of a batch that is smaller than their number."""
        clip, side = self.config.clip, self.config.train.crop
        nothing = [torch.empty((0, clip.frames, side, side, 3), dtype=torch.uint8), torch.empty(0, dtype=torch.int64)]
        return stacked(items) if items else nothing


def training_clip(config: RowConfig, sample: Sample, reader: Reader, rng: np.random.Generator) -> np.ndarray:
    """uint8 [T, crop, crop, 3]: the training view, everything random drawn from `rng`."""
    clip, train = config.clip, config.train
    indices = train_indices(sample.num_frames, clip.frames, clip.frame_interval, rng=rng)[0]
    frames = views.resize_short_side(reader.read(sample.path, indices, sample.num_frames), train.resize)
    box = views.random_resized_crop_box(*frames.shape[1:3], rng, tuple(train.crop_area), tuple(train.crop_ratio))
    frames = np.ascontiguousarray(views.resize(views.crop(frames, box), (train.crop, train.crop)))
    return views.flip(frames) if rng.random() < train.flip else frames


class ValClips(Clips):
    """index -> (clip uint8 [T, crop, crop, 3], label): the middle clip, centre crop.

    With `static` its middle frame, repeated, which leaves its appearance and removes its motion.
    """

    def __init__(self, config: RowConfig, samples: list[Sample], reader: Reader, static: bool = False):
        super().__init__(config, samples, reader)
        self.static = static

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        clip, train, sample = self.config.clip, self.config.train, self.samples[index]
        indices = test_indices(sample.num_frames, clip.frames, clip.frame_interval, 1)[0]
        if self.static:
            indices = indices[len(indices) // 2].repeat(len(indices))
        frames = views.resize_short_side(self.reader.read(sample.path, indices, sample.num_frames), train.resize)
        return torch.from_numpy(views.center_crop(frames, train.crop).copy()), sample.label


@dataclass(frozen=True)
class TestVideo:
    """What all test views of one video are cut from: each frame decoded once and resized once."""

    frames: torch.Tensor  # uint8 [U, H, W, 3], short side as the test views need it
    indices: torch.Tensor  # int64 [clips, T], into `frames`
    label: int

    def pin_memory(self) -> "TestVideo":
        """For a DataLoader, which knows only tensors by itself."""
        return replace(self, frames=self.frames.pin_memory())

    def to(self, device: torch.device) -> "TestVideo":
        """With its frames on `device`, where fewer bytes go than its crops have."""
        return replace(self, frames=self.frames.to(device, non_blocking=True))

    def crops(self, config: RowConfig) -> torch.Tensor:
        """uint8 [crops * U, crop, crop, 3]: every frame's first crop, then every frame's second one, and so on."""
        size, (h, w) = config.test.crop, self.frames.shape[1:3]
        boxes = views.three_crop_boxes(h, w, size) if config.test.crops == 3 else [views.center_box(h, w, size)]
        return torch.cat([views.crop(self.frames, box) for box in boxes])

    def places(self, config: RowConfig) -> torch.Tensor:
        """int64 [crops * clips, T]: which of `crops` make up each view; view number = crop * clips + clip."""
        return torch.cat([self.indices + crop * len(self.frames) for crop in range(config.test.crops)])

    def views(self, config: RowConfig) -> torch.Tensor:
        """uint8 [crops * clips, T, crop, crop, 3]"""
        return self.crops(config)[self.places(config)]


class TestVideos(Clips):
    """index -> TestVideo."""

    def __getitem__(self, index: int) -> TestVideo:
        clip, test, sample = self.config.clip, self.config.test, self.samples[index]
        indices = test_indices(sample.num_frames, clip.frames, clip.frame_interval, test.clips)
        distinct, places = np.unique(indices, return_inverse=True)
        frames = views.resize_short_side(self.reader.read(sample.path, distinct, sample.num_frames), test.resize)
        return TestVideo(torch.from_numpy(frames), torch.from_numpy(places.reshape(indices.shape)), sample.label)


class Schedule:
    """The batches of all epochs from `start` on: lists of (epoch, index). Every sample once an epoch, in an order drawn
    from the seed and the epoch; the last batch of an epoch may be smaller.

    Of each batch, the share of process `rank` of `processes`: shares differ by one at most, and the first process has
    one of the largest.
    """

    def __init__(self, count: int, batch: int, seed: int, start: int, epochs: int, rank: int = 0, processes: int = 1):
        self.count, self.batch, self.seed, self.start, self.epochs = count, batch, seed, start, epochs
        self.rank, self.processes = rank, processes

    @property
    def batches_per_epoch(self) -> int:
        return -(-self.count // self.batch)

    def size(self, iteration: int) -> int:
        """Of an epoch's batch, counted from 1, over all processes."""
        return min(self.batch, self.count - (iteration - 1) * self.batch)

    def __len__(self) -> int:
        return (self.epochs - self.start) * self.batches_per_epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.start, self.epochs):
            order = np.random.default_rng([self.seed, ORDER, epoch]).permutation(self.count).tolist()
            for first in range(0, self.count, self.batch):
                shares = np.array_split(order[first : first + self.batch], self.processes)
                yield [(epoch, index) for index in shares[self.rank].tolist()]


class _Loader(DataLoader):
    """Names what went wrong in a reader process in one line, where torch gives a traceback."""

    def __iter__(self) -> Iterator:
        try:
            with deaf_children(signal.SIGTERM):  # whose handler, run amid a fork, would be lost
                batches = super().__iter__()
            yield from (pickle.loads(batch) if isinstance(batch, bytes) else batch for batch in batches)
        except (UserError, OSError) as error:
            if not str(error).startswith("Caught "):
                raise
            raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from None
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
    """In each reader process. A `modest` one works when the model, on the same cores, waits: beside readers that got
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
