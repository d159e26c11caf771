"""What the stages measured, as the report takes it, with the interval of every accuracy."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from r2plus1d.config import files
from r2plus1d.config.schema import TestedRow
from r2plus1d.results.intervals import Difference, Interval, mean_class, paired, wilson
from r2plus1d.system import paths, records
from r2plus1d.system.files import must_read_json

TEXTS = dict.fromkeys(("path", "actual", "predicted", "class", "taken_for", "appearance", "motion"), str)
BASELINES = {"appearance": "ridge, thumbnail", "motion": "ridge, changes"}
BINS = 15  # of the calibration error, as in Guo et al. 2017


class Accuracy(NamedTuple):
    percent: float
    interval: Interval

    def __str__(self) -> str:
        return f"{self.percent:.2f} ({self.interval.low:.1f}-{self.interval.high:.1f})"


def share(percent: float, videos: int) -> Accuracy:
    """Of the share of so many videos that are right, in percent."""
    return Accuracy(percent, wilson(round(percent * videos / 100), videos))


def mean_over_classes(percent: float, predictions: pd.DataFrame) -> Accuracy:
    """Of a table with the columns actual and predicted, whose mean class accuracy is known."""
    return Accuracy(percent, mean_class(predictions["actual"].to_numpy(), predictions["predicted"].to_numpy()))


@dataclass(frozen=True)
class RowFigures:
    """What the stages measured for one row."""

    config: TestedRow
    test: dict  # metrics/rows/<row>/test.json
    benchmark: dict
    machine: dict
    curve: pd.DataFrame
    predictions: pd.DataFrame  # columns path, actual, predicted, probability and rank, one line per video
    one_frame: pd.DataFrame  # the same of the row trained with one frame a clip; no lines where it is not
    views: pd.DataFrame  # columns clips, crops, right and videos
    classes: pd.DataFrame  # columns class, videos, precision, recall, f1 and taken_for
    mistakes: list[dict]  # see `zoo.mistakes`
    record: dict  # of what made the weights: metrics/records/<row>/made_by_train.json, or empty

    @property
    def label(self) -> str:
        clip = self.config.clip
        kind = "video" if clip.input == "video" else self.config.resolution
        name = "custom " if self.config.row == "custom" else ""
        return f"{name}{clip.frames}x{clip.frame_interval} {kind}"

    @functools.cached_property
    def top1(self) -> Accuracy:
        return share(self.test["top1"], self.test["videos"])

    @functools.cached_property
    def top5(self) -> Accuracy:
        return share(self.test["top5"], self.test["videos"])

    @functools.cached_property
    def single_clip(self) -> Accuracy:
        return share(self.test["single_clip"]["top1"], self.test["videos"])

    @functools.cached_property
    def static(self) -> Accuracy:
        return share(self.test["static"]["top1"], self.test["videos"])

    @functools.cached_property
    def mean_class(self) -> Accuracy:
        return mean_over_classes(self.test["mean_class_accuracy"], self.predictions)

    @functools.cached_property
    def calibration(self) -> pd.DataFrame:
        """A line for each bin of probabilities that has videos: how many, their mean probability, and the share that is
        right, both in percent."""
        probability = self.predictions["probability"].to_numpy(float)
        right = (self.predictions["rank"] == 1).to_numpy()
        place = np.minimum((probability * BINS).astype(int), BINS - 1)
        lines = [(int(own.sum()), 100 * probability[own].mean(), 100 * right[own].mean()) for own in _masks(place)]
        return pd.DataFrame(lines, columns=["videos", "probability", "right"])

    @property
    def calibration_error(self) -> float:
        """The expected one, in percent: the mean over the videos of how far the probabilities of their bin are from the
        share that is right."""
        bins = self.calibration
        return float(((bins["probability"] - bins["right"]).abs() * bins["videos"]).sum() / bins["videos"].sum())


def read_row(name: str) -> RowFigures:
    """What lies in metrics/ of a row. Raises the errors of files that are missing."""
    return RowFigures(
        config=files.read_row(paths.CONFIGS, name, TestedRow),
        test=must_read_json(paths.metrics(name, "test.json")),
        benchmark=must_read_json(paths.metrics(name, "benchmark.json")),
        machine=must_read_json(paths.metrics(name, "benchmark_machine.json")),
        curve=pd.read_csv(paths.metrics(name, "curve.csv")),
        predictions=read_table(paths.metrics(name, "predictions.csv")),
        one_frame=read_table(paths.metrics(name, "one_frame.csv")),
        views=read_table(paths.metrics(name, "views.csv")),
        classes=read_table(paths.metrics(name, "per_class.csv")),
        mistakes=must_read_json(paths.metrics(name, "mistakes.json")),
        record=records.of_output("train", name, paths.weights(name)),
    )


def read_table(path: Path) -> pd.DataFrame:
    """With classes and paths as text."""
    return pd.read_csv(path, dtype=TEXTS, keep_default_na=False)


def _masks(place: np.ndarray) -> list[np.ndarray]:
    return [place == number for number in np.unique(place)]


@dataclass(frozen=True)
class Measured:
    """All that the measured part of the report is made of."""

    rows: Sequence[RowFigures]
    names: Mapping[str, str]  # in short, by row
    coverage: dict
    baselines: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["path", "actual", *BASELINES]))
    spreads: Mapping[str, str] = field(default_factory=dict)  # by row: top-1 over several seeds
    tried: str | None = None  # a table of how the row `custom` was trained so far

    def simple(self) -> dict[str, pd.DataFrame]:
        """By name the predictions (columns path, actual, predicted) of all that the rows are compared with."""
        found = {}
        for kind, name in BASELINES.items() if len(self.baselines) else ():
            found[name] = self.baselines[["path", "actual"]].assign(predicted=self.baselines[kind])
        for row in self.rows:
            if len(row.one_frame):
                found[self.one_frame(row)] = row.one_frame[["path", "actual", "predicted"]]
        return found

    def one_frame(self, row: RowFigures) -> str:
        return f"{self.names[row.config.row]}, one frame"

    def against(self, row: RowFigures) -> dict[str, Difference]:
        """By the baseline's name what the row has more on the same videos; of rows trained with one frame its own."""
        own = {self.one_frame(row), *BASELINES.values()}
        right = row.predictions.set_index("path")["rank"] == 1
        found = {}
        for name, table in self.simple().items():
            if name in own:
                theirs = (table["actual"] == table["predicted"]).to_numpy()
                found[name] = paired(theirs, right.loc[table["path"]].to_numpy())
        return found


def top1(table: pd.DataFrame) -> Accuracy:
    """Of a table with the columns actual and predicted."""
    right = int((table["actual"] == table["predicted"]).sum())
    return Accuracy(100 * right / len(table), wilson(right, len(table)))


def mean_recall(table: pd.DataFrame) -> Accuracy:
    """The mean class accuracy of such a table."""
    names = sorted({*table["actual"], *table["predicted"]})
    right = (table["actual"] == table["predicted"]).groupby(table["actual"]).mean().reindex(names, fill_value=0)
    return mean_over_classes(100 * float(right.mean()), table)
