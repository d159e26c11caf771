"""The model card of a row: what the weights are, what they scored, how they are used. With the front matter of
Hugging Face's hub (https://huggingface.co/docs/hub/model-cards), whose `model-index` holds the figures."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from ruamel.yaml import YAML
from safetensors import safe_open

from r2plus1d.config.schema import CUSTOM, TestedRow
from r2plus1d.results import report
from r2plus1d.results.figures import Accuracy, mean_over_classes, share
from r2plus1d.results.markdown import escaped, markdown_table
from r2plus1d.results.tried import trained
from r2plus1d.system import paths
from r2plus1d.system.errors import redacted
from r2plus1d.system.files import sha256

MOST_CLASSES = 30  # that are named
WEAKEST = 5  # classes
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
CONVOLUTIONS = {"r2plus1d": "R(2+1)D", "r3d": "R3D", "r2d": "R2D", "f_r2d": "f-R2D"}


def card(
    config: TestedRow,
    test: dict,
    predictions: pd.DataFrame,
    table: pd.DataFrame,
    coverage: dict,
    record: dict,
    tested: dict,
) -> str:
    """Markdown; same bytes for the same figures and record.

    `test`, `predictions` and `table` are test.json, predictions.csv and per_class.csv of metrics/rows/<row>/; `record`
    is what made the weights, `tested` what made test.json, or empty. Raises OSError where the weights are missing.
    """
    file = paths.weights(config.row)
    template = Environment(
        loader=PackageLoader("r2plus1d.results", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    ).get_template("card.md.j2")
    parameters, header = _read(file)
    names = header["classes"]
    figures = _figures(test, predictions, len(names))
    weakest = table[table["f1"] < 100].sort_values(["f1", "class"]).head(WEAKEST)
    return template.render(
        front=_front_matter(config, test, figures),
        config=config,
        test=test,
        row=config.row,
        published=config.row != CUSTOM,
        convolution=CONVOLUTIONS.get(config.model.conv, config.model.conv.upper()),
        parameters=f"{parameters / 1e6:.3g}",
        names=[escaped(name) for name in names] if len(names) <= MOST_CLASSES else None,
        classes=len(names),
        split=report.SPLITS[test["split"]].lower(),
        views=f"{config.test.clips} clips x {config.test.crops} crop{'s' if config.test.crops > 1 else ''}",
        as_tested=_as_tested(header["view"], config),
        no_width=report.no_width_text([figures["mean class accuracy"]]),
        figures=markdown_table(("figure", "percent (95% interval)"), list(figures.items())),
        chance=report.chance_text(table, coverage),
        weakest=_weakest(weakest) if len(weakest) else None,
        suspicion=report.suspicion_text(config.dataset, coverage).strip(),
        repeated=test["repeated"],
        training=coverage.get("train", {}).get("readable", 0),
        how=trained(config),
        scale=report.scale_text(config),
        source=_source(config.init),
        weights_of=_source(config.checkpoint),
        trained_in=record.get("arithmetic"),
        measured_in=tested.get("arithmetic"),
        commit=_code(record),
        libraries=report.versions_text(record) or "not known",
        record=paths.made_by(config.row, "train"),
        sha256=sha256(file),
        file=file.name,
    )


def _code(record: dict) -> str:
    if not record:
        return "not known: the record is of other weights"
    if (commit := record["commit"]) is None:
        return "no git clone"
    return f"commit {commit['id']}{report.changes_text(commit)}"


def _source(given: str | None) -> str | None:
    """What weights from elsewhere are called: of a path the name alone, which tells strangers as much."""
    if given is None:
        return None
    return redacted(given) if "://" in given else f"`{Path(given).name}`"


def _read(file: Path) -> tuple[int, dict]:
    """How many numbers of a model file are trained, and its header."""
    with safe_open(file, "numpy") as opened:
        shapes = [opened.get_slice(key).get_shape() for key in opened.keys() if not key.endswith(BUFFERS)]  # noqa: SIM118
        header = json.loads(opened.metadata()["r2plus1d"])
    return sum(math.prod(shape) for shape in shapes), header


def _as_tested(view: dict, config: TestedRow) -> bool:
    """Whether the file alone, asked for so many clips and crops, shows a video as the test of the row did."""
    test, usual = config.test, {"spread": "inner", "average": "prob"} | view
    size = (view["crop"], view["crop"] if test.crops == 3 else view["resize"])
    how = (usual["spread"], usual["average"])
    return size == (test.crop, test.resize) and how == (test.spread, test.average_clips)


def _figures(test: dict, predictions: pd.DataFrame, classes: int) -> dict[str, Accuracy]:
    found = {
        "top-1": share(test["top1"], test["videos"]),
        "top-5": share(test["top5"], test["videos"]) if classes > report.TOP else None,
        "mean class accuracy": mean_over_classes(test["mean_class_accuracy"], predictions),
        "top-1 of one centre clip": share(test["single_clip"]["top1"], test["videos"]),
    }
    return {name: value for name, value in found.items() if value is not None}


def _front_matter(config: TestedRow, test: dict, figures: dict[str, Accuracy]) -> str:
    measured = [{"type": "accuracy", "name": name, "value": value.percent} for name, value in figures.items()]
    result = {
        "task": {"type": "video-classification", "name": "Action recognition"},
        "dataset": {"type": config.dataset, "name": config.dataset, "split": test["split"]},
        "metrics": measured,
    }
    matter: dict[str, Any] = {
        "library_name": "r2plus1d",
        "pipeline_tag": "video-classification",
        "tags": ["action-recognition", "video-classification", config.model.conv],
        "metrics": ["accuracy"],
        "model-index": [{"name": config.row, "results": [result]}],
    }
    text = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.dump(matter, text)
    return text.getvalue().strip()


def _weakest(classes: pd.DataFrame) -> str:
    lines = []
    for row in classes.to_dict("records"):
        recall = share(row["recall"], row["videos"]) if row["videos"] else ""
        lines.append(
            [escaped(row["class"]), row["videos"], f"{row['precision']:.1f}", recall, escaped(row["taken_for"])]
        )
    return markdown_table(("class", "videos", "precision", "recall", "taken for"), lines)
