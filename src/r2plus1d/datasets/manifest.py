"""The tables that `download` writes and the later stages read.

manifest.csv has one line per video, sorted by path or in the order of existing lists. set_aside.csv has one line per
file that was found or listed but not taken. probe.csv and looks.csv have one line per video that decodes whole,
unreadable.csv one per video that no decoder can read. scan.csv has one line per file in the folder of the user's own
videos. suspected.csv has one line per pair of videos in two splits that seem to be of one recording.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from r2plus1d.system.errors import UserError, one_line
from r2plus1d.system.files import replacing, sha256

VIDEO_SUFFIXES = {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
VIDEO_SUFFIXES |= {".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"}


class Entry(NamedTuple):
    """A video of the manifest."""

    path: str  # below the folder of videos
    label: str  # class name
    split: str  # train, val or test; empty where `build_lists` divides the videos
    frames: int  # what an existing list says, else 0
    bytes: int
    sha256: str


class SetAside(NamedTuple):
    """A file that was not taken."""

    path: str
    split: str  # of a listed video, else empty
    reason: str


class Unreadable(NamedTuple):
    """A video that cannot be decoded."""

    path: str
    reason: str


class Probed(NamedTuple):
    """A video that decodes whole."""

    path: str
    frames: int
    height: int
    width: int
    rate: float  # frames a second; 0: nothing tells


class Looks(NamedTuple):
    """What a video looks like: see `video.looks`."""

    path: str
    looks: str


class Suspected(NamedTuple):
    """Two videos, in two splits, that seem to be of one recording."""

    train: str  # of the two splits the first one's
    other: str
    split: str  # of the other
    reason: str


class Found(NamedTuple):
    """A file in the folder of the user's own videos."""

    path: str
    sha256: str


TABLES = (Entry, SetAside, Unreadable, Probed, Looks, Suspected, Found)
TYPES = dict.fromkeys(("frames", "bytes", "height", "width"), np.int64) | dict.fromkeys(
    ("path", "label", "split", "sha256", "reason", "looks", "train", "other"), str
)


class DataError(UserError):
    """Videos that cannot be brought; the message names the place and the way out."""


def entry(file: Path, root: Path, label: str, split: str) -> Entry:
    """Of a file below `root`."""
    return Entry(str(file.relative_to(root)), label, split, 0, file.stat().st_size, sha256(file))


def write_table(path: Path, rows: list, kind: type[NamedTuple]) -> None:
    """`rows` of one `kind` of the records above."""
    with replacing(path) as partial:
        pd.DataFrame(rows, columns=kind._fields).to_csv(partial, index=False, lineterminator="\n")


def read_table(path: Path) -> pd.DataFrame:
    """One of the tables above. Raises DataError for one that `write_table` did not write so."""
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=TYPES)
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: damaged ({one_line(error, 200)}); run `dvc repro`") from error
    if tuple(table.columns) not in [kind._fields for kind in TABLES]:
        raise DataError(f"{path}: damaged (the columns are {', '.join(table.columns)[:200]}); run `dvc repro`")
    return table
