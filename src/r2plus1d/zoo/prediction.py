"""What is in a video: class probabilities by a network's own view, of the whole video or of windows along it.

Shapes: K classes; frames are uint8 [H, W, 3] in RGB. A video is decoded twice: once in the sandbox, which says whether
it can be read, how long it is and at what rate, and once for the frames that are looked at. Only those of one window
are in memory, so an hour takes no more than a minute.
"""

import copy
import functools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from r2plus1d.clips.sampling import at_rate, test_indices
from r2plus1d.model.families import View
from r2plus1d.model.lowered import TakesFrames, for_inference
from r2plus1d.model.network import Recognizer
from r2plus1d.system.arithmetic import Arithmetic
from r2plus1d.system.device import computed
from r2plus1d.system.errors import UserError
from r2plus1d.system.progress import progress
from r2plus1d.video import sandbox, views
from r2plus1d.video.decoding import Measured, VideoError, decode
from r2plus1d.video.extraction import packed
from r2plus1d.zoo.accuracy import average_views, check_finite
from r2plus1d.zoo.evaluation import logits

UNKNOWN_RATE = 30.0  # frames a second, of a video that does not tell
MOST_WINDOWS = 100_000
LONG = 5000  # frames of a video that takes seconds to look through
SHOWN = 8  # frames of a window, for a picture


class PredictionError(UserError):
    """Videos that are not there, or a window that cannot be."""


@dataclass(frozen=True)
class Window:
    """A part of a video, and what is in it."""

    start: float  # seconds
    end: float
    probabilities: np.ndarray  # float32 [K], the mean over the views
    frames: np.ndarray  # uint8 [n, H, W, 3]: some of those that were looked at, in order, at even distances

    def best(self, count: int) -> list[int]:
        """The classes of highest probability, highest first; of equal ones the later, as in the test."""
        return np.argsort(self.probabilities, kind="stable")[::-1][:count].tolist()


class Predictor(Recognizer):
    """A network that `load` gives: it can be asked about videos, too."""

    def predict(self, video: str | Path, top: int = 5) -> list[tuple[str, float]]:
        """(class, probability) of the `top` classes of a video, highest first, by the network's own view.

        Computed on the device of the network's weights. Raises VideoError for a video that cannot be read.
        """
        weights = [*self.parameters(), *self.buffers()]
        state = (self.view, weights[0].device, [_version(tensor) for tensor in weights])
        kept, looker = self.__dict__.pop("_looker", (None, None))
        if looker is None or kept != state:
            looker = Looker(self, weights[0].device)
        self.__dict__["_looker"] = (state, looker)  # not a part of the network that torch should know
        try:
            (window,) = looker.windows(Path(video))
        except VideoError as error:
            raise VideoError(f"{video}: {error}") from error
        names = class_names(self)
        return [(names[k], float(window.probabilities[k])) for k in window.best(top)]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_looker"}


def _version(tensor: torch.Tensor) -> tuple[int, object]:
    """Another one where its numbers changed; of a tensor that was made in inference mode, which does not tell, always
    another one."""
    return id(tensor), object() if tensor.is_inference() else tensor._version


def class_names(network: Recognizer) -> list[str]:
    """In the order of the logits; the numbers of classes whose names nobody knows."""
    return network.classes or [f"class {k}" for k in range(network.arguments["num_classes"])]


class Looker:
    """A network made ready to look at videos; `device` as torch names it."""

    def __init__(
        self, network: Recognizer, device: torch.device, view: View | None = None, arithmetic: Arithmetic = "exact"
    ):
        self.view = view or network.view
        self.device, self.arithmetic = device, computed(arithmetic, device)
        self._plain, self._network = network, for_inference(network, device, arithmetic=self.arithmetic)

    def measure(self, video: Path) -> Measured:
        """With progress, where that takes long. Raises VideoError."""
        steps = sandbox.measuring(video)
        whole = next(steps)
        if isinstance(whole, int) and whole > LONG:
            steps = progress(steps, whole, f"looking through {video.name}", "frames")
        found = deque(steps, 1).pop()
        assert isinstance(found, Measured)
        if found.rate <= 0:
            found = found._replace(rate=UNKNOWN_RATE)
        return found

    def windows(
        self, video: Path, seconds: float | None = None, stride: float | None = None, found: Measured | None = None
    ) -> Iterator[Window]:
        """The whole video as one window; given `seconds`, windows of that length, one every `stride` seconds, and where
        those leave an end over, a last one that ends with the video. Each when it is computed.

        `found` is what `measure` said, where it was asked. Raises VideoError.
        """
        found = found or self.measure(video)
        for first, last, stack, indices in self._looked(
            video, found, window_frames(found.frames, found.rate, seconds, stride)
        ):
            shown = np.linspace(0, len(stack) - 1, min(SHOWN, len(stack))).astype(np.int64)
            yield Window(
                round(first / found.rate, 3),
                round(last / found.rate, 3),
                self._probabilities(stack, indices),
                stack[shown].numpy(),
            )

    def features(
        self, video: Path, seconds: float | None = None, stride: float | None = None
    ) -> Iterator[tuple[float, float, np.ndarray]]:
        """(start, end, float32 [C]) of each window, as `windows` has them: what the last layer takes, the mean over the
        views. Raises VideoError."""
        found = self.measure(video)
        network = self._without_last_layer
        spans = window_frames(found.frames, found.rate, seconds, stride)
        for first, last, stack, indices in self._looked(video, found, spans):
            taken = self._scores(network, stack, indices).mean(0)
            yield round(first / found.rate, 3), round(last / found.rate, 3), taken

    @functools.cached_property
    def _without_last_layer(self) -> TakesFrames:
        bare = copy.deepcopy(self._plain)
        bare.cls_head.fc_cls = nn.Identity()  # type: ignore[assignment]
        return for_inference(bare, self.device, arithmetic=self.arithmetic)

    def views(self, video: Path) -> np.ndarray:
        """uint8 [crops * clips, T, crop, crop, 3]: what the network is shown of a whole video. Raises VideoError."""
        found = self.measure(video)
        ((_, _, stack, indices),) = self._looked(video, found, [(0, found.frames)])
        crops, places = views.crops(stack, self.view.crop, self.view.crops), self._places(stack, indices)
        return crops[places].numpy()

    def _looked(
        self, video: Path, found: Measured, spans: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]:
        """(first frame, the one after the last, uint8 [U, H, W, 3], int64 [clips, T] into those) of each span."""
        plans = [first + self._indices(last - first, found.rate) for first, last in spans]
        kept: dict[int, np.ndarray] = {}
        frames = _numbered(video, plans)
        for (first, last), indices in zip(spans, plans, strict=True):
            wanted, places = np.unique(indices, return_inverse=True)
            for number in [number for number in kept if number < wanted[0]]:
                del kept[number]
            while wanted[-1] not in kept:
                following = next(frames, None)
                if following is None:
                    raise VideoError(f"frame {wanted[-1]} is missing, though it could be read before")
                kept[following[0]] = self._resized(following[1])
            stack = torch.from_numpy(np.stack([kept[number] for number in wanted.tolist()]))
            yield first, last, stack, torch.from_numpy(places.reshape(indices.shape))

    def _indices(self, count: int, rate: float) -> np.ndarray:
        """int64 [clips, T], from 0"""
        view = self.view
        numbers = np.arange(count) if view.frame_rate is None else at_rate(count, rate, view.frame_rate)
        return numbers[test_indices(len(numbers), view.frames, view.frame_interval, view.clips, view.spread)]

    def _resized(self, image: np.ndarray) -> np.ndarray:
        if self.view.stored is not None:  # as the network was trained and tested
            image = packed(image, self.view.stored)
        resize = self.view.resize
        if isinstance(resize, int):
            return views.resize_short_side(image, resize).copy()
        return views.resize(image, resize).copy()

    def _probabilities(self, frames: torch.Tensor, indices: torch.Tensor) -> np.ndarray:
        found = self._scores(self._network, frames, indices)
        if self.view.average == "score":
            found = average_views(found, "score")[None]
        return average_views(found, "prob").astype(np.float32)

    def _scores(self, network: TakesFrames, frames: torch.Tensor, indices: torch.Tensor) -> np.ndarray:
        """float32 [V, what the network gives]"""
        crops, places = views.crops(frames, self.view.crop, self.view.crops), self._places(frames, indices)
        found = logits(network, crops, places, self.device).float().cpu().numpy()
        check_finite(found)
        return found

    def _places(self, frames: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return views.places(indices, len(frames), self.view.crops)


def with_views(view: View, clips: int | None, crops: int | None) -> View:
    """The view with another number of clips or crops; three crops are squares of the whole short side."""
    changed = replace(view, clips=clips or view.clips, crops=crops or view.crops)
    if crops == 3 and view.crops == 1:
        changed = replace(changed, resize=changed.crop)
    return changed


def window_frames(count: int, rate: float, seconds: float | None, stride: float | None) -> list[tuple[int, int]]:
    """(first frame, the one after the last) of each window of a video of `count` frames.

    Raises PredictionError for lengths that are not positive, or so many windows that nobody can mean them.
    """
    if seconds is None:
        return [(0, count)]
    stride = seconds if stride is None else stride
    if not (0 < seconds < math.inf and 0 < stride < math.inf):
        raise PredictionError(f"a window of {seconds:g} s every {stride:g} s: both must be more than 0")
    length = max(1, round(seconds * rate))
    if length >= count:
        return [(0, count)]
    number = math.floor((count - length) / (stride * rate)) + 1
    if number > MOST_WINDOWS:
        raise PredictionError(f"{number} windows in one video; at most {MOST_WINDOWS}: choose a longer stride")
    firsts = [min(round(k * stride * rate), count - length) for k in range(number)]
    if firsts[-1] + length < count:
        firsts.append(count - length)
    return [(first, first + length) for first in dict.fromkeys(firsts)]


def _numbered(video: Path, plans: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """The frames that some plan wants, with their numbers, in order."""
    wanted = set(np.unique(np.concatenate([plan.ravel() for plan in plans])).tolist())
    for number, image in enumerate(decode(video, wanted)):
        if image is not None:
            yield number, image
