"""The README's tables and the plots, from the rows' configurations and metric files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from r2plus1d.config import RowConfig
from r2plus1d.files import replacing, write_text

COLUMNS = (
    "config",
    "resolution",
    "gpus",
    "backbone",
    "pretrain",
    "top1 acc",
    "top5 acc",
    "inference_time(video/s)",
    "gpu_mem(M)",
    "ckpt",
    "log",
    "json",
)
mpl.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


@dataclass(frozen=True)
class RowFigures:
    """What the stages measured for one row."""

    config: RowConfig
    test: dict  # metrics/<row>/test.json
    benchmark: dict
    machine: dict
    curve: pd.DataFrame
    confusion: pd.DataFrame  # columns actual and predicted, one line per video

    @property
    def label(self) -> str:
        clip = self.config.clip
        kind = "video" if clip.input == "video" else self.config.frames
        name = "custom " if self.config.row == "custom" else ""
        return f"{name}{clip.frames}x{clip.frame_interval} {kind}"


def published_table(published: dict) -> str:
    """The published rows in the columns of their source."""
    rows = []
    for row in published["rows"].values():
        rate = "x" if row["videos_per_second"] is None else f"{row['videos_per_second']} ({row['frames']} frames)"
        links = [f"[{name}]({row[name]})" for name in ("ckpt", "log", "json")]
        cells = [row["config"], row["resolution"], row["gpus"], row["backbone"], row["pretrain"]]
        rows.append([*cells, f"{row['top1']:.2f}", f"{row['top5']:.2f}", rate, row["memory_mib"], *links])
    head = f"Published: {published['dataset']}. Source: {published['source']}."
    return f"{head}\n\n{markdown_table(COLUMNS, rows)}"


def measured_table(rows: Sequence[RowFigures], coverage: dict) -> str:
    """The same columns as measured, headed by dataset, scale and device, and the accuracies beside the protocol."""
    first = rows[0]
    measured, beside = [], []
    for row in rows:
        config, test = row.config, row.test
        rate = f"{row.benchmark['videos_per_second']} ({row.machine['frames']} frames)"
        device = config.runtime.gpus if _on_gpu(row) else "CPU"
        files = ["`model.safetensors`", "`train.log`", "`train.log.json`"]
        if config.checkpoint:
            files = [f"[not trained here]({config.checkpoint})", "x", "x"]
        cells = [config.row, f"short-side {config.clip.short_side}", device, f"ResNet{config.model.depth}", "None"]
        tested = f"{test['videos']} of {coverage['val']['listed']}"
        accuracies = [tested, f"{test['top1']:.2f}", f"{test['top5']:.2f}"]
        measured.append([*cells, *accuracies, rate, row.benchmark["memory_mib"], *files])
        single = test["single_clip"]
        accuracies = [test["top1"], test["mean_class_accuracy"], single["top1"], test["static"]["top1"]]
        clip = f"{config.clip.frames}x{config.clip.frame_interval}"
        costs = [f"{row.benchmark['parameters'] / 1e6:.3f}", f"{row.benchmark['macs'] / 1e9:.4g}"]
        beside.append([config.row, clip, *costs, tested, *(f"{value:.2f}" for value in accuracies)])
    columns = ("config", "clip", "parameters (M)", "MACs per clip (G)", "val videos")
    columns += ("top1 acc", "mean class acc", "single clip top1", "static control top1")
    return "\n".join(
        [
            f"Measured here: dataset `{first.config.dataset}`, {scale_text(first.config)}, on {device_text(first)}.",
            f"{coverage['train']['readable']} training and {coverage['val']['readable']} validation videos of "
            f"{coverage['classes']} classes. Training: {coverage_text(coverage['train'])}. Validation: "
            f"{coverage_text(coverage['val'])}; beside each accuracy stand the videos it was measured on, of those "
            "listed. "
            f"Chance is {chance(coverage):.1f}% top-1. The files of a row lie in `models/<config>/`.",
            "",
            markdown_table((*COLUMNS[:5], "val videos", *COLUMNS[5:]), measured),
            "",
            "Beside the protocol of 10 clips x 3 crops: the validation view (one clip, centre crop), and the static "
            "control (the same view of the clip's middle frame, repeated: what appearance alone scores). MACs are the "
            "multiply-accumulates of the convolutions and the last layer for one clip of the test views.",
            "",
            markdown_table(columns, beside),
        ]
    )


def coverage_text(counts: dict) -> str:
    return f"{counts['listed']} listed, {counts['found']} found, {counts['readable']} readable"


def scale_text(config: RowConfig) -> str:
    scale = config.scale
    depth = "as published" if scale.depth is None else f"{scale.depth} layers"
    return f"resolution x {scale.resolution:g}, channels x {scale.width:g}, depth {depth}, {config.train.epochs} epochs"


def device_text(row: RowFigures) -> str:
    threads = f", {row.machine['threads']} threads" if not _on_gpu(row) else ""
    half = ", half precision" if _on_gpu(row) and row.config.runtime.lowered is True else ""
    return f"{row.machine['device']}{threads}{half}, torch {row.machine['torch']}"


def chance(coverage: dict) -> float:
    return 100 / coverage["classes"]


def into_readme(readme: Path, name: str, content: str) -> None:
    """Replaces what stands between two markers of the file, as `between_markers` does."""
    write_text(readme, between_markers(readme.read_text(encoding="utf-8"), name, content))


def between_markers(text: str, name: str, content: str) -> str:
    """`text` with what stands between `<!-- name -->` and `<!-- /name -->` replaced. Raises ValueError without them."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the markers <!-- {name} --> and <!-- /{name} --> are missing")
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text, count=1)


def plot_curves(rows: Sequence[RowFigures], path: Path) -> None:
    """Training loss and validation accuracy by epoch of all rows that were trained."""
    figure = Figure((9, 3.6), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for row in rows:
        if row.curve.empty:
            continue
        losses.plot(row.curve["epoch"], row.curve["train_loss"], label=row.label)
        tested = row.curve.dropna(subset=["val_top1"])
        accuracies.plot(tested["epoch"], 100 * tested["val_top1"], marker="o", markersize=3, label=row.label)
    losses.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy (nats)")
    accuracies.set(title="Validation, one centre clip", xlabel="epoch", ylabel="top-1 accuracy (%)", ylim=(0, 100))
    for axes in (losses, accuracies):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if accuracies.lines:
        accuracies.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Training on `{rows[0].config.dataset}`")
    save_figure(figure, path)


def plot_top1(rows: Sequence[RowFigures], coverage: dict, path: Path) -> None:
    """Top-1 of every row beside its static control, with chance."""
    figure = Figure((8, 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    moving = axes.bar(places - 0.2, [row.test["top1"] for row in rows], 0.38, label="10 clips x 3 crops")
    still = [row.test["static"]["top1"] for row in rows]
    static = axes.bar(places + 0.2, still, 0.38, color="0.7", label="static control (one view, one frame repeated)")
    for bars in (moving, static):
        for text in axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2):
            text.set(zorder=3, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3})  # over the line of chance
    level = chance(coverage)
    axes.axhline(level, color="black", linewidth=0.8, linestyle="--", label=f"chance ({level:.1f}%)")
    axes.set_xticks(places, [row.label for row in rows])
    axes.set(ylabel="top-1 accuracy (%)", ylim=(0, 110), yticks=range(0, 101, 20))
    tested = f"{rows[0].test['videos']} of {coverage['val']['listed']} validation videos"
    axes.set_title(f"Accuracy on `{rows[0].config.dataset}` ({tested})")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    save_figure(figure, path)


def plot_confusion(row: RowFigures, path: Path) -> None:
    """Share of each class's videos that were taken for each class; numbers only where there is room."""
    table = row.confusion
    classes = sorted(set(table["actual"]) | set(table["predicted"]))
    counts = pd.crosstab(table["actual"], table["predicted"]).reindex(index=classes, columns=classes, fill_value=0)
    share = 100 * counts.div(counts.sum(axis=1).clip(lower=1), axis=0).to_numpy()
    side = min(14, 2.5 + 0.35 * len(classes))
    figure = Figure((side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="share of the class's videos (%)", shrink=0.8)
    if len(classes) <= 40:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 20:
        for (i, j), value in np.ndenumerate(share):
            if value:
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color="w" if value > 50 else "k")
    axes.set(xlabel="predicted class", ylabel="actual class")
    axes.set_title(f"{row.label} on `{row.config.dataset}`: top-1 {row.test['top1']:.1f}%")
    save_figure(figure, path)


def _on_gpu(row: RowFigures) -> bool:
    return row.machine["cuda"] != "not used"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def save_figure(figure: Figure, path: Path) -> None:
    """As a PNG without a date, so that the same figure gives the same bytes."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
