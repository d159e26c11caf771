"""The table's protocol: ten clips by three crops of every video of the split that is measured, averaged.

Shapes: N videos, V views, K classes. Source of the protocol: the published rows (see params.yaml, `recipe.test`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from r2plus1d.clips.items import Reader, TestVideos, repeated
from r2plus1d.clips.loader import loader, single
from r2plus1d.config.schema import TestedRow
from r2plus1d.datasets.annotations import Sample
from r2plus1d.model.lowered import TakesFrames, for_inference
from r2plus1d.model.network import Recognizer
from r2plus1d.system import processes
from r2plus1d.system.device import computed, prepare
from r2plus1d.system.progress import progress
from r2plus1d.system.timing import reading
from r2plus1d.zoo import accuracy
from r2plus1d.zoo.validation import validation_scores

VIEWS_AT_ONCE = 30
FEWER = ["clips", "crops", "right", "videos"]


class Tested(Protocol):
    """A trained network that looks at videos as the test asks."""

    def views(self, samples: list[Sample]) -> Iterable[np.ndarray]: ...  # float32 [V, K], the logits of each video

    def view(self, samples: list[Sample], static: bool) -> np.ndarray: ...  # float32 [N, K], of the validation view


class WholeNetwork:
    """The network that a row trained, made ready to look at its videos; several processes share them out."""

    def __init__(self, config: TestedRow, model: Recognizer, reader: Reader, workers: int | None):
        self.config, self.reader, self.workers = config, reader, workers
        self.device = prepare(config.runtime)
        arithmetic = computed(config.runtime.arithmetic, self.device)
        self.network = for_inference(model, self.device, config.runtime.lowered, arithmetic)

    def views(self, samples: list[Sample]) -> Iterator[np.ndarray]:
        items = TestVideos(self.config, samples, self.reader)
        videos = reading(loader(items, self.device, self.workers, batch_size=1, collate_fn=single))
        if processes.first():
            part = f", a share of 1 in {processes.processes()}" if processes.processes() > 1 else ""
            videos = progress(videos, len(samples), f"testing {self.config.row}{part}", "videos")
        for video in videos:
            crops, places = video.to(self.device).crops(self.config), video.places(self.config)
            yield logits(self.network, crops, places, self.device).cpu().numpy()

    def view(self, samples: list[Sample], static: bool) -> np.ndarray:
        scores, _ = validation_scores(
            self.config, self.network, samples, self.reader, self.device, self.workers, static
        )
        return scores


@dataclass(frozen=True)
class Result:
    scores: np.ndarray  # float32 [N, K], averaged over the views, in the order of the list
    labels: np.ndarray  # int64 [N]
    figures: dict  # accuracies in percent
    fewer: pd.DataFrame  # columns clips, crops, right and videos: of how many, so many views have the class right
    views: np.ndarray | None  # float16 [N, V, K], the logits of every view, where the row keeps them


def test(config: TestedRow, network: Tested, samples: list[Sample]) -> Result:
    """Scores and accuracies of a trained network.

    Reported besides the protocol: `single_clip`, the validation view, and `static`, the same view of clips whose middle
    frame is repeated, with how many `classes` those clips are taken for.
    """
    own = processes.share(samples)
    averaged: list[np.ndarray] = []
    right: list[dict[tuple[int, int], bool]] = []
    kept: list[np.ndarray] = []
    for sample, views in zip(own, network.views(own), strict=True):
        accuracy.check_finite(views, f"{config.row}: the scores of {sample.path}")
        averaged.append(accuracy.average_views(views, config.test.average_clips))
        fewer = accuracy.of_fewer_views(views, config.test.crops, config.test.average_clips)
        right.append({number: accuracy.best(found) == sample.label for number, found in fewer.items()})
        if config.test.keep_views:
            kept.append(views.astype(np.float16))
    together: list[np.ndarray] = processes.together(averaged)
    scores, labels = np.stack(together), np.array([s.label for s in samples])
    counts = pd.DataFrame(processes.together(right)).sum()
    kept = processes.together(kept)
    one_clip, still = network.view(samples, static=False), network.view(samples, static=True)
    static = _percent({"top1": accuracy.top_k_accuracy(still, labels, 1)})
    figures = {
        **_percent(_accuracies(scores, labels)),
        "single_clip": _percent(_accuracies(one_clip, labels)),
        "static": static | {"classes": len(np.unique(accuracy.best(still)))},
        "videos": len(samples),
        "repeated": repeated(config, samples),
    }
    fewer = pd.DataFrame([(*number, int(count), len(samples)) for number, count in counts.items()], columns=FEWER)
    return Result(scores, labels, figures, fewer, np.stack(kept) if kept else None)


def format_scores(scores: np.ndarray) -> str:
    """JSON: a list of K scores per video, in the order of the list, as the published `--out` wrote it."""
    rows = (", ".join(repr(round(float(v), 6)) for v in row) for row in scores)
    return "[\n" + ",\n".join(f"[{row}]" for row in rows) + "\n]\n"


def logits(network: TakesFrames, crops: Tensor, places: Tensor, device: torch.device) -> Tensor:
    """uint8 crops [F, H, W, 3] and the views made of them, int64 [V, T] -> logits [V, K] on `device`, by a network of
    `for_inference`."""
    parts = []
    with torch.inference_mode():
        for part in places.split(VIEWS_AT_ONCE):
            used, own = part.unique(return_inverse=True)
            parts.append(network.from_frames(crops[used].to(device, non_blocking=True), own))
    return torch.cat(parts)


def _accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        "top1": accuracy.top_k_accuracy(scores, labels, 1),
        "top5": accuracy.top_k_accuracy(scores, labels, 5),
        "mean_class_accuracy": accuracy.mean_class_accuracy(scores, labels),
    }


def _percent(shares: dict[str, float]) -> dict[str, float]:
    return {key: round(100 * value, 2) for key, value in shares.items()}
