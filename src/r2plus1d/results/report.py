"""The README's tables and the plots, from the rows' configurations and metric files."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import pandas as pd

from r2plus1d.config.resolve import RowConfig
from r2plus1d.results.markdown import markdown_table

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


def _on_gpu(row: RowFigures) -> bool:
    return row.machine["cuda"] != "not used"
