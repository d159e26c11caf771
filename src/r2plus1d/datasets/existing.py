"""Annotation lists that are there already, and the videos or loose frames that they name, used where they lie.

A line names its video by the path below a root, or by its id: the name of the file or folder without its ending, as the
published list does; Kinetics appends the seconds, as in `0wR5jVB-WPk_000417_000427.mp4`.
"""

import contextlib
import functools
import hashlib
import os
import re
from pathlib import Path, PurePosixPath

from r2plus1d.config.schema import ListsSource
from r2plus1d.datasets.annotations import MOST_CLASSES, ListError, Sample, parse, parse_label_map, read_text, writable
from r2plus1d.datasets.manifest import VIDEO_SUFFIXES, Entry, SetAside
from r2plus1d.system.errors import FrameError, one_line
from r2plus1d.system.files import sha256
from r2plus1d.system.pool import spread
from r2plus1d.system.progress import progress

MOST_BYTES = 1 << 28  # of a JPEG
SECONDS = re.compile(r"_[0-9]{6}_[0-9]{6}$")


def find(source: ListsSource, root: Path, workers: int | None) -> tuple[list[Entry], list[SetAside], list[str]]:
    """(rows of the manifest in the order of the lists, rows of what is set aside, class names); see `datasets`.

    A folder of loose frames is described by the names and sizes of its files, since reading them all would take as long
    as training. Raises ListError for a list that cannot be read, paths that leave `root`, and where nothing is found.
    """
    listed = [
        (split, sample)
        for split, path in (("train", source.train), ("val", source.val), ("test", source.test))
        for sample in (_read(path) if path else [])
    ]
    classes = _classes(source, [sample for _, sample in listed])
    locate = _Locator(root, folders=source.content == "frames")
    describe = functools.partial(
        _describe, classes=classes, root=root, frame_name=source.frame_name if locate.folders else None
    )
    tasks = [(split, sample, locate(sample.path)) for split, sample in listed]
    done = list(progress(spread(describe, tasks, workers), len(tasks), "finding", "videos"))
    rows = [found for found, _ in done if found]
    aside = sorted(aside for _, aside in done if aside)
    if not rows:
        kind = "folders of frames" if locate.folders else "videos"
        raise ListError(
            f"{root}: none of the {len(listed)} {kind} listed is there; the first is {aside[0].path}; {aside[0].reason}"
        )
    return rows, aside, classes


def _read(path: str) -> list[Sample]:
    samples = parse(read_text(path), path)
    for number, sample in enumerate(samples, 1):
        place = PurePosixPath(sample.path)
        if place.is_absolute() or ".." in place.parts:
            raise ListError(
                f"{path}, line {number}: {sample.path!r} must be a path below datasets.<name>.path, without .."
            )
    return samples


def _classes(source: ListsSource, samples: list[Sample]) -> list[str]:
    count = max((sample.label for sample in samples), default=0) + 1
    if source.labels is None:
        if count > MOST_CLASSES:
            raise ListError(
                f"the lists have label {count - 1}; give the classes' names in datasets.<name>.source.labels"
            )
        return [str(label) for label in range(count)]
    classes = parse_label_map(read_text(source.labels), source.labels)
    if len(classes) < count:
        raise ListError(f"{source.labels}: {len(classes)} classes, but the lists have label {count - 1}")
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
        return [] if "/" in path else self._by_id.get(path, [])

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
        return None, SetAside(places[0], split, one_line(error))
    return Entry(places[0], classes[sample.label], split, count, size, digest), None


def survey(folder: Path, frame_name: str, listed: int = 0) -> tuple[int, dict[str, int]]:
    """(number of frames, bytes of each frame's file by its name), from names and sizes alone.

    `frame_name` is a pattern such as `img_{:05}.jpg`; `listed` is how many frames there must be and are taken, where 0
    stands for all that are there. Raises FrameError for a frame that is missing or empty.
    """
    there = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
    first = 0 if frame_name.format(0) in there else 1
    pattern = sum(Path(name).suffix == Path(frame_name).suffix for name in there)
    count, found = listed or max(pattern, 1), {}
    for number in range(first, first + count):  # a list may say a billion: the first that is missing ends this
        name = frame_name.format(number)
        if not there.get(name):
            state = "is empty" if name in there else "is missing"
            raise FrameError(f"{name} {state}; {count} frames are {'listed' if listed else 'expected'}")
        if there[name] > MOST_BYTES:
            raise FrameError(f"{name} has {there[name]} bytes; {MOST_BYTES} are read at most")
        found[name] = there[name]
    return count, found
