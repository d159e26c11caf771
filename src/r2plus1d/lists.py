"""Annotation lists in MMAction's formats, and the label map.

Frames list: `path total_frames label`; videos list: `path label`. One video a line; the path may contain blanks, since
the numbers stand last. Labels count the class names in sorted order from 0.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from r2plus1d.errors import UserError


@dataclass(frozen=True)
class Sample:
    path: str  # of the video, below data/<dataset>/videos; also its name among the packed frames
    num_frames: int
    label: int


class ListError(UserError, ValueError):
    """Lists that cannot be used; the message holds the offending lines."""


def format_frames(samples: Iterable[Sample]) -> str:
    return "".join(f"{s.path} {s.num_frames} {s.label}\n" for s in samples)


def format_videos(samples: Iterable[Sample]) -> str:
    return "".join(f"{s.path} {s.label}\n" for s in samples)


def parse_frames(text: str, name: str) -> list[Sample]:
    """Raises ListError with the line's number for a line that is not `path total_frames label`."""
    samples = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.rsplit(maxsplit=2)
        if len(parts) != 3 or not all(p.isascii() and p.isdigit() for p in parts[1:]):
            raise ListError(f"{name}, line {number}: expected `path total_frames label`, found {line!r}")
        samples.append(Sample(parts[0], int(parts[1]), int(parts[2])))
    return samples


def parse_videos(text: str, name: str) -> list[tuple[str, int]]:
    """(path, label) pairs. Raises ListError with the line's number for a line that is not `path label`."""
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        path, _, label = line.rstrip().rpartition(" ")
        if not path or not (label.isascii() and label.isdigit()):
            raise ListError(f"{name}, line {number}: expected `path label`, found {line!r}")
        pairs.append((path, int(label)))
    return pairs


def read_samples(folder: Path, dataset: str, split: str) -> list[Sample]:
    path = folder / list_name(dataset, split, "rawframes")
    try:
        return parse_frames(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ListError(f"{path}: {error.strerror}; run `dvc repro build_lists`") from error


def list_name(dataset: str, split: str, kind: str) -> str:
    return f"{dataset}_{split}_list_{kind}.txt"


def check(splits: dict[str, list[Sample]], classes: list[str], content: dict[str, str], available: set[str]) -> None:
    """Refuses lists that would spoil a result.

    `splits` are the samples of `train` and `val`, `classes` the label map, `content` each path's sha256, `available`
    the paths that frames or videos exist for. Raises ListError naming every offending line (the first ten of a kind).
    """
    problems: list[str] = []

    def complain(what: str, lines: list[str]) -> None:
        shown = lines[:10] + ([f"... and {len(lines) - 10} more"] if len(lines) > 10 else [])
        problems.extend([f"{what}:", *(f"  {line}" for line in shown)] if lines else [])

    lines = [(split, n, s) for split, samples in splits.items() for n, s in enumerate(samples, 1)]

    def where(bad) -> list[str]:
        return [f"{split} list, line {n}: {s.path} {s.num_frames} {s.label}" for split, n, s in lines if bad(s)]

    complain(f"unknown label (there are {len(classes)} classes)", where(lambda s: not 0 <= s.label < len(classes)))
    complain("missing file", where(lambda s: s.path not in available))
    complain("zero frames", where(lambda s: s.num_frames < 1))
    twice = {path for path, times in Counter(s.path for _, _, s in lines).items() if times > 1}
    complain("video listed twice", where(lambda s: s.path in twice))
    trained = {content.get(s.path): s.path for s in splits["train"]}
    complain(
        "the same video in train and val",
        [
            f"{s.path} (val) = {trained[content.get(s.path)]} (train)"
            for s in splits["val"]
            if content.get(s.path) in trained
        ],
    )
    counts = Counter(s.label for s in splits["train"])
    complain("class with no training video", [name for label, name in enumerate(classes) if not counts[label]])
    complain("empty list", [split for split, samples in splits.items() if not samples])
    if problems:
        raise ListError("the annotation lists cannot be used\n" + "\n".join(problems))
