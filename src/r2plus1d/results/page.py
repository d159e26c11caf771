"""The report as one page that needs nothing else: no network, no script, no other file."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from matplotlib.figure import Figure

from r2plus1d.results import plots, report, seeds
from r2plus1d.results.figures import Accuracy, Measured, RowFigures, share
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system.paths import manifest

MOST_CLASSES = 50  # of a row that are listed: those of lowest F1
MATRIX = 30  # classes, up to which the confusion is shown


def page(measured: Measured, published: dict, seeded: seeds.Found | None = None) -> str:
    """HTML: the tables and curves, and each row's classes, confusion and mistakes; same bytes for the same figures.
    `seeded` is what is known of other seeds, if anything."""
    rows, names, tried = measured.rows, measured.names, measured.tried
    head, table, told = report.measured_table(dataclasses.replace(measured, tried=None)).split("\n\n")
    details, made, controls, explained = report.details_table(measured).split("\n\n")
    views, viewed = report.views_table(measured).split("\n\n")
    template = Environment(
        loader=PackageLoader("r2plus1d.results", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("page.html.j2")
    return template.render(
        dataset=rows[0].config.dataset,
        head=_text(head),
        measured=_rendered(table),
        told=_text(told),
        tried=tried and _rendered(tried),
        top1=_drawn(plots.top1_figure(measured), "top1", "Top-1 of every row as bars"),
        curves=_drawn(plots.curves_figure(measured), "curves", "Training curves"),
        views=_rendered(views),
        viewed=_text(viewed),
        by_views=_drawn(plots.views_figure(measured), "views", "Top-1 by the number of clips and crops"),
        seeds=_rendered(seeds.table(seeded, names)) if seeded else None,
        by_seed=_drawn(seeds.figure(seeded, names), "seeds", "Top-1 of each seed, by row") if seeded else None,
        controls=_rendered(controls),
        explained=_text(explained),
        calibration=_drawn(plots.calibration_figure(measured), "calibration", "Right answers by their probability"),
        rows=[_of_row(row, names[row.config.row]) for row in rows],
        published=_rendered(report.published_table(published)),
        details=_rendered(details),
        made=_text(made),
        origins=_rendered(_origins(rows, names)),
    )


def _origins(rows: Sequence[RowFigures], names: Mapping[str, str]) -> str:
    """What made the weights of each row: the commit, the data by its manifest, and the versions."""
    cells = []
    for row in rows:
        commit, inputs = row.record.get("commit"), row.record.get("inputs", {})
        code = f"`{commit['id'][:12]}`{report.changes_text(commit)}" if commit else "unknown"
        data = f"`{inputs.get(manifest(row.config.dataset).as_posix(), 'unknown')[:12]}`"
        cells.append((names[row.config.row], code, data, row.config.seed, report.versions_text(row.record)))
    return markdown_table(("row", "commit", "data", "seed", "versions"), cells)


def _of_row(row: RowFigures, name: str) -> dict[str, Any]:
    classes = row.classes.sort_values(["f1", "class"]).head(MOST_CLASSES)
    known = sorted(set(row.predictions["actual"]) | set(row.predictions["predicted"]))
    return {
        "row": row.config.row,
        "name": name,
        "top1": str(row.top1),
        "classes": [line | {"recall": _recall(line)} for line in classes.to_dict("records")],
        "hidden": len(row.classes) - len(classes),
        "names": known,
        "matrix": _matrix(row.predictions, known) if len(known) <= MATRIX else None,
        "mistakes": [
            {**mistake, "image": mistake["jpeg"], "probability": f"{100 * mistake['probability']:.1f}"}
            for mistake in row.mistakes
        ],
    }


def _recall(line: Mapping[str, Any]) -> Accuracy | str:
    return share(line["recall"], line["videos"]) if line["videos"] else ""


def _matrix(predictions: pd.DataFrame, classes: list[str]) -> list[tuple[str, list[int]]]:
    """By actual class the share of its videos, in percent, that were taken for each class."""
    counts = pd.crosstab(predictions["actual"], predictions["predicted"]).reindex(
        index=classes, columns=classes, fill_value=0
    )
    shares = (100 * counts.div(counts.sum(axis=1).clip(lower=1), axis=0)).round().astype(int)
    return list(zip(classes, shares.to_numpy().tolist(), strict=True))


def _rendered(markdown: str) -> Markup:
    return Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown))


def _text(markdown: str) -> Markup:
    """The same of one paragraph, without its tag."""
    return Markup(MarkdownIt("commonmark", {"html": False}).renderInline(markdown))


def _drawn(figure: Figure, name: str, alt: str) -> Markup:
    """As SVG whose text has the page's colour; its ids begin with `name`, since they must differ on one page."""
    text = plots.as_svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", text)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1))
