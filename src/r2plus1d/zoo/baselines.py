"""What needs no network and no GPU: a ridge classifier on a small picture, and one on a map of what moves.

A row that does not beat them has learned nothing that its videos do not show at a glance. Shapes: N videos, F numbers
of each.
"""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from r2plus1d.clips.items import Reader
from r2plus1d.datasets.annotations import Sample
from r2plus1d.system.pool import spread
from r2plus1d.system.progress import progress

SIDE = 16  # of the picture and of the map
PAIRS = 8  # of successive frames, over the whole video
PENALTIES = np.logspace(-1, 6, 15)  # of which leave-one-out over the training videos chooses
MOST = 20_000  # training videos, at even distances in the list: more take hours, and such classifiers no further
KINDS = ("appearance", "motion")
COLUMNS = ("path", "actual", *KINDS)


def baselines(
    train: Sequence[Sample], measured: Sequence[Sample], reader: Reader, classes: Sequence[str], workers: int | None
) -> pd.DataFrame:
    """A line per measured video: its path, its class, and the class that each classifier of KINDS takes it for. No
    lines where there is nothing to train on. The same on every run: nothing is drawn."""
    if len({sample.label for sample in train}) < 2:
        return pd.DataFrame(columns=COLUMNS)
    train = [train[n] for n in np.unique(np.linspace(0, len(train) - 1, min(MOST, len(train))).astype(int))]
    samples = [*train, *measured]
    looks = spread(functools.partial(look, reader=reader), samples, workers)
    seen = list(progress(looks, len(samples), "baselines", "videos"))
    labels, found = np.array([sample.label for sample in train]), {}
    for number, kind in enumerate(KINDS):
        numbers = np.stack([of[number] for of in seen])
        found[kind] = predicted(numbers[: len(train)], labels, numbers[len(train) :])
    lines = [
        (sample.path, classes[sample.label], *(classes[found[kind][n]] for kind in KINDS))
        for n, sample in enumerate(measured)
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def look(sample: Sample, reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    """float32 ([3 * SIDE * SIDE], [SIDE * SIDE]): the middle frame, and the mean over PAIRS of what changes from one
    frame to the next."""
    count = sample.num_frames
    firsts = ((np.arange(PAIRS) + 0.5) / PAIRS * (count - 1)).astype(np.int64)
    wanted = [count // 2, *firsts, *np.minimum(firsts + 1, count - 1)]
    distinct, places = np.unique(wanted, return_inverse=True)
    frames = reader.read(sample.path, distinct, count)[places]
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames[1:]]
    changes = [_small(cv2.absdiff(*pair)) for pair in zip(grey[:PAIRS], grey[PAIRS:], strict=True)]
    return _small(frames[0]).ravel(), np.mean(changes, axis=0, dtype=np.float32).ravel()


def predicted(train: np.ndarray, labels: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """float32 [N, F] and int64 [N] to train on, float32 [M, F] -> int64 [M]."""
    with threadpool_limits(1):  # the order of sums does not depend on the number of cores
        model = make_pipeline(StandardScaler(), RidgeClassifierCV(PENALTIES))
        return model.fit(train.astype(np.float64), labels).predict(measured.astype(np.float64))


def _small(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
