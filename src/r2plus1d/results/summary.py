"""The figures of all rows in one short file, which `dvc metrics show`, `diff` and `exp show` print."""

from collections.abc import Mapping, Sequence
from typing import Any

from r2plus1d.config.schema import CUSTOM, RowConfig

FIGURES = ("top1", "top5", "mean_class", "single_clip", "static", "video_s", "mib")


def short_names(configs: Sequence[RowConfig], published: Mapping[str, Any]) -> dict[str, str]:
    """By row: the published name in short, else what makes the row, such as 8x8_256p; the row's own name where that
    would stand for two."""
    known = {name: row["short"] for name, row in published["rows"].items()}
    found = {config.row: known.get(config.row) or _short(config) for config in configs}
    return {row: short if list(found.values()).count(short) == 1 else row for row, short in found.items()}


def summary(rows: Sequence[Any], names: Mapping[str, str], videos: int) -> dict[str, Any]:
    """Of `figures.RowFigures`: the dataset, how many `videos` were measured, and each row's accuracies (percent;
    `single_clip` by one centre clip, `static` by one repeated frame), videos per second and training memory (MiB)."""
    return {"dataset": rows[0].config.dataset, "videos": videos} | {
        names[row.config.row]: _figures(row) for row in rows
    }


def published_summary(published: Mapping[str, Any]) -> dict[str, Any]:
    """The same of the published figures, as far as there are any."""
    keys = {"top1": "top1", "top5": "top5", "video_s": "videos_per_second", "mib": "memory_mib"}
    rows = {
        row["short"]: {key: row[name] for key, name in keys.items() if row[name] is not None}
        for row in published["rows"].values()
    }
    return {"dataset": published["dataset"], "videos": published["videos"]} | rows


def _figures(row: Any) -> dict[str, float]:
    test, benchmark = row.test, row.benchmark
    values = (
        test["top1"],
        test["top5"],
        test["mean_class_accuracy"],
        test["single_clip"]["top1"],
        test["static"]["top1"],
        benchmark["videos_per_second"],
        benchmark["memory_mib"],
    )
    return dict(zip(FIGURES, values, strict=True))


def _short(config: RowConfig) -> str:
    if config.row == CUSTOM:
        return CUSTOM
    clip = config.clip
    return f"{clip.frames}x{clip.frame_interval}_{'video' if clip.input == 'video' else config.resolution}"
