"""Which clips were cut from one recording, and a division of videos that keeps them together.

A recording on both sides of a split makes any figure worthless: the network is asked about what it was trained on.
Names tell where they follow Kinetics (`ID_000017_000027.mp4`) or UCF101 (`v_Name_g01_c02.avi`); pictures tell where a
frame of one clip is nearly one of another's.
"""

import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from r2plus1d.datasets.manifest import DataError, Suspected
from r2plus1d.system.errors import one_line
from r2plus1d.system.progress import progress

AUTO, NONE = "auto", "none"
NAMED = (re.compile(r"(.{11})_\d{6}_\d{6}"), re.compile(r"(v_.+_g\d+)_c\d+"))  # Kinetics, UCF101
WORDS = 4  # of 64 bits, that say which bits of a look tell; as many hold the bits: see `video.looks`
# Chosen on 154 real clips: at most this share of the bits that tell in both frames may differ, and so many must tell.
# Found are 4 of 6 pairs of clips from one video of the web, and none across two places with a fixed camera; at one such
# place, where nothing else can tell, 9 pairs of 1,740.
NEAR, LEAST = 1 / 8, 112
AT_ONCE = 2**21  # pairs of frames that are compared in memory
MOST_LISTED = 10_000  # suspected pairs


def by_rule(paths: Sequence[str], rule: str, others: Iterable[str] = ()) -> dict[str, str]:
    """The recording of each video, as far as `rule` tells, by path: `auto`, `none`, a .csv file with the columns `path`
    and `group`, or a pattern that is searched for in the path (what its parentheses hold, or all of it). The table may
    name `others` too: files that were set aside.

    Raises DataError for a rule that tells nothing of these videos, or of which nothing can be made.
    """
    if rule == NONE:
        return {}
    if rule == AUTO:
        matches = {path: [pattern.fullmatch(PurePosixPath(path).stem) for pattern in NAMED] for path in paths}
        return {path: match[1] for path, found in matches.items() for match in found if match}
    found = _by_table(Path(rule), paths, others) if rule.lower().endswith(".csv") else _by_pattern(rule, paths)
    if not found:
        raise DataError(f"datasets.folder.source.group is {rule!r}, which tells nothing of any of {len(paths)} videos")
    return found


def _by_pattern(rule: str, paths: Sequence[str]) -> dict[str, str]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise DataError(f"datasets.folder.source.group is {rule!r}: no regular expression ({error})") from error
    found = {path: pattern.search(path) for path in paths}
    return {path: "\n".join(m.groups("") or [m[0]]) for path, m in found.items() if m}


def _by_table(file: Path, paths: Sequence[str], others: Iterable[str]) -> dict[str, str]:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        groups = dict(zip(table["path"], table["group"], strict=True))
    except KeyError as error:
        raise DataError(f"{file}: no column {error}; expected `path` and `group`") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: {one_line(error)}") from error
    if unknown := sorted(groups.keys() - {*paths, *others}):
        raise DataError(f"{file}: {unknown[0]!r} is none of the videos (paths start below the folder of videos)")
    return {path: groups[path] for path in paths if groups.get(path)}


class Looked:
    """The looks of some videos, for comparisons."""

    def __init__(self, looks: Mapping[str, str]):
        self.paths = sorted(path for path, text in looks.items() if text)
        words = [np.frombuffer(bytes.fromhex(looks[path]), np.uint64).reshape(-1, 2 * WORDS) for path in self.paths]
        self.words = np.concatenate([np.empty((0, 2 * WORDS), np.uint64), *words])
        counts = [len(own) for own in words]
        self.owner = np.repeat(np.arange(len(self.paths)), counts)
        self.first = np.r_[0, np.cumsum(counts, dtype=np.int64)]  # of each video's looks; behind the last, their number


def alike(one: Looked, other: Looked) -> Iterator[tuple[str, str, float]]:
    """(path, path, share) of every pair of which two frames are nearly the same: the least share of the bits that tell
    in which they differ. Of a set of videos with itself each pair once, the smaller path first."""
    same = one is other
    step = max(1, AT_ONCE // max(1, len(other.words)) // 8)  # videos; of those there are at most 8 looks each
    starts = range(0, len(one.paths) if len(other.words) else 0, step)
    for start in progress(starts, len(starts), "comparing pictures", "parts"):
        low, high = one.first[start], one.first[min(start + step, len(one.paths))]
        column = low if same else 0
        rows, columns, shares = _near(one.words[low:high], other.words[column:])
        pairs = np.stack([one.owner[low + rows], other.owner[column + columns]], axis=1)
        order = np.lexsort((shares, pairs[:, 1], pairs[:, 0]))
        pairs, shares = pairs[order], shares[order]
        least = np.r_[True, (np.diff(pairs, axis=0) != 0).any(axis=1)][: len(pairs)]
        for (a, b), share in zip(pairs[least].tolist(), shares[least].tolist(), strict=True):
            if not same or a < b:
                yield one.paths[a], other.paths[b], share


def _near(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and shares of the pairs of looks that are nearly the same."""
    tell = np.zeros((len(one), len(other)), np.uint16)
    differ = np.zeros_like(tell)
    for word in range(WORDS):
        both = one[:, None, word] & other[None, :, word]
        tell += np.bitwise_count(both)
        differ += np.bitwise_count((one[:, None, WORDS + word] ^ other[None, :, WORDS + word]) & both)
    rows, columns = np.nonzero((tell >= LEAST) & (differ <= NEAR * tell))
    return rows, columns, differ[rows, columns] / tell[rows, columns]


def grouped(paths: Sequence[str], known: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The videos in groups that belong together: of one `known` recording, or linked by `pairs`. All sorted."""
    parent = {path: path for path in paths}

    def root(path: str) -> str:
        while parent[path] != path:
            parent[path] = path = parent[parent[path]]
        return path

    first: dict[str, str] = {}
    named = [(path, first.setdefault(group, path)) for path, group in sorted(known.items())]
    for a, b in itertools.chain(named, pairs):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    groups = defaultdict(list)
    for path in sorted(paths):
        groups[root(path)].append(path)
    return list(groups.values())


def divide(
    labels: Mapping[str, str], classes: Sequence[str], groups: Iterable[Sequence[str]], val_share: float, seed: int
) -> tuple[dict[str, str], list[str]]:
    """(train or val for each video, the classes that have no video for val): about `val_share` of every class to val.

    `labels` are the classes by path. Class by class, the groups are gone through in an order drawn by the seed and
    their paths, so that videos that come later move few others; one goes to val unless a class of its videos would then
    have more than its share there. A class that got none gets its smallest group that leaves a training video to every
    class.
    """
    videos = {group[0]: list(group) for group in groups}
    first_of = {path: first for first, group in videos.items() for path in group}
    own = {label: sorted(path for path in labels if labels[path] == label) for label in classes}
    counts = {label: len(paths) for label, paths in own.items() if paths}
    share = {label: min(count - 1, max(1, round(count * val_share))) for label, count in counts.items()}
    drawn: dict[str, int] = dict.fromkeys(classes, 0)
    chosen: set[str] = set()

    def fits(first: str, most: Mapping[str, int]) -> bool:
        counts = Counter(labels[path] for path in videos[first])
        return first not in chosen and all(drawn[label] + n <= most[label] for label, n in counts.items())

    def choose(first: str) -> None:
        chosen.add(first)
        drawn.update({label: drawn[label] + n for label, n in Counter(labels[p] for p in videos[first]).items()})

    for label in classes:
        order = sorted(own[label], key=lambda path: hashlib.sha256(f"{seed} {path}".encode()).digest())
        for first in dict.fromkeys(map(first_of.__getitem__, order)):
            if drawn[label] < share[label] and fits(first, share):
                choose(first)
    all_but_one = {label: len(paths) - 1 for label, paths in own.items() if paths}
    for label in classes:
        known = sorted({first_of[path] for path in own[label]}, key=lambda first: (len(videos[first]), first))
        if not drawn[label] and (found := next((first for first in known if fits(first, all_but_one)), None)):
            choose(found)
    split = {path: "val" if first_of[path] in chosen else "train" for path in labels}
    return split, [label for label in classes if own[label] and not drawn[label]]


def suspected(
    splits: Mapping[str, Sequence[str]], looks: Mapping[str, str], known: Mapping[str, str]
) -> list[Suspected]:
    """Pairs of videos in two splits that seem to be of one recording: by their pictures, or as `known`."""
    found = []
    for one, other in itertools.combinations(splits, 2):
        seen = [Looked({path: looks.get(path, "") for path in splits[name]}) for name in (one, other)]
        reasons = {(a, b): f"pictures: {100 * share:.0f}% of the blocks differ" for a, b, share in alike(*seen)}
        members = defaultdict(list)
        for path in splits[other]:
            if path in known:
                members[known[path]].append(path)
        for path in splits[one]:
            for twin in members.get(known.get(path, ""), []):
                reasons.setdefault((path, twin), "one group")
        found += [Suspected(a, b, other, reason) for (a, b), reason in sorted(reasons.items())]
    return found
