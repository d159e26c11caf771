"""From annotation lists to clips: what a training, validation or test item of a row is.

Shapes: T frames, H x W pixels, U distinct frames of a video; clips are uint8 [T, H, W, 3] until they reach the device.
All randomness of an item comes from (seed, epoch, index), for a frozen network from (seed, view, path): so neither the
number of reader processes nor the order in which they work matters.
"""

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from r2plus1d.clips.loader import AUGMENTATION, stacked
from r2plus1d.clips.sampling import Spread, at_rate, test_indices, train_indices
from r2plus1d.config.schema import ClipConfig, RowConfig, TestedRow
from r2plus1d.datasets.annotations import Sample
from r2plus1d.system.processes import cores_each
from r2plus1d.video import views


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
        if get_worker_info():
            return list(map(self.__getitem__, items))
        return list(_threads().map(self.__getitem__, items))


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


class TrainingViews(Clips):
    """index -> uint8 [V, T, crop, crop, 3]: `train.views` random clips of a video, drawn from the seed and its path."""

    def __getitem__(self, index: int) -> torch.Tensor:
        sample, seed = self.samples[index], self.config.seed
        path = np.frombuffer(hashlib.sha256(sample.path.encode()).digest(), "<u4").tolist()
        drawn = [np.random.default_rng([seed, AUGMENTATION, view, *path]) for view in range(self.config.train.views)]
        return torch.from_numpy(np.stack([training_clip(self.config, sample, self.reader, rng) for rng in drawn]))


def training_clip(config: RowConfig, sample: Sample, reader: Reader, rng: np.random.Generator) -> np.ndarray:
    """uint8 [T, crop, crop, 3]: the training view, everything random drawn from `rng`."""
    clip, train = config.clip, config.train
    numbers = _numbers(clip, sample)
    indices = numbers[train_indices(len(numbers), clip.frames, clip.frame_interval, rng=rng)[0]]
    frames = views.resize_short_side(reader.read(sample.path, indices, sample.num_frames), train.resize)
    h, w = frames.shape[1:3]
    box = views.random_resized_crop_box(h, w, rng, train.crop_area, train.crop_ratio)
    frames = np.ascontiguousarray(views.resize(views.crop(frames, box), (train.crop, train.crop)))
    return views.flip(frames) if rng.random() < train.flip else frames


def repeated(config: RowConfig, samples: list[Sample]) -> int:
    """Of how many videos a clip has more frames than there are, so that it begins with the video once more."""
    last = (config.clip.frames - 1) * config.clip.frame_interval
    return sum(len(_numbers(config.clip, sample)) <= last for sample in samples)


def _numbers(clip: ClipConfig, sample: Sample) -> np.ndarray:
    """int64: the frames of the video that `clip.frame_interval` counts."""
    if clip.frame_rate == "all":
        return np.arange(sample.num_frames)
    return at_rate(sample.num_frames, sample.rate, clip.frame_rate)


def _test_indices(clip: ClipConfig, sample: Sample, clips: int, spread: Spread = "inner") -> np.ndarray:
    """int64 [clips, T]"""
    numbers = _numbers(clip, sample)
    return numbers[test_indices(len(numbers), clip.frames, clip.frame_interval, clips, spread)]


class ValClips(Clips):
    """index -> (clip uint8 [T, crop, crop, 3], label): the middle clip, centre crop.

    With `static` its middle frame, repeated, which leaves its appearance and removes its motion.
    """

    def __init__(self, config: RowConfig, samples: list[Sample], reader: Reader, static: bool = False):
        super().__init__(config, samples, reader)
        self.static = static

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        clip, train, sample = self.config.clip, self.config.train, self.samples[index]
        indices = _test_indices(clip, sample, 1)[0]
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

    def crops(self, config: TestedRow) -> torch.Tensor:
        """uint8 [crops * U, crop, crop, 3]: see `views.crops`."""
        return views.crops(self.frames, config.test.crop, config.test.crops)

    def places(self, config: TestedRow) -> torch.Tensor:
        """int64 [crops * clips, T]: which of `crops` make up each view; view number = crop * clips + clip."""
        return views.places(self.indices, len(self.frames), config.test.crops)

    def views(self, config: TestedRow) -> torch.Tensor:
        """uint8 [crops * clips, T, crop, crop, 3]"""
        return self.crops(config)[self.places(config)]


class TestVideos(Clips):
    """index -> TestVideo."""

    config: TestedRow

    def __getitem__(self, index: int) -> TestVideo:
        clip, test, sample = self.config.clip, self.config.test, self.samples[index]
        indices = _test_indices(clip, sample, test.clips, test.spread)
        distinct, places = np.unique(indices, return_inverse=True)
        frames = self.reader.read(sample.path, distinct, sample.num_frames)
        if isinstance(test.resize, int):
            frames = views.resize_short_side(frames, test.resize)
        else:
            frames = views.resize(frames, (test.resize[0], test.resize[1]))
        return TestVideo(torch.from_numpy(frames), torch.from_numpy(places.reshape(indices.shape)), sample.label)
