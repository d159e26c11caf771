"""What `r2plus1d predict` writes: a table of all videos, and a picture of each."""

import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from r2plus1d.results.labelled import PER_CLASS, Labelled
from r2plus1d.results.plots import save_figure, styled
from r2plus1d.system.errors import UserError, printable
from r2plus1d.system.files import replacing, write_text
from r2plus1d.system.progress import progress, saved, say
from r2plus1d.video.decoding import VideoError
from r2plus1d.video.looks import Spread
from r2plus1d.zoo.prediction import Looker, PredictionError, Window, window_frames

COLUMNS = ("path", "start", "end", "rank", "class", "probability")
SECONDS = 5  # after which the table is written again
SELDOM = 20  # times as long as the last writing took, before the next one of features
LINES = 6  # classes of a timeline
DOTTED = 60  # windows, up to which each has its dot
LONGEST = 200  # characters of a picture's name, without its ending


class BrokenVideosError(UserError):
    """Some of the videos could not be read; the others are done."""


class Table:
    """predictions.csv, written every few seconds."""

    def __init__(self, out: Path, columns: Sequence[str] = COLUMNS):
        self.file, self.columns = out / "predictions.csv", columns
        for file in (self.file, out / PER_CLASS):  # of an earlier call
            file.unlink(missing_ok=True)
        self._lines: list[tuple] = []
        self._written = time.monotonic()

    def add(self, lines: Sequence[tuple]) -> None:
        self._lines += lines
        if time.monotonic() - self._written > SECONDS:
            self.write()

    def write(self) -> None:
        if self._lines:
            table = pd.DataFrame(self._lines, columns=list(self.columns))
            write_text(self.file, table.to_csv(index=False, lineterminator="\n"))
            saved(f"what was found is in {self.file}")
        self._written = time.monotonic()


def predict(
    videos: Sequence[Path],
    looker: Looker,
    names: Sequence[str],
    top: int,
    seconds: float | None,
    stride: float | None,
    out: Path,
    pictures: bool = True,
    labelled: Labelled | None = None,
) -> None:
    """Writes below `out` predictions.csv and, with `pictures`, one of each video; prints the best classes, and how many
    of the `labelled` videos are right. What is done stays when it is interrupted.

    Raises BrokenVideosError at the end, where some videos could not be read.
    """
    table, broken, files = Table(out, COLUMNS if labelled is None else (*COLUMNS, "actual")), 0, _names(videos)
    try:
        shown = videos if seconds is not None else progress(videos, len(videos), "predicting", "videos")
        for video in shown:
            strip: Spread[np.ndarray] = Spread()
            more = () if labelled is None else (labelled.actual(video),)
            try:
                windows = list(_windows(video, looker, names, top, (seconds, stride), table, strip, more))
            except (VideoError, PredictionError) as error:
                broken += 1
                print(f"{printed_path(video)}: {error}", file=sys.stderr, flush=True)
                continue
            if labelled is not None:
                labelled.add(video, windows)
            if pictures:
                picture(windows, strip.kept(), names, top, printed_path(Path(video.name)), out / f"{files[video]}.png")
    finally:
        table.write()
    if broken < len(videos):
        done = len(videos) - broken
        each = f"each of {done} videos" if done > 1 else "the video"
        say(f"{table.file} and a picture of {each}" if pictures else str(table.file))
    if labelled is not None:
        say(labelled.told(out))
    if broken:
        raise BrokenVideosError(f"{broken} of {len(videos)} videos could not be read: see above")


def features(videos: Sequence[Path], looker: Looker, seconds: float | None, stride: float | None, out: Path) -> None:
    """Writes below `out` features.npy, float32 [N, C], and features.csv, with path, start and end of each line; where
    pyarrow is there, features.parquet with both. What is done stays when it is interrupted.

    Raises BrokenVideosError at the end, where some videos could not be read.
    """
    table, broken = _Features(out), 0
    try:
        for video in progress(videos, len(videos), "features", "videos"):
            try:
                for found in looker.features(video, seconds, stride):
                    table.add(shown_path(video), *found)
            except (VideoError, PredictionError) as error:
                broken += 1
                print(f"{printed_path(video)}: {error}", file=sys.stderr, flush=True)
    finally:
        table.write()
    if table.lines:
        files = ", ".join(str(out / name) for name in table.names)
        say(f"{len(table.lines)} lines of {len(table.found[0])} numbers: {files}")
    if broken:
        raise BrokenVideosError(f"{broken} of {len(videos)} videos could not be read: see above")


class _Features:
    """The files of `features`, written now and then: the more there is in them, the more seldom."""

    def __init__(self, out: Path):
        self.out, self.names = out, ["features.npy", "features.csv"]
        if importlib.util.find_spec("pyarrow"):
            self.names.append("features.parquet")
        for ending in ("npy", "csv", "parquet"):
            (out / f"features.{ending}").unlink(missing_ok=True)  # of an earlier call
        self.lines: list[tuple[str, float, float]] = []
        self.found: list[np.ndarray] = []
        self._next = time.monotonic() + SECONDS

    def add(self, path: str, start: float, end: float, vector: np.ndarray) -> None:
        self.found.append(vector)
        self.lines.append((path, start, end))
        if (began := time.monotonic()) > self._next:
            self.write()
            self._next = time.monotonic() + max(SECONDS, SELDOM * (time.monotonic() - began))

    def write(self) -> None:
        if not self.lines:
            return
        table, found = pd.DataFrame(self.lines, columns=COLUMNS[:3]), np.stack(self.found[: len(self.lines)])
        with replacing(self.out / "features.npy") as partial, open(partial, "wb") as file:
            np.save(file, found)
        write_text(self.out / "features.csv", table.to_csv(index=False, lineterminator="\n"))
        if "features.parquet" in self.names:
            with replacing(self.out / "features.parquet") as partial:
                table.assign(features=list(found)).to_parquet(partial, index=False)
        saved(f"what was found is in {self.out}")


def _windows(
    video: Path,
    looker: Looker,
    names: Sequence[str],
    top: int,
    lengths: tuple[float | None, float | None],
    table: Table,
    strip: Spread[np.ndarray],
    more: tuple[str, ...],
) -> Iterator[Window]:
    """Each window when its lines, which end with `more`, are added and told, without its frames, which `strip` is
    shown: all of a window alone, else the middle ones."""
    found, name = looker.measure(video), shown_path(video)
    total = len(window_frames(found.frames, found.rate, *lengths))
    windows = looker.windows(video, *lengths, found=found)
    shown = windows if total == 1 else progress(windows, total, f"predicting {video.name}", "windows")
    for number, window in enumerate(shown):
        best = window.best(top)
        shares = [round(float(window.probabilities[k]), 4) for k in best]
        table.add(
            [
                (name, window.start, window.end, n + 1, names[k], share, *more)
                for n, (k, share) in enumerate(zip(best, shares, strict=True))
            ]
        )
        told = ", ".join(f"{names[k]} {100 * window.probabilities[k]:.1f}%" for k in best)
        said = printed_path(video)
        say(f"{said}: {told}" if total == 1 else f"{said} {window.start:.1f} to {window.end:.1f} s: {told}")
        frames = window.frames if total == 1 else window.frames[len(window.frames) // 2][None]
        for place, frame in enumerate(frames):
            strip.show(number + place, frame.copy())
        yield replace(window, frames=window.frames[:0].copy())


def shown_path(path: Path) -> str:
    """As text that can be written, whatever bytes the name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printed_path(path: Path) -> str:
    """As one line of a terminal, which obeys nothing in it."""
    return printable(shown_path(path)).replace("\n", "\\n")


@styled
def picture(
    windows: Sequence[Window], strip: Sequence[np.ndarray], names: Sequence[str], top: int, title: str, path: Path
) -> None:
    """A strip of frames; below it the top classes as bars, or of several windows as lines over time."""
    figure = Figure((9, 3.4 + 0.1 * min(top, len(names))), layout="constrained")
    rows = figure.add_gridspec(2, len(strip), height_ratios=(1, 1.6))
    for place, frame in enumerate(strip):
        axes = figure.add_subplot(rows[0, place])
        axes.imshow(frame)
        axes.set_axis_off()
    axes = figure.add_subplot(rows[1, :])
    if len(windows) == 1:
        shares = 100 * windows[0].probabilities
        best = windows[0].best(top)[::-1]
        bars = axes.barh(range(len(best)), shares[best])
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
        axes.set_yticks(range(len(best)), [names[k] for k in best])
        axes.set(xlim=(0, 108), xlabel="probability (%)")
    else:
        lines = 100 * np.stack([window.probabilities for window in windows])
        middles = [(window.start + window.end) / 2 for window in windows]
        style: dict[str, Any] = {"marker": "o", "markersize": 3} if len(windows) < DOTTED else {}
        chosen = np.argsort(-lines.max(axis=0), kind="stable")[:LINES].tolist()
        drawn = [axes.plot(middles, lines[:, k], **style)[0] for k in chosen]
        axes.legend(
            drawn, [names[k] for k in chosen], frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1)
        )
        axes.set(xlim=(0, windows[-1].end), ylim=(0, 102), xlabel="seconds", ylabel="probability (%)")
    figure.suptitle(title)
    save_figure(figure, path)


def _names(videos: Sequence[Path]) -> dict[Path, str]:
    """A file name for each picture, without its ending: the video's own, with a number where two have the same."""
    found: dict[Path, str] = {}
    taken: set[str] = set()
    for video in videos:
        name = stem = shown_path(Path(video.stem)).encode()[:LONGEST].decode(errors="ignore")
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem} ({number})"
        taken.add(name.casefold())
        found[video] = name
    return found
