"""Annotation lists that are there already, and the videos or loose frames that they name, used where they lie.

A line names its video by the path below a root, with or without its ending, or by its id: the name of the file or
folder without its ending, as the published list does; Kinetics appends the seconds, as in
`0wR5jVB-WPk_000417_000427.mp4`.
"""

import contextlib
import functools
import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from r2plus1d.config.schema import ListsSource
from r2plus1d.datasets.annotations import (
    MOST_CLASSES,
    ListError,
    Sample,
    numbered,
    parse_label_map,
    read_text,
    writable,
)
from r2plus1d.datasets.manifest import VIDEO_SUFFIXES, Entry, SetAside
from r2plus1d.system.errors import MACHINE, FrameError, one_line
from r2plus1d.system.files import sha256
from r2plus1d.system.paths import in_experiment
from r2plus1d.system.pool import spread
from r2plus1d.system.progress import progress

MOST_BYTES = 1 << 28  # of a JPEG
SECONDS = re.compile(r"_[0-9]{6}_[0-9]{6}$")


def find(source: ListsSource, root: Path, workers: int | None) -> tuple[list[Entry], list[SetAside], list[str]]:
    """(rows of the manifest in the order of the lists, rows of what is set aside, class names): see
    `dispatch.bring`.

    A folder of loose frames is described by the names and sizes of its files, since reading them all would take as long
    as training. Raises ListError for a list that cannot be read, paths that leave `root`, and where nothing is found.
    """
    lists = {"train": source.train, "val": source.val, "test": source.test}
    listed = [
        _Line(split, file, number, sample)
        for split, file in lists.items()
        if file is not None
        for number, sample in _read(file, root)
    ]
    classes = _classes(source, [line.sample for line in listed])
    locate = _Locator(root, folders=source.content == "frames")
    places = [locate(line.sample.path) for line in listed]
    _check_once(listed, places)
    describe = functools.partial(
        _describe, classes=classes, root=root, frame_name=source.frame_name if locate.folders else None
    )
    tasks = [(line.split, line.sample, found) for line, found in zip(listed, places, strict=True)]
    done = list(progress(spread(describe, tasks, workers), len(tasks), "finding", "videos"))
    rows = [found for found, _ in done if found]
    aside = sorted(aside for _, aside in done if aside)
    if not rows:
        kind = "folders of frames" if locate.folders else "videos"
        raise ListError(
            f"{root}: none of the {len(listed)} {kind} listed is there; the first is {aside[0].path}; {aside[0].reason}"
            f"{in_experiment(root)}"
        )
    return rows, aside, classes


class _Line(NamedTuple):
    """A line of a list."""

    split: str
    file: str
    number: int
    sample: Sample


def _read(path: str, root: Path) -> list[tuple[int, Sample]]:
    """The samples with the numbers of their lines; absolute paths below the root become relative, ./a becomes a."""
    lines = numbered(read_text(path), path)
    for place, (number, sample) in enumerate(lines):
        if sample.path.startswith("#"):
            raise ListError(
                f"{path}, line {number}: {sample.path!r} looks like a comment; remove the line, or write ./ before it"
            )
        named = PurePosixPath(sample.path[1:-1] if re.fullmatch('".+"', sample.path) else sample.path)
        if named.is_absolute() and ".." not in named.parts:
            with contextlib.suppress(ValueError):
                named = named.relative_to(root.absolute().as_posix())
        if named.is_absolute() or ".." in named.parts:
            raise ListError(
                f"{path}, line {number}: {sample.path!r} must be a path below datasets.<name>.path, without .."
            )
        lines[place] = (number, replace(sample, path=named.as_posix()))
    return lines


def _check_once(listed: list[_Line], places: list[list[str]]) -> None:
    """Raises ListError where two lines name one video."""
    first: dict[str, _Line] = {}
    for line, found in zip(listed, places, strict=True):
        other = first.setdefault(found[0] if len(found) == 1 else line.sample.path, line)
        if other is not line:
            labels = f", with labels {other.sample.label} and {line.sample.label}: a video has one label"
            raise ListError(
                f"{other.file}, line {other.number}, and {line.file}, line {line.number}, name the same video "
                f"({line.sample.path}){labels if other.sample.label != line.sample.label else ''}; leave one of them"
            )


def _classes(source: ListsSource, samples: list[Sample]) -> list[str]:
    labels = {sample.label for sample in samples}
    count = max(labels, default=0) + 1
    if source.labels is None:
        if labels and 0 not in labels:
            raise ListError(
                f"no line of the lists has label 0 (the least is {min(labels)}): labels count from 0. Where that class "
                "has no videos, give the classes' names in datasets.<name>.source.labels"
            )
        if count > MOST_CLASSES:
            raise ListError(
                f"the lists have label {count - 1}; give the classes' names in datasets.<name>.source.labels"
            )
        return [str(label) for label in range(count)]
    classes = parse_label_map(read_text(source.labels), source.labels)
    if len(classes) < count:
        hint = "; labels count from 0, not from 1" if labels and 0 not in labels else ""
        raise ListError(f"{source.labels}: {len(classes)} classes, but the lists have label {count - 1}{hint}")
    return classes


class _Locator:
    """Path in a list -> paths below the root that it can mean. The root is searched through only if ids are used."""

    def __init__(self, root: Path, folders: bool):
        self.root, self.folders = root, folders

    def __call__(self, path: str) -> list[str]:
        place = self.root / path
        with contextlib.suppress(OSError):  # of a name that is too long, or a folder that may not be entered
            if place.is_dir() if self.folders else place.is_file():
                return [path]
        if not self.folders and (found := self._with_ending(path)):
            return found
        return [] if "/" in path else self._by_id.get(path, [])

    def _with_ending(self, path: str) -> list[str]:
        """The videos beside it whose names go on with an ending: lists of frames name the folder of each video."""
        place = self.root / path
        if place.name not in self._names(place.parent):
            return []
        return [str(PurePosixPath(path).parent / name) for name in self._names(place.parent)[place.name]]

    @functools.lru_cache(maxsize=1000)  # noqa: B019 (as long as the lists are read)
    def _names(self, folder: Path) -> dict[str, list[str]]:
        """The names of the videos in a folder, by their names without ending."""
        found: dict[str, list[str]] = {}
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(folder)):
                if Path(name).suffix.lower() in VIDEO_SUFFIXES and (folder / name).is_file():
                    found.setdefault(Path(name).stem, []).append(name)
        return found

    @functools.cached_property
    def _by_id(self) -> dict[str, list[str]]:
        places: dict[str, list[str]] = {}
        for folder, subfolders, files in os.walk(self.root):
            subfolders.sort()
            named = sorted(name for name in files if Path(name).suffix.lower() in VIDEO_SUFFIXES)
            videos = [name for name in named if os.path.isfile(os.path.join(folder, name))]  # no pipes
            for name in subfolders if self.folders else videos:
                stem = name if self.folders else Path(name).stem
                for key in {stem, SECONDS.sub("", stem)}:
                    places.setdefault(key, []).append(str(Path(folder, name).relative_to(self.root)))
        return places


def _describe(
    task: tuple[str, Sample, list[str]], classes: list[str], root: Path, frame_name: str | None
) -> tuple[Entry | None, SetAside | None]:
    """(the entry, None), or (None, why it is set aside)."""
    split, sample, places = task
    if len(places) != 1:
        reason = f"listed, and there are {len(places)} of that name" if places else "listed, but not there"
        reason += "; write / between folders" if "\\" in sample.path and not places else ""
        return None, SetAside(sample.path, split, reason)
    if not writable(places[0]):  # found by its id, in a folder of an odd name
        return None, SetAside(
            sample.path, split, f"its path is {places[0]!r}, which cannot stand in an annotation list"
        )
    path, count = root / places[0], sample.num_frames
    try:
        if frame_name is None:
            digest, size = sha256(path), path.stat().st_size
        else:
            count, sizes = survey(path, frame_name, sample.num_frames)
            digest, size = hashlib.sha256(repr(sizes).encode()).hexdigest(), sum(sizes.values())
    except (OSError, FrameError) as error:
        if isinstance(error, OSError) and error.errno in MACHINE:
            raise
        return None, SetAside(places[0], split, one_line(error))
    return Entry(places[0], classes[sample.label], split, count, size, digest), None


def survey(folder: Path, frame_name: str, listed: int = 0) -> tuple[int, dict[str, int]]:
    """(number of frames, bytes of each frame's file by its name), from names and sizes alone.

    `frame_name` is a pattern such as `img_{:05}.jpg`; `listed` is how many frames there must be and are taken, where 0
    stands for all that are there. Raises FrameError for a frame that is missing or empty.
    """
    there = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
    first = 0 if frame_name.format(0) in there else 1
    before, after = map(re.escape, re.split(r"\{.*?\}", frame_name))
    numbered = re.compile(rf"{before}\d+{after}")  # flow_x_00001.jpg beside img_00001.jpg is of another kind
    count, found = listed or max(sum(numbered.fullmatch(name) is not None for name in there), 1), {}
    for number in range(first, first + count):  # a list may say a billion: the first that is missing ends this
        name = frame_name.format(number)
        if not there.get(name):
            state = "is empty" if name in there else "is missing"
            raise FrameError(f"{name} {state}; {count} frames are {'listed' if listed else 'expected'}")
        if there[name] > MOST_BYTES:
            raise FrameError(f"{name} has {there[name]} bytes; {MOST_BYTES} are read at most")
        found[name] = there[name]
    return count, found
