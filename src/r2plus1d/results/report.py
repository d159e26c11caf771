"""The tables of the README and of docs/results.md, from the rows' configurations and metric files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from r2plus1d.config.schema import RowConfig
from r2plus1d.results import figures
from r2plus1d.results.figures import Accuracy, Measured, RowFigures
from r2plus1d.results.intervals import LEVEL, widest
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system.errors import redacted
from r2plus1d.system.paths import suspected, weights

PUBLISHED_VIEWS = (10, 3, "prob")  # clips, crops, and how their scores are averaged
FILES = ("ckpt", "log", "json")
SPLITS = {"train": "Training", "val": "Validation", "test": "Test"}
TOP = 5  # classes, of which one is the right one: says nothing of so few
FEW_ANSWERS = 2  # classes that a row takes all still clips for: the static control then says nothing
SEEDS_TOLD = "Seeds: top-1 as mean ± standard deviation of so many trainings. "
RATE_TOLD = "Video/s: the network alone, which may compute once what clips share. "
COLUMNS = ("row", "short side", "gpus", "backbone", "pretrain", "top-1", "top-5", "video/s", "MiB", "files")


def published_table(published: dict) -> str:
    """The published rows in the columns of their source, the last three in one; links and full names below."""
    rows, links, names = [], [], []
    for name, row in published["rows"].items():
        short = row["short"]
        side = row["resolution"].removeprefix("short-side ")
        rate = "x" if row["videos_per_second"] is None else f"{row['videos_per_second']} ({row['frames']})"
        files = " ".join(f"[{kind}][{short} {kind}]" for kind in FILES)
        accuracies = (f"{row['top1']:.2f}", f"{row['top5']:.2f}")
        cells = (
            short,
            side,
            row["gpus"],
            row["backbone"],
            row["pretrain"],
            *accuracies,
            rate,
            row["memory_mib"],
            files,
        )
        rows.append(cells)
        links += [f"[{short} {kind}]: {row[kind]}" for kind in FILES]
        names.append(f"`{short}` is `{name}`")
    videos = published["videos"]
    head = (
        f"Published: Kinetics-400, {videos:,} validation videos, so the 95% interval for the videos alone is at most "
        f"{widest(videos):.1f} points to each side. Source: {published['source']}."
    )
    told = f"Rows in full: {', '.join(names)}. `video/s` in brackets: frames x crops of a video."
    return "\n".join([head, "", markdown_table(COLUMNS, rows), "", told, "", *links])


def measured_table(measured: Measured) -> str:
    """The figures measured here, headed by dataset, scale and device; below them the baselines, what they say of the
    rows, and the table of what was tried."""
    rows, names, coverage = measured.rows, measured.names, measured.coverage
    first, cells = rows[0], []
    for row in rows:
        config = row.config
        rate = f"{row.benchmark['videos_per_second']} ({row.machine['frames']})"
        top5 = row.top5 if coverage["classes"] > TOP else ""
        accuracies = (row.top1, top5, row.mean_class, row.single_clip)
        clip = f"{config.clip.frames}x{config.clip.frame_interval}"
        spread = [measured.spreads.get(config.row, "")] if measured.spreads else []
        cells.append([names[config.row] + _mark(row), clip, *accuracies, *spread, rate, row.benchmark["memory_mib"]])
    more = ("seeds",) if measured.spreads else ()
    for name, table in measured.simple().items():
        cells.append([name, "", figures.top1(table), "", figures.mean_recall(table), "", *("" for _ in more), "", ""])
    columns = ("row", "clip", "top-1", "top-5", "mean class", "single clip", *more, "video/s", "MiB")
    counts = [f"{coverage[split]['readable']} {SPLITS[split].lower()}" for split in SPLITS if split in coverage]
    head = (
        f"Measured here: dataset `{first.config.dataset}`, {coverage['classes']} classes, "
        f"{', '.join(counts[:-1])} and {counts[-1]} videos, "
        f"{scale_text(first.config)}, on {device_text(first)}. {chance_text(first.classes, coverage)}"
        f"{suspicion_text(first.config.dataset, coverage)}"
    )
    split = SPLITS[first.test["split"]].lower()
    told = (
        f"Measured on the {split} videos; in brackets the 95% interval, for the videos alone. "
        f"{unmeasured_text(coverage['classes'], first, split)}"
        f"{repeated_text(rows, names, split)}"
        f"Top-1 and top-5: {protocol_text(rows, names)}. Single clip: one centre clip."
        f"{no_width_text([row.mean_class for row in rows])} "
        f"{SEEDS_TOLD if measured.spreads else ''}{RATE_TOLD}{baselines_text(measured)}"
    )
    return "\n".join([head, "", markdown_table(columns, cells), "", told, *_beside(measured.tried)])


def no_width_text(means: Sequence[Accuracy]) -> str:
    """What an interval of a mean class accuracy says where it has no width, with a blank before it."""
    if not any(mean.interval.low == mean.interval.high for mean in means):
        return ""
    return " A mean class interval without width: each class is all right or all wrong."


def unmeasured_text(classes: int, row: RowFigures, split: str) -> str:
    """Of classes that are trained and have no video to measure on, where there are any."""
    missing = classes - row.predictions["actual"].nunique()
    return f"**{missing} of {classes} classes have no {split} video, and are not measured.** " if missing > 0 else ""


def repeated_text(rows: Sequence[RowFigures], names: Mapping[str, str], split: str) -> str:
    """Of videos that are shorter than a clip, where there are any."""
    counts = {names[row.config.row]: row.test["repeated"] for row in rows if row.test["repeated"]}
    if not counts:
        return ""
    of_rows = ", ".join(f"{count} ({name})" for name, count in counts.items())
    return (
        f"**{split.capitalize()} videos that are shorter than a clip, which then repeats them from their start: "
        f"{of_rows} of {rows[0].test['videos']}.** "
    )


def _mark(row: RowFigures) -> str:
    """What of a row the table says behind its name."""
    config = row.config
    mark = " (not trained here)" if config.checkpoint else f" (from {source_text(config)})" if config.init else ""
    chosen = config.train.keep == "best" and config.train.freeze != "all" and not config.checkpoint
    return mark + (" (best epoch on val)" if chosen else "")


def baselines_text(measured: Measured) -> str:
    """In words what the baselines are, and whether each row beats them."""
    if not measured.simple():
        return "No baselines: there is nothing to train them on."
    behind = [
        f"{measured.names[row.config.row]} does not beat `{name}` ({more.points:+.1f} points, "
        f"{more.interval.low:+.1f} to {more.interval.high:+.1f})"
        for row in measured.rows
        for name, more in measured.against(row).items()
        if not (more.points > 0 and more.p < 1 - LEVEL)
    ]
    kinds = ["Ridge: linear classifiers of the middle frame in 16 x 16 pixels, and of a map of what changes in time."]
    if any(len(row.one_frame) for row in measured.rows):
        kinds.append("One frame: the row trained and tested with one frame a clip.")
    if not behind:
        every = "Every row" if len(measured.rows) > 1 else "The row"
        own = [measured.names[row.config.row] for row in measured.rows if len(row.one_frame)]
        itself = f", and {', '.join(own)} what it learns from one frame" if own else ""
        return f"{' '.join(kinds)} {every} beats the ridges{itself}: on the same videos, by McNemar's exact test."
    return f"{' '.join(kinds)} **Not told apart from a baseline, or worse: {'; '.join(behind)}.**"


def _beside(tried: str | None) -> list[str]:
    return [] if tried is None else ["", "The row `custom` on the same videos, by how it was trained:", "", tried]


def details_table(measured: Measured) -> str:
    """What the measured rows are made of, and how far their probabilities can be believed: for docs/results.md."""
    rows, names, coverage = measured.rows, measured.names, measured.coverage
    cells, static = [], []
    for row in rows:
        config, test = row.config, row.test
        device = config.runtime.gpus if _on_gpu(row) else "CPU"
        costs = [f"{row.benchmark['parameters'] / 1e6:.3f}", f"{row.benchmark['macs'] / 1e9:.4g}"]
        tested = f"{test['videos']} of {coverage[test['split']]['listed']}"
        name, side = names[config.row], config.clip.short_side
        cells.append(
            [name, config.row, side, device, f"ResNet{config.model.depth}", pretrain_text(config), *costs, tested]
        )
        answers = test["static"]["classes"]
        shown = row.static if answers > FEW_ANSWERS else "says nothing"
        static.append([name, shown, f"{answers} of {coverage['classes']}", f"{row.calibration_error:.1f}"])
    columns = (
        "row",
        "in params.yaml",
        "short side",
        "gpus",
        "backbone",
        "pretrain",
        "parameters (M)",
        "MACs per clip (G)",
    )
    covered = ". ".join(f"{title}: {coverage_text(coverage[key])}" for key, title in SPLITS.items() if key in coverage)
    told = (
        f"{covered}. MACs are the multiply-accumulates of the convolutions and the last layer for one clip of the test "
        "views. A row's weights and logs lie in `models/<row>/`."
    )
    controls = markdown_table(("row", "static", "answers", "calibration error"), static)
    explained = (
        "Static: top-1 of the centre clip with its middle frame repeated. It says something only where a row still "
        "gives many different answers: a row that takes all still clips for one or two classes scores their share of "
        "the videos, whatever its frames show; answers counts the classes. Calibration error: how far, in points, the "
        f"probability of the first answer is from the share that is right, over {figures.BINS} bins of probability "
        "(expected calibration error); of few videos it is too high."
    )
    return "\n\n".join([markdown_table((*columns, "videos measured"), cells), told, controls, explained])


def views_table(measured: Measured) -> str:
    """How accuracy grows with the number of clips and crops, from the views of the test: for docs/results.md."""
    cells = []
    own = {row.config.test.clips for row in measured.rows}
    shown = sorted(own | {n for n in (1, 2, 3, 5, 10, 20, 30) if n < max(own)})
    for row in measured.rows:
        for crops, lines in row.views.groupby("crops"):
            right = lines.set_index("clips")
            found = [
                figures.share(100 * right.loc[n, "right"] / right.loc[n, "videos"], int(right.loc[n, "videos"]))
                if n in right.index
                else ""
                for n in shown
            ]
            cells.append([measured.names[row.config.row], crops, *found])
    told = (
        "Top-1 by the number of clips, at even distances among those of the test, with the middle crop or all; the 95% "
        "interval is for the videos alone. All from one pass over the views of the test."
    )
    heads = [f"{n} clip{'s' if n > 1 else ''}" for n in shown]
    return f"{markdown_table(('row', 'crops', *heads), cells)}\n\n{told}"


def pretrain_text(config: RowConfig) -> str:
    """What a row started from, or whose weights it tests."""
    source = config.init or config.checkpoint
    if source is None:
        return "None"
    source = redacted(source)
    if "://" in source:
        return f"[{source.rpartition('/')[2]}]({source})"
    return f"`{source}`"


def source_text(config: RowConfig) -> str:
    """The same in a word, for a narrow table."""
    path = Path(redacted(str(config.init)))
    return f"row {path.parent.name}" if path == weights(path.parent.name) else path.name


def protocol_text(rows: Sequence[RowFigures], names: Mapping[str, str]) -> str:
    """The views of the test, such as `10 clips x 3 crops`, with the rows that have others."""
    by_views: dict[str, list[str]] = {}
    for row in rows:
        by_views.setdefault(views_text(row), []).append(names[row.config.row])
    if len(by_views) == 1:
        return next(iter(by_views))
    return "; ".join(f"{views} for {', '.join(short)}" for views, short in by_views.items())


def views_text(row: RowFigures) -> str:
    test = row.config.test
    published = (test.clips, test.crops, test.average_clips) == PUBLISHED_VIEWS
    return f"{test.clips} clips x {test.crops} crops{', the published protocol' if published else ''}"


def coverage_text(counts: dict) -> str:
    return f"{counts['listed']} listed, {counts['found']} found, {counts['readable']} readable"


def suspicion_text(dataset: str, coverage: dict) -> str:
    """Of videos in two splits that seem to be of one recording, where there are any."""
    if not coverage["suspected_pairs"]:
        return ""
    return (
        f" **{coverage['suspected_pairs']} pairs of videos in different splits seem to be of one recording "
        f"(`{suspected(dataset)}`): the figures are then too high.**"
    )


def scale_text(config: RowConfig) -> str:
    scale = config.scale
    depth = "as published" if scale.depth is None else f"{scale.depth} layers"
    return f"resolution x {scale.resolution:g}, channels x {scale.width:g}, depth {depth}, {config.train.epochs} epochs"


def device_text(row: RowFigures) -> str:
    threads = f", {row.machine['threads']} threads" if not _on_gpu(row) else ""
    networks = ", by the networks for GPUs" if _on_gpu(row) and row.config.runtime.lowered is True else ""
    arithmetic = f"{row.machine['arithmetic']} arithmetic{networks}"
    return f"{row.machine['device']}{threads}, {arithmetic}, torch {row.machine['torch']}"


def chance_text(classes: pd.DataFrame, coverage: dict) -> str:
    """What a guess scores; and the largest class alone, where the measured videos are not evenly spread."""
    largest = 100 * classes["videos"].max() / classes["videos"].sum()
    always = f" (who always says the largest class: {largest:.1f}%)" if largest > 1.1 * chance(coverage) else ""
    return f"Chance is {chance(coverage):.1f}% top-1{always}."


def chance(coverage: dict) -> float:
    return 100 / coverage["classes"]


def changes_text(commit: dict) -> str:
    """What of a record's commit was not committed, in short."""
    count = len(commit["changed"])
    return f", with changes in {count} file{'s' if count > 1 else ''}" if count else ""


def versions_text(record: dict) -> str:
    """The libraries of a record; empty where there is none."""
    return ", ".join(f"{name} {version}" for name, version in record.get("libraries", {}).items())


def _on_gpu(row: RowFigures) -> bool:
    return row.machine["cuda"] != "not used"
