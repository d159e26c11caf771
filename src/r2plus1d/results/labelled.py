"""Videos whose folders name their classes: how many of them a network has right."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r2plus1d.datasets.folder import form
from r2plus1d.results.figures import Accuracy, share
from r2plus1d.results.intervals import mean_class
from r2plus1d.system.errors import ConfigError, printable
from r2plus1d.system.files import write_text
from r2plus1d.zoo import accuracy
from r2plus1d.zoo.prediction import Window

PER_CLASS = "per_class.csv"
MOST_NAMED = 5  # folders that are no class


class Labelled:
    """What is found of the videos that lie in a folder named like one of the network's classes.

    Raises ConfigError where none does.
    """

    def __init__(self, videos: Sequence[Path], names: Sequence[str]):
        known = {form(name): number for number, name in enumerate(names)}
        folders = {video: Path(os.path.abspath(video)).parent.name for video in videos}  # of ../a.mp4, too
        self._labels = {video: known[form(name)] for video, name in folders.items() if form(name) in known}
        self._others = sorted({name for name in folders.values() if form(name) not in known})
        if not self._labels:
            raise ConfigError(
                f"--labelled: no video lies in a folder that is named like a class ({_few(sorted(names))}), but in "
                f"{_few(self._others)}"
            )
        self._names, self._found = names, dict[Path, np.ndarray]()

    def actual(self, video: Path) -> str:
        """The name of the video's class; empty where that is not known."""
        return self._names[self._labels[video]] if video in self._labels else ""

    def add(self, video: Path, windows: Sequence[Window]) -> None:
        """Of several windows the mean of their probabilities counts."""
        if video in self._labels:
            self._found[video] = np.mean([window.probabilities for window in windows], axis=0)

    def told(self, out: Path) -> str:
        """The accuracies in words; PER_CLASS in the folder has each class."""
        if not self._found:
            return "None of the labelled videos could be read."
        scores, labels = np.stack([*self._found.values()]), np.array([self._labels[video] for video in self._found])
        top1 = share(100 * accuracy.top_k_accuracy(scores, labels, 1), len(labels))
        mean = _mean_class(accuracy.best(scores), labels)
        table = accuracy.per_class(scores, labels, self._names)
        write_text(out / PER_CLASS, table.to_csv(index=False, lineterminator="\n"))
        classes = len(np.unique(labels))
        others = f"; of no class: the videos in {_few(self._others)}" if self._others else ""
        return (
            f"top-1 {top1}, mean class {mean} on {len(labels)} videos of {classes} classes, in brackets the 95% "
            f"interval; each class: {out / PER_CLASS}{others}"
        )


def _mean_class(taken: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Over the classes of the labels, of which a wrong answer need not be one."""
    mean = float(np.mean([(taken[labels == k] == k).mean() for k in np.unique(labels)]))
    return Accuracy(100 * mean, mean_class(labels, taken, shown_alone=True))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return printable(", ".join(names[:MOST_NAMED])) + more
