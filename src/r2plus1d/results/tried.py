"""What the row `custom` reached on the same videos, by how it was trained: from nothing, its last layer alone, all."""

import pandas as pd

from r2plus1d.config.files import read_row
from r2plus1d.config.schema import CUSTOM, TestedRow
from r2plus1d.results.markdown import markdown_table
from r2plus1d.results.report import source_text
from r2plus1d.system import paths
from r2plus1d.system.files import digest, must_read_json, read_json, write_json

NOTES = paths.RECORDS / CUSTOM / "tried.json"
COLUMNS = ("trained", "started from", "clip", "epochs", "top-1", "mean class", "static", "videos")


def note() -> str:
    """Adds the row as it stands to those noted before; a table of all that were measured on the same videos."""
    config = read_row(paths.CONFIGS, CUSTOM, TestedRow)
    figures = must_read_json(paths.metrics(CUSTOM, "test.json"))
    entry = {
        "lists": digest(sorted(paths.lists(config.dataset).iterdir())),
        "configuration": digest([paths.row_config(CUSTOM, "test")]),
        "trained": _trained(config),
        "started from": source_text(config) if config.init else "nothing",
        "clip": f"{config.clip.frames}x{config.clip.frame_interval}",
        "epochs": config.train.epochs,
        "top-1": figures["top1"],
        "mean class": figures["mean_class_accuracy"],
        "static": figures["static"]["top1"],
        "videos": f"{figures['videos']} {figures['split']}",
    }
    same_run = ("lists", "configuration")
    noted = read_json(NOTES) or []
    known = [other for other in noted if any(other.get(key) != entry[key] for key in same_run)]
    write_json(NOTES, [*known, entry])
    same = pd.DataFrame([other for other in [*known, entry] if other.get("lists") == entry["lists"]])
    rows = [[f"{v:.2f}" if isinstance(v, float) else v for v in row] for row in same[list(COLUMNS)].values.tolist()]
    return markdown_table(COLUMNS, rows)


def _trained(config: TestedRow) -> str:
    freeze = config.train.freeze
    if config.checkpoint is not None:
        return "not here"
    if freeze == "all":
        return "last layer"
    if config.init is None:
        return "from scratch"
    return "fine-tuned" if not freeze else f"fine-tuned, {freeze} of 5 stages frozen"
