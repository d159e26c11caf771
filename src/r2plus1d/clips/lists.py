"""A row's annotation lists: where each lies, reading them, and the check that refuses what would spoil a result."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from r2plus1d.datasets.annotations import ListError, Sample, parse, read_text
from r2plus1d.system.errors import one_line

SPLITS = ("train", "val", "test")  # the last one only where the data has it
RATES = "frame_rates.csv"


def read_samples(folder: Path, dataset: str, split: str) -> list[Sample]:
    path = folder / list_name(dataset, split, "rawframes")
    if not path.is_file():
        if split == "test":
            return []
        raise ListError(f"{path} is missing; run `dvc repro build_lists`")
    text = read_text(path)
    return parse(text, str(path)) if text else []


def measured(splits: Mapping[str, Sequence[Sample]]) -> str:
    """The split that the tables measure on: test where there is one, else val."""
    return "test" if splits["test"] else "val"


def read_rates(folder: Path) -> dict[str, float]:
    """Frames a second of each video, by its path; 0 where nothing tells."""
    path = folder / RATES
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype={"path": str, "rate": float})
        return dict(zip(table["path"], table["rate"].tolist(), strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise ListError(f"{path}: {one_line(error)}; run `dvc repro build_lists`") from error


def list_name(dataset: str, split: str, kind: str) -> str:
    return f"{dataset}_{split}_list_{kind}.txt"


def check(
    splits: dict[str, list[Sample]],
    classes: list[str],
    content: dict[str, str],
    available: set[str],
    needed: Sequence[str] = ("val",),
    lost: Sequence[str] = (),
) -> None:
    """Refuses lists that would spoil a result.

    `splits` are the samples of `train`, `val` and `test`, `classes` the label map, `content` each path's sha256,
    `available` the paths that frames or videos exist for. The training list may be empty: finished weights can be
    tested without; a subset has no videos of some classes in any list. Those of `needed` may not be empty; `lost` are
    classes whose videos were found and of which none can be read.
    Raises ListError naming every offending line (the first ten of a kind).
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
    labels: dict[str, dict[int, str]] = {}
    for _, _, s in lines:
        labels.setdefault(content.get(s.path, s.path), {}).setdefault(s.label, s.path)
    torn = [" = ".join(f"{path} ({label})" for label, path in by.items()) for by in labels.values() if len(by) > 1]
    complain("the same video under two labels", torn)
    complain("class of which no video can be read (why: data/<dataset>/unreadable.csv)", list(lost))
    for one, other in itertools.combinations(SPLITS, 2):
        there = {content.get(s.path): s.path for s in splits[one]}
        same = [(s.path, there[content.get(s.path)]) for s in splits[other] if content.get(s.path) in there]
        complain(f"the same video in {one} and {other}", [f"{a} ({other}) = {b} ({one})" for a, b in same])
    counts = Counter(s.label for s in splits["train"])
    if splits["train"]:
        measured = splits["val"] + splits["test"]
        untrained = {s.label for s in measured if 0 <= s.label < len(classes) and not counts[s.label]}
        complain("class with no training video", [classes[label] for label in sorted(untrained)])
    complain("empty list", [split for split in needed if not splits[split]])
    if problems:
        raise ListError("the annotation lists cannot be used\n" + "\n".join(problems))
