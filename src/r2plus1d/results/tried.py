"""What the row `custom` reached on the same videos, by how it was trained: from nothing, its last layer alone, all.

Kept for videos of the user's own (the datasets `folder` and `lists`), where that is what is asked.
"""

import re

from r2plus1d.config.schema import CUSTOM, TestedRow
from r2plus1d.results import figures
from r2plus1d.results.figures import Measured, RowFigures, read_row, read_table
from r2plus1d.results.markdown import markdown_table
from r2plus1d.results.report import baselines_text, repeated_text, source_text
from r2plus1d.system import paths
from r2plus1d.system.files import digest, must_read_json, read_json, write_json

NOTES = paths.RECORDS / CUSTOM / "tried.json"
DATASETS = ("folder", "lists")
COLUMNS = ("trained", "started from", "clip", "epochs", "changed", "top-1", "mean class", "static", "videos")
OWN = ("epochs", "freeze")  # values that have a column, or are told in one


def note(row: RowFigures) -> None:
    """Adds the row as it stands to those noted before; the same once more takes its place among them."""
    config, test = row.config, row.test
    entry = {
        "lists": _lists(config.dataset),
        "configuration": digest([paths.row_config(CUSTOM, "test")]),
        "trained": trained(config),
        "values": config.train.model_dump() | {"seed": config.seed} | _others(config),
        "started from": source_text(config) if config.init else "nothing",
        "clip": f"{config.clip.frames}x{config.clip.frame_interval}",
        "epochs": config.train.epochs,
        "top-1": str(row.top1),
        "mean class": str(row.mean_class),
        "static": str(row.static),
        "videos": f"{test['videos']} {test['split']}",
    }
    noted = {(other.get("lists"), other.get("configuration")): other for other in _noted()}
    noted[entry["lists"], entry["configuration"]] = entry
    write_json(NOTES, list(noted.values()))


def _others(config: TestedRow) -> dict:
    """What else tells one way from another: the network and how it is tested."""
    network = {key: value for key, value in config.model.model_dump().items() if value is not None}
    shown = {f"test.{key}": value for key, value in config.test.model_dump().items()}
    return network | shown | {"test.arithmetic": config.runtime.arithmetic}


def table(dataset: str) -> str | None:
    """All that were measured on the same videos, in the order of their first time, and what else each changed of the
    first of its kind; None where nothing is noted."""
    lists = _lists(dataset)
    same = [entry | {"changed": ""} for entry in _noted() if entry.get("lists") == lists]
    first: dict[tuple, dict] = {}
    for entry in same:
        usual = first.setdefault((entry["trained"], entry["started from"]), entry.get("values", {}))
        others = {key: v for key, v in entry.get("values", {}).items() if v != usual.get(key, v) and key not in OWN}
        entry["changed"] = ", ".join(f"{key} {value}" for key, value in others.items())
    cells = [[f"{v:.2f}" if isinstance(v, float) else v for v in (entry[key] for key in COLUMNS)] for entry in same]
    return markdown_table(COLUMNS, cells) if cells else None


def _noted() -> list[dict]:
    return read_json(NOTES) or []


def _lists(dataset: str) -> str:
    return digest(sorted(paths.lists(dataset).iterdir()))


def _plain(markdown: str) -> str:
    return re.sub(r"[*`]", "", markdown)


def trained(config: TestedRow) -> str:
    """How, in a word."""
    freeze = config.train.freeze
    if config.checkpoint is not None:
        return "not here"
    if freeze == "all":
        return "last layer"
    if config.init is None:
        return "from scratch"
    return "fine-tuned" if not freeze else f"fine-tuned, {freeze} of 5 stages frozen"


def told() -> str:
    """What a person wants to know of the row `custom` when it is trained: how good it is, and where everything is."""
    row, coverage = read_row(CUSTOM), must_read_json(paths.COVERAGE)
    measured = Measured([row], {CUSTOM: CUSTOM}, coverage, read_table(paths.BASELINES))
    kind = "test" if row.test["split"] == "test" else "validation"
    pairs = coverage["suspected_pairs"]
    warning = (
        f"{pairs} pairs of videos in different splits seem to be of one recording ({paths.suspected('folder')}): the "
        "figures are then too high"
    )
    labels = paths.labels(row.config.dataset).read_text(encoding="utf-8").splitlines()
    missing = [label for label in labels if label not in set(row.predictions["actual"])]
    unmeasured = f"not measured, for want of {kind} videos: {', '.join(missing)}"
    repeats = _plain(repeated_text([row], measured.names, kind)).strip()
    simple = [f"{name}: {figures.top1(table)}" for name, table in measured.simple().items()]
    return "\n".join(
        [
            f"top-1 {row.top1} on {row.test['videos']} {kind} videos; in brackets the 95% interval",
            *(["beside it, on the same videos: " + "; ".join(simple)] if simple else []),
            _plain(baselines_text(measured)),
            *([unmeasured] if missing else []),
            *([repeats] if repeats else []),
            *([warning] if pairs else []),
            f"model   {paths.weights(CUSTOM)}; in Python: r2plus1d.load({CUSTOM!r})",
            f"page    {paths.REPORT / 'index.html'}; tables also in {paths.README} and {paths.RESULTS}",
        ]
    )
