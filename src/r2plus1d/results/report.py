"""The tables of the README and of docs/results.md, from the rows' configurations and metric files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from r2plus1d.config.schema import RowConfig, TestedRow
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system.errors import redacted
from r2plus1d.system.paths import suspected, weights

TEXTS = dict.fromkeys(("path", "actual", "predicted", "class", "taken_for"), str)  # also of a class that is called 1
PUBLISHED_VIEWS = (10, 3, "prob")  # clips, crops, and how their scores are averaged
FILES = ("ckpt", "log", "json")
SPLITS = {"train": "Training", "val": "Validation", "test": "Test"}
COLUMNS = ("row", "short side", "gpus", "backbone", "pretrain", "top-1", "top-5", "video/s", "MiB", "files")


@dataclass(frozen=True)
class RowFigures:
    """What the stages measured for one row."""

    config: TestedRow
    test: dict  # metrics/rows/<row>/test.json
    benchmark: dict
    machine: dict
    curve: pd.DataFrame
    predictions: pd.DataFrame  # columns path, actual, predicted, probability and rank, one line per video
    classes: pd.DataFrame  # columns class, videos, precision, recall, f1 and taken_for
    mistakes: list[dict]  # see `zoo.mistakes`
    record: dict  # of what made the weights: metrics/records/<row>/made_by_train.json, or empty

    @property
    def label(self) -> str:
        clip = self.config.clip
        kind = "video" if clip.input == "video" else self.config.resolution
        name = "custom " if self.config.row == "custom" else ""
        return f"{name}{clip.frames}x{clip.frame_interval} {kind}"


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
    head = f"Published: Kinetics-400, {published['videos']:,} validation videos. Source: {published['source']}."
    told = f"Rows in full: {', '.join(names)}. `video/s` in brackets: frames x crops of a video."
    return "\n".join([head, "", markdown_table(COLUMNS, rows), "", told, "", *links])


def measured_table(
    rows: Sequence[RowFigures], names: Mapping[str, str], coverage: dict, tried: str | None = None
) -> str:
    """The figures measured here, headed by dataset, scale and device; below them the table of what was `tried`."""
    first, cells = rows[0], []
    for row in rows:
        config, test = row.config, row.test
        rate = f"{row.benchmark['videos_per_second']} ({row.machine['frames']})"
        single, static = test["single_clip"]["top1"], test["static"]["top1"]
        accuracies = (test["top1"], test["top5"], test["mean_class_accuracy"], single, static)
        clip = f"{config.clip.frames}x{config.clip.frame_interval}"
        mark = " (not trained here)" if config.checkpoint else f" (from {source_text(config)})" if config.init else ""
        chosen = config.train.keep == "best" and config.train.freeze != "all" and not config.checkpoint
        mark += " (best epoch on val)" if chosen else ""
        figures = [f"{value:.2f}" for value in accuracies]
        cells.append([names[config.row] + mark, clip, *figures, rate, row.benchmark["memory_mib"]])
    columns = ("row", "clip", "top-1", "top-5", "mean class", "single clip", "static", "video/s", "MiB")
    counts = [f"{coverage[split]['readable']} {SPLITS[split].lower()}" for split in SPLITS if split in coverage]
    head = (
        f"Measured here: dataset `{first.config.dataset}`, {coverage['classes']} classes, "
        f"{', '.join(counts[:-1])} and {counts[-1]} videos, "
        f"{scale_text(first.config)}, on {device_text(first)}. {chance_text(first.classes, coverage)}"
        f"{suspicion_text(first.config.dataset, coverage)}"
    )
    told = (
        f"Measured on the {SPLITS[first.test['split']].lower()} videos. "
        f"Top-1 and top-5: {protocol_text(rows, names)}. Single clip: one centre clip. Static: the same clip with its "
        "middle frame repeated, what appearance alone scores."
    )
    return "\n".join([head, "", markdown_table(columns, cells), "", told, *_beside(tried)])


def _beside(tried: str | None) -> list[str]:
    return [] if tried is None else ["", "The row `custom` on the same videos, by how it was trained:", "", tried]


def details_table(rows: Sequence[RowFigures], names: Mapping[str, str], coverage: dict) -> str:
    """What the measured rows are made of: for docs/results.md."""
    cells = []
    for row in rows:
        config, test = row.config, row.test
        device = config.runtime.gpus if _on_gpu(row) else "CPU"
        costs = [f"{row.benchmark['parameters'] / 1e6:.3f}", f"{row.benchmark['macs'] / 1e9:.4g}"]
        tested = f"{test['videos']} of {coverage[test['split']]['listed']}"
        name, side = names[config.row], config.clip.short_side
        cells.append(
            [name, config.row, side, device, f"ResNet{config.model.depth}", pretrain_text(config), *costs, tested]
        )
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
    return f"{markdown_table((*columns, 'videos measured'), cells)}\n\n{told}"


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
    half = ", half precision" if _on_gpu(row) and row.config.runtime.lowered is True else ""
    return f"{row.machine['device']}{threads}{half}, torch {row.machine['torch']}"


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
