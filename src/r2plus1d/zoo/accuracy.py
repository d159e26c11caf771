"""Scores to accuracies. Shapes: V views, N videos, K classes; scores are logits or probabilities, labels 0..K-1.

Accuracies are shares (0-1). Ties: of equal scores, the higher class index ranks first, as in the published evaluation.
"""

from typing import Literal

import numpy as np


def average_views(scores: np.ndarray, mode: Literal["prob", "score"]) -> np.ndarray:
    """float logits [V, K] or [N, V, K] -> [K] or [N, K].

    `prob` is the mean of the softmax over the views (the published protocol), `score` the mean of the logits.
    """
    if mode not in ("prob", "score"):
        raise ValueError(f"average_clips is {mode!r}: expected 'prob' or 'score'")
    if mode == "prob":
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores = powers / powers.sum(axis=-1, keepdims=True)
    return scores.mean(axis=-2)


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of the N rows of `scores` [N, K] whose label is among the k highest scores."""
    scores, labels = _checked(scores, labels)
    best = np.argsort(scores, axis=1, kind="stable")[:, -k:]
    return float((best == labels[:, None]).any(axis=1).mean())


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int64 [K, K]: rows are labels, columns the classes with the highest score."""
    scores, labels = _checked(scores, labels)
    predicted = np.argsort(scores, axis=1, kind="stable")[:, -1]
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


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(f"expected scores [N, K] and labels [N], N at least 1, not {scores.shape} and {labels.shape}")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"labels must lie in 0..{scores.shape[1] - 1}, not {labels.min()}..{labels.max()}")
    return scores, labels
