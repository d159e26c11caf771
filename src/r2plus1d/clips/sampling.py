"""Which frames of a video make a clip. Frame numbers count from 0.

Reproduces the published SampleFrames: the test clips are spread evenly over the video, a training clip is drawn at
random, and a video shorter than a clip is repeated from its start.
"""

from typing import Literal

import numpy as np

Spread = Literal["inner", "ends"]


def at_rate(num_frames: int, rate: float, frame_rate: float) -> np.ndarray:
    """int64 [num_frames * frame_rate / rate], at least one: those frames of a video of `rate` frames a second that
    stand for it at `frame_rate`; each is the last one shown by then. As torchvision's VideoClips chooses them.

    Raises ValueError unless all three are positive.
    """
    if num_frames < 1 or rate <= 0 or frame_rate <= 0:
        raise ValueError(f"{num_frames} frames at {rate} a second cannot be shown at {frame_rate} a second")
    count = max(1, int(num_frames * frame_rate / rate))
    return np.minimum((np.arange(count) * (rate / frame_rate)).astype(np.int64), num_frames - 1)


def test_indices(
    num_frames: int,
    clip_len: int,
    frame_interval: int,
    num_clips: int,
    spread: Spread = "inner",  # noqa: PT028 (no test of pytest's)
) -> np.ndarray:
    """int64 [num_clips, clip_len]: clips at even distances. `inner`: the first half a distance from the start; `ends`:
    the first begins with the video and the last ends with it.

    Raises ValueError unless all four numbers are at least 1.
    """
    span = _span(num_frames, clip_len, frame_interval, num_clips)
    if num_frames < span:
        return _frames(np.zeros(num_clips, np.int64), num_frames, clip_len, frame_interval)
    starts = num_frames - span + 1
    places: np.ndarray
    if spread == "ends":
        places = np.linspace(0, starts - 1, num_clips)
    else:
        distance = starts / num_clips
        places = np.arange(num_clips) * distance + distance / 2
    return _frames(places.astype(np.int64), num_frames, clip_len, frame_interval)


def train_indices(
    num_frames: int, clip_len: int, frame_interval: int, num_clips: int = 1, *, rng: np.random.Generator
) -> np.ndarray:
    """int64 [num_clips, clip_len]: one clip at random from each of `num_clips` equal parts of the video.

    Raises ValueError unless all four numbers are at least 1.
    """
    span = _span(num_frames, clip_len, frame_interval, num_clips)
    starts = num_frames - span + 1
    distance = starts // num_clips
    if distance > 0:
        offsets = np.arange(num_clips) * distance + rng.integers(distance, size=num_clips)
    elif num_frames > max(num_clips, span):
        offsets = np.sort(rng.integers(starts, size=num_clips))
    elif distance == 0:
        offsets = np.around(np.arange(num_clips) * (starts / num_clips)).astype(np.int64)
    else:
        offsets = np.zeros(num_clips, np.int64)
    return _frames(offsets, num_frames, clip_len, frame_interval)


def _span(num_frames: int, clip_len: int, frame_interval: int, num_clips: int) -> int:
    numbers = {"num_frames": num_frames, "clip_len": clip_len, "frame_interval": frame_interval, "num_clips": num_clips}
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} is {value}: a clip needs at least 1")
    return clip_len * frame_interval


def _frames(offsets: np.ndarray, num_frames: int, clip_len: int, frame_interval: int) -> np.ndarray:
    return (offsets[:, None] + np.arange(clip_len) * frame_interval) % num_frames
