"""Scores to accuracies. Shapes: V views, N videos, K classes; scores are logits or probabilities, labels 0..K-1.

Accuracies are shares (0-1). Ties: of equal scores, the higher class index ranks first, as in the published evaluation.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from r2plus1d.system.errors import UserError

CONFUSIONS = 3  # of a class, that are named
PREDICTIONS = ("path", "actual", "predicted", "probability", "rank")  # columns of `predictions`
Mode = Literal["prob", "score"]


class ScoresError(UserError):
    """Scores that are no numbers: they have no order, so nothing can be counted as right."""


def average_views(scores: np.ndarray, mode: Mode) -> np.ndarray:
    """float logits [V, K] or [N, V, K] -> [K] or [N, K].

    `prob` is the mean of the softmax over the views (the published protocol), `score` the mean of the logits.
    """
    if mode not in ("prob", "score"):
        raise ValueError(f"average_clips is {mode!r}: expected 'prob' or 'score'")
    if mode == "prob":
        scores = _softmax(scores)
    return scores.mean(axis=-2)


def of_fewer_views(scores: np.ndarray, crops: int, mode: Mode) -> dict[tuple[int, int], np.ndarray]:
    """float logits [V, K] of one video, V = crops * clips in the order of the test -> by (clips, crops) the average [K]
    over so many of them: 1 to all clips, at even distances among those that there are, by the middle crop or all."""
    by_crop = scores.reshape(crops, -1, scores.shape[-1])
    found = {}
    for count in sorted({1, crops}):
        of = by_crop if count == crops else by_crop[-1:]  # the middle crop is the last: views.three_crop_boxes
        clips = of.shape[1]
        for number in range(1, clips + 1):
            chosen = ((np.arange(number) + 0.5) / number * clips).astype(np.int64)
            found[number, count] = average_views(of[:, chosen].reshape(-1, of.shape[-1]), mode)
    return found


def check_finite(scores: np.ndarray, what: str = "the scores") -> None:
    """Raises ScoresError."""
    if not np.isfinite(scores).all():
        raise ScoresError(
            f"{what} are not finite: the network overflows, as it does with weights that are damaged or of another "
            "network; give the row others, or train it again"
        )


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of the N rows of `scores` [N, K] whose label is among the k highest scores."""
    scores, labels = _checked(scores, labels)
    highest = np.argsort(scores, axis=1, kind="stable")[:, -k:]
    return float((highest == labels[:, None]).any(axis=1).mean())


def best(scores: np.ndarray) -> np.ndarray:
    """int64: the class of the highest score of [N, K] or [K]."""
    return np.argsort(scores, axis=-1, kind="stable")[..., -1]


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int64 [K, K]: rows are labels, columns the classes with the highest score."""
    scores, labels = _checked(scores, labels)
    predicted = best(scores)
    counts = np.zeros((scores.shape[1],) * 2, np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean recall over the classes that appear among the labels or the predictions."""
    counts = confusion_matrix(scores, labels)
    present = (counts.sum(axis=1) + counts.sum(axis=0)) > 0
    shown = counts.sum(axis=1)
    recall = np.divide(counts.diagonal(), shown, out=np.zeros(len(counts)), where=shown > 0)
    return float(recall[present].mean())


def predictions(
    paths: Sequence[str], scores: np.ndarray, labels: np.ndarray, classes: Sequence[str], mode: Mode
) -> pd.DataFrame:
    """A line per video: path, actual and predicted class, the predicted one's probability, and the rank (from 1) of the
    actual one. `scores` are averages of `average_views` with this `mode`."""
    scores, labels = _checked(scores, labels)
    shares = scores if mode == "prob" else _softmax(scores)
    order = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
    first = order[:, 0]
    columns = (
        list(paths),
        [classes[label] for label in labels],
        [classes[label] for label in first],
        [round(float(p), 4) for p in shares[np.arange(len(first)), first]],
        (order == labels[:, None]).argmax(axis=1) + 1,
    )
    return pd.DataFrame(dict(zip(PREDICTIONS, columns, strict=True)))


def per_class(scores: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """A line per class that has videos or was predicted: how many videos it has, precision, recall and their harmonic
    mean F1 in percent (0 where nothing was predicted as it, or it has no videos), and which three other classes its
    videos were taken for most often, such as `falling 3, rising 1`."""
    counts = confusion_matrix(scores, labels)
    right, shown, taken = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    recall, precision = (
        100 * np.divide(right, total, out=np.zeros(len(right)), where=total > 0) for total in (shown, taken)
    )
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros(len(both)), where=both > 0)
    lines = []
    for k in np.flatnonzero(shown + taken).tolist():
        others = [other for other in np.argsort(-counts[k], kind="stable").tolist() if other != k and counts[k, other]]
        confused = ", ".join(f"{classes[other]} {counts[k, other]}" for other in others[:CONFUSIONS])
        figures = [round(float(values[k]), 2) for values in (precision, recall, f1)]
        lines.append([classes[k], int(shown[k]), *figures, confused])
    return pd.DataFrame(lines, columns=["class", "videos", "precision", "recall", "f1", "taken_for"])


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(f"expected scores [N, K] and labels [N], N at least 1, not {scores.shape} and {labels.shape}")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"labels must lie in 0..{scores.shape[1] - 1}, not {labels.min()}..{labels.max()}")
    check_finite(scores)
    return scores, labels
