"""How sure an accuracy is: 95% intervals, and what separates two networks that saw the same videos.

All accuracies and interval ends are in percent. Shapes: N videos.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # it loads `stats`, which takes a second, when that is first used

LEVEL = 0.95
RESAMPLES = 1999  # of the bootstrap


class Interval(NamedTuple):
    low: float
    high: float


class Difference(NamedTuple):
    """Of two networks on the same videos, the second minus the first."""

    points: float
    interval: Interval
    only_first: int  # videos that the first network alone has right
    only_second: int
    p: float  # of McNemar's exact test that both are right equally often


class MeanDifference(NamedTuple):
    """Of two recipes that were trained with the same seeds, the second minus the first."""

    points: float
    interval: Interval
    p: float  # of the paired t test that both have the same mean
    seeds: int


def wilson(right: int, videos: int) -> Interval:
    """Of a share of right answers. Source: Wilson 1927, by scipy. Raises ValueError unless 0 <= right <= videos."""
    found = scipy.stats.binomtest(right, videos).proportion_ci(LEVEL, method="wilson")
    return Interval(100 * float(found.low), 100 * float(found.high))


def wilson_of_share(share: float, videos: int) -> Interval:
    """The same of a share of 0 to 1 that so many videos would have, whole or not: to plan with, since scipy counts."""
    pull = scipy.stats.norm.isf((1 - LEVEL) / 2) ** 2 / videos
    centre, half = share + pull / 2, math.sqrt(pull * share * (1 - share) + pull**2 / 4)
    low, high = (centre - half) / (1 + pull), (centre + half) / (1 + pull)
    return Interval(100 * max(0.0, float(low)), 100 * min(1.0, float(high)))


def widest(videos: int) -> float:
    """How far the interval of a share of so many videos reaches to each side, in points, where it is widest."""
    low, high = wilson(videos // 2, videos)
    return (high - low) / 2


def mean_class(actual: np.ndarray, predicted: np.ndarray, seed: int = 0, shown_alone: bool = False) -> Interval:
    """Of the mean over the classes of the share of their videos that are right: percentile bootstrap over videos.

    `actual` and `predicted` are [N], of anything that can be compared. The same seed gives the same interval. A class
    of which a resample has no video counts there as in `zoo.accuracy`: as nothing right where it is predicted, else
    not at all; with `shown_alone` never.
    """
    if len(actual) < 2:
        return Interval(0.0, 100.0)  # nothing to draw from
    names, codes = np.unique(np.concatenate([actual, predicted]), return_inverse=True)
    labels, taken = np.split(codes, 2)
    count = len(names)

    def recall(videos: np.ndarray, axis: int) -> np.ndarray:
        del axis  # the last one
        flat = videos.reshape(-1, videos.shape[-1])
        shift = count * np.arange(len(flat))[:, None]

        def by_class(of: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
            drawn = None if weights is None else weights[flat].ravel()
            return np.bincount((of[flat] + shift).ravel(), drawn, count * len(flat)).reshape(-1, count)

        shown, right = by_class(labels), by_class(labels, labels == taken)
        share = np.divide(right, shown, out=np.zeros(right.shape), where=shown > 0)
        counted = shown if shown_alone else shown + by_class(taken)
        return (share.sum(axis=1) / (counted > 0).sum(axis=1)).reshape(videos.shape[:-1])

    batch = max(1, 4_000_000 // len(labels))
    drawn = scipy.stats.bootstrap(
        (np.arange(len(labels)),),
        recall,
        n_resamples=RESAMPLES,
        batch=batch,
        vectorized=True,
        axis=-1,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(100 * float(drawn.low), 100 * float(drawn.high))


def paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """Of two bool [N]: which of the same videos each network has right.

    The interval is Bonett and Price's for paired shares (2012): the normal one for the mean of the videos' differences
    with two more videos, one that each network alone has right, so that it never has no width.
    Raises ValueError for no videos, or arrays of different shapes.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"expected two arrays [N] of the same videos, not {first.shape} and {second.shape}")
    differences = second.astype(int) - first.astype(int)
    only_first, only_second = int((differences < 0).sum()), int((differences > 0).sum())
    more = np.append(differences, [1, -1])
    low, high = scipy.stats.norm.interval(LEVEL, more.mean(), scipy.stats.sem(more, ddof=0))
    torn = only_first + only_second
    p = float(scipy.stats.binomtest(only_first, torn).pvalue) if torn else 1.0
    ends = Interval(max(-100.0, 100 * float(low)), min(100.0, 100 * float(high)))
    return Difference(100 * float(differences.mean()), ends, only_first, only_second, p)


def over_seeds(first: Sequence[float], second: Sequence[float], videos: int) -> MeanDifference:
    """Of accuracies in percent on so many videos, by seed, at least two. Interval and p are Student's for the mean of
    the differences.

    Accuracies are whole numbers of videos, so a few differences may be equal by chance: their deviation is taken to be
    that of rounding two accuracies at least.
    """
    differences, count = np.subtract(second, first), len(first)
    mean, rounding = float(differences.mean()), 100 / videos / math.sqrt(6)
    error = max(float(differences.std(ddof=1)), rounding) / math.sqrt(count)
    low, high = scipy.stats.t.interval(LEVEL, count - 1, mean, error)
    p = 2 * scipy.stats.t.sf(abs(mean) / error, count - 1)
    return MeanDifference(mean, Interval(float(low), float(high)), float(p), count)


def adjusted(ps: Sequence[float]) -> list[float]:
    """Of one test or more: below 0.05 stands what 5% at most of is by chance. Source: Benjamini and Hochberg 1995."""
    return scipy.stats.false_discovery_control(ps).tolist()
