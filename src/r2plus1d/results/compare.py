"""Two tests on the same videos, or a test and the published figure: whether they can be told apart.

What the verdicts mean, and the arithmetic, stands in docs/reproduced.md. Accuracies are in percent, differences in
points. Shapes: N videos.
"""

import bisect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from r2plus1d.config.origins import PUBLISHED_CLIPS
from r2plus1d.config.schema import TestedRow
from r2plus1d.results import intervals, seeds, tested
from r2plus1d.results.intervals import Interval
from r2plus1d.results.markdown import markdown_table
from r2plus1d.results.report import SPLITS, pretrain_text
from r2plus1d.results.tested import CompareError, Tested
from r2plus1d.system import paths
from r2plus1d.system.errors import printable
from r2plus1d.system.files import must_read_json, write_text

PUBLISHED = "published"
ALIKE, DIFFERENT, TOO_FEW = 0, 3, 4  # exit statuses
SHOWN = 20  # videos on which two tests disagree
FILE_COLUMNS = ("path", "actual", "predicted_a", "predicted_b")
COLUMNS = ("", "value", "95% interval")
DIGITS = 6  # of points, to which the ends of an interval are compared with the margin
# Top-1 that MMAction2 1.x published for the networks of the 0.x rows, by frames and interval. Source: its
# configs/recognition/r2plus1d/README.md. Not in metrics/published.json: that holds the rows of 0.x, and the
# configuration of every row depends on it.
NEWER = {(8, 8): 69.76, (32, 2): 75.46}
# What the published rows have in common, as their finished configuration says it.
PROTOCOL = {
    "model": {"depth": 34, "conv": "r2plus1d", "width": 64, "family": "mmaction"},
    "test": {"clips": 10, "crops": 3, "spread": "inner", "resize": 256, "crop": 256, "average_clips": "prob"},
}
# How the published rows were trained, as `recipe.train` has it.
TRAINING = {
    "epochs": 180,
    "lr": 0.1,
    "lr_batch": 64,
    "momentum": 0.9,
    "weight_decay": 0.0001,
    "max_grad_norm": 40.0,
    "resize": 256,
    "crop": 224,
    "crop_area": [0.08, 1.0],
    "crop_ratio": [0.75, 4 / 3],
    "flip": 0.5,
    "dropout": 0.5,
    "freeze": 0,
    "head_lr": 1.0,
    "warmup_epochs": 0,
    "balance": "none",
    "keep": "last",
}
# Videos that an update of the weights is made from in MMAction's configurations of the rows, for 8 GPUs.
UPDATE = dict(zip(PUBLISHED_CLIPS, (64, 128, 64, 48), strict=True))
OF_THE_VIDEOS = "The interval is for the videos alone."
OF_TRAININGS = "Two trainings of one row differ too: `r2plus1d seeds`."
OF_WEIGHTS = "No training stands between: of the same weights, expect far less than that margin."


def compare(first: str, second: str, out: Path | None = None, of_kinetics: bool = False) -> int:
    """Prints what can be told of two tests, by their names, or of one and `published`; returns the exit status.

    With `out`, all videos on which two tests disagree are written there. With `of_kinetics` the user says that a
    dataset of another name holds the validation videos of the published figures. Raises CompareError.
    """
    if first == PUBLISHED:
        raise CompareError(f"`{PUBLISHED}` comes second: r2plus1d compare {second} {PUBLISHED}")
    if second != PUBLISHED:
        if of_kinetics:
            raise CompareError(f"--kinetics400 goes with `{PUBLISHED}`")
        return with_each_other(tested.find(first), tested.find(second), out)
    if out:
        raise CompareError(f"--out {out}: `{PUBLISHED}` is a figure, not a list of videos; leave --out away")
    return with_published(tested.find(first), of_kinetics)


def with_each_other(first: Tested, second: Tested, out: Path | None) -> int:
    check_same_videos(first, second)
    found = intervals.paired(first.right.to_numpy(), second.right.to_numpy())
    told, lines = found.p < 1 - intervals.LEVEL, []
    for letter, side in (("A", first), ("B", second)):
        print(f"{letter}: {side}")
        ends = intervals.wilson(int(side.right.sum()), len(side.right))
        lines.append((f"{letter}, top-1", f"{100 * side.right.mean():.2f}", _text(ends)))
    lines.append(("B - A, points", f"{found.points:+.2f}", _text(found.interval, "+")))
    print(f"\nOn the same {len(first.right):,} {SPLITS[first.split].lower()} videos of `{first.dataset}`:\n")
    print(markdown_table(COLUMNS, lines))
    print(f"\nRight in A alone: {found.only_first} videos; in B alone: {found.only_second}.", end=" ")
    print(f"McNemar's exact test: p = {found.p:.2g}")
    _tell_disagreements(disagreements(first, second), out)
    if told:
        better, worse = ("B", "A") if found.points > 0 else ("A", "B")
        print(f"\nThey differ: {better} is right on more of such videos than {worse}.", end=" ")
    else:
        print("\nThey cannot be told apart: two that are right equally often differ by as much.", end=" ")
        if found.interval.low > 0 or found.interval.high < 0:
            print("The interval leaves out 0, but of so few videos it is rough: the exact test decides.", end=" ")
    print(f"{OF_THE_VIDEOS} {OF_TRAININGS}")
    _tell_seeds(first, second)
    return DIFFERENT if told else ALIKE


def _tell_seeds(first: Tested, second: Tested) -> None:
    """What is known of the two recipes, where both are rows of the workspace that were trained with several seeds."""
    if first.commit or second.commit:
        return
    found = seeds.of_what_lies_here(seeds.read(), (first.row, second.row))
    if first.row == second.row or (more := seeds.difference(found, first.row, second.row)) is None:
        return
    told = "the recipes differ" if more.p < 1 - intervals.LEVEL else "the recipes cannot be told apart"
    print(
        f"Over the {more.seeds} seeds of both in {seeds.SEEDS}: "
        f"B - A {seeds.difference_text(more)} points, p = {more.p:.2g} by the paired t test of this pair by itself, so "
        f"{told}."
    )


def check_same_videos(first: Tested, second: Tested) -> None:
    """Raises CompareError unless both were measured on the same paths, with the same classes, of the same data.

    Names alone do not prove it: videos of another datasets.motion.source.seed have the same ones.
    """
    a, b = (side.predictions.set_index("path")["actual"] for side in (first, second))
    both = a.index.intersection(b.index)
    other, found = both[(a[both] != b[both]).to_numpy()], []
    if len(other):
        path = other[0]
        found.append(f"{len(other)} have another class, such as {path}: {a[path]} and {b[path]}")
    for side, alone in ((first, a.index.difference(b.index)), (second, b.index.difference(a.index))):
        if len(alone):
            found.append(f"{len(alone)} are of {side.name} alone, such as {alone[0]}")
    (path_a, md5_a), (path_b, md5_b) = first.manifest, second.manifest
    if md5_a != md5_b:
        found.append(f"the data are others: {path_a} with MD5 {md5_a[:8]}, {path_b} with {md5_b[:8]}")
    if found:
        raise CompareError(
            f"{first.name} and {second.name} were not measured on the same videos: of {len(a)} and {len(b)}, "
            f"{len(both) - len(other)} have path and class in common; {'; '.join(found)}. Test both with the same "
            "`dataset` and `limit`, and the same seeds in `datasets.<name>.source`"
        )


def disagreements(first: Tested, second: Tested) -> pd.DataFrame:
    """The videos that one of two tests has right and the other wrong, in the order of their paths."""
    a, b = first.predictions, second.predictions
    table = pd.concat([a["path"], a["actual"], a["predicted"], b["predicted"]], axis=1)
    return table.set_axis(FILE_COLUMNS, axis=1)[first.right != second.right]


def with_published(side: Tested, of_kinetics: bool) -> int:
    published = must_read_json(paths.PUBLISHED)
    check_as_published(side, published, of_kinetics)
    right, videos, whole = int(side.right.sum()), len(side.right), published["videos"]
    share, figure = 100 * right / videos, published["rows"][side.row]["top1"]
    known = known_figures(side.row, published)
    margin = round(known[-1] - known[0], 2)
    scored = drawn_to_all(share, intervals.wilson(right, videos), videos, whole)
    ends = Interval(scored.low - figure, scored.high - figure)
    found = verdict(ends, margin)
    print(f"{side}, {_weights(side.config)}")
    if others := _otherwise(side, published):
        print(f"Otherwise than the published row: {', '.join(others)}")
    print(f"Measured on {videos:,} videos, published for {whole:,}: coverage {100 * videos / whole:.1f}%\n")
    lines = [
        ("measured, top-1", f"{share:.2f}", _text(scored)),
        ("published, top-1", f"{figure:.2f}", ""),
        ("measured - published, points", f"{share - figure:+.2f}", _text(ends, "+")),
    ]
    print(markdown_table(COLUMNS, lines))
    clip = "x".join(map(str, PUBLISHED_CLIPS[side.row]))
    told = f"{', '.join(f'{value:.2f}' for value in known[:-1])} and {known[-1]:.2f}"
    print(f"\nPublished for the same network at {clip}: {told}, which lie {margin:.2f} points apart.\n")
    if found == ALIKE:
        print(f"Consistent: the whole interval lies within {margin:.2f} points of the published figure.", end=" ")
    elif found == DIFFERENT:
        print(f"Different: the whole interval lies further than {margin:.2f} points from the figure.", end=" ")
    else:
        enough = videos_that_would_do(right, videos, whole, figure, margin)
        would = f"all {whole:,} videos" if enough == whole else f"{enough:,} videos"
        print(f"Too few videos to tell: the interval reaches across {margin:.2f} points from the figure.", end=" ")
        print(f"With the same share of right ones, {would} would do.", end=" ")
    print(f"{OF_THE_VIDEOS} {OF_WEIGHTS if side.config.checkpoint else OF_TRAININGS}")
    return found


def check_as_published(side: Tested, published: Mapping[str, Any], of_kinetics: bool) -> None:
    """Raises CompareError unless a published row was measured, as published, on the data of the published figure."""
    if side.row not in published["rows"]:
        rows = ", ".join(published["rows"])
        raise CompareError(f"{side.name}: nothing is published of the row {side.row}; there are {rows}")
    how = "docs/published_rows.md says how to measure the row as published"
    if side.dataset != published["dataset"] and not of_kinetics:
        raise CompareError(
            f"{side.name} was measured on `{side.dataset}`, the published figure on `{published['dataset']}`: figures "
            f"of different things, which are never subtracted; {how}. Where `{side.dataset}` holds the validation "
            "videos of Kinetics-400, say so: --kinetics400"
        )
    if side.split != "val":
        raise CompareError(
            f"{side.name} was measured on the {SPLITS[side.split].lower()} videos, the published figure on the "
            f"validation videos: figures of different things; {how}"
        )
    clip = dict(zip(("frames", "frame_interval"), PUBLISHED_CLIPS[side.row], strict=True))
    if others := _differences(side.config, PROTOCOL | {"clip": clip}):
        raise CompareError(f"{side.name} is not the published network and test: {', '.join(others)}; {how}")


def _otherwise(side: Tested, published: Mapping[str, Any]) -> list[str]:
    """What else the row has otherwise than the published one, which makes it no other network or test."""
    resolution = published["rows"][side.row]["resolution"].removeprefix("short-side ")
    clip = {"input": "video" if "_video_" in side.row else "frames", "short_side": int(resolution), "frame_rate": "all"}
    if side.config.checkpoint:
        return _differences(side.config, {"clip": clip})
    found, videos, update = [], side.config.videos_per_step, UPDATE[side.row]
    if videos != update:
        found.append(f"an update is made from {videos} videos (the published configuration, on 8 GPUs: {update})")
    return _differences(side.config, {"clip": clip, "train": TRAINING}) + found


def _differences(config: TestedRow, published: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = config.model_dump()
    return [
        f"{section}.{key} is {_value(found[section][key])} (published: {_value(value)})"
        for section, values in published.items()
        for key, value in values.items()
        if found[section][key] != value
    ]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def known_figures(row: str, published: Mapping[str, Any]) -> list[float]:
    """Top-1 that MMAction2 itself published for the network with the row's clip, each once, the lowest first."""
    clip = PUBLISHED_CLIPS[row]
    older = {other["top1"] for name, other in published["rows"].items() if PUBLISHED_CLIPS[name] == clip}
    return sorted(older | {NEWER[clip]})


def drawn_to_all(share: float, ends: Interval, videos: int, whole: int) -> Interval:
    """95% interval of what a network scores on all `whole` videos, of which `videos` were measured.

    Wilson's `ends`, drawn towards the measured `share` by the finite population correction: a point where all are
    measured.
    """
    drawn = math.sqrt(max(0, whole - videos) / (whole - 1))
    return Interval(share - drawn * (share - ends.low), share + drawn * (ends.high - share))


def verdict(ends: Interval, margin: float) -> int:
    """ALIKE where the interval lies within [-margin, margin], DIFFERENT where it lies wholly outside, else TOO_FEW."""
    low, high = (round(end, DIGITS) for end in ends)
    if -margin <= low and high <= margin:
        return ALIKE
    return DIFFERENT if low > margin or high < -margin else TOO_FEW


def videos_that_would_do(right: int, videos: int, whole: int, figure: float, margin: float) -> int:
    """The smallest number of videos, from `videos` to `whole`, on which the same share would not be TOO_FEW.

    The interval of more videos lies within that of fewer, so what is decided stays so, and halving finds it.
    """

    def decided(number: int) -> bool:
        ends = intervals.wilson_of_share(right / videos, number)
        low, high = drawn_to_all(100 * right / videos, ends, number, whole)
        return verdict(Interval(low - figure, high - figure), margin) != TOO_FEW

    return videos + bisect.bisect_left(range(videos, whole), True, key=decided)


def _tell_disagreements(table: pd.DataFrame, out: Path | None) -> None:
    if len(table):
        shown = f", of which the first {SHOWN}" if len(table) > SHOWN else ""
        print(f"\nOne is right and the other wrong on {len(table)} videos{shown}:\n")
        lines = [[printable(cell) for cell in line] for line in table[:SHOWN].to_numpy().tolist()]
        print(markdown_table(("video", "actual", "A", "B"), lines))
    if out:
        write_text(out, table.to_csv(index=False, lineterminator="\n"))
        print(f"\nAll {len(table)} are in {out}")


def _weights(config: TestedRow) -> str:
    if config.checkpoint:
        return f"not trained here: weights {pretrain_text(config)}"
    return f"trained here from {pretrain_text(config) if config.init else 'nothing'}"


def _text(interval: Interval, sign: str = "") -> str:
    return f"{interval.low:{sign}.2f} to {interval.high:{sign}.2f}"
