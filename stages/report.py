"""Metric files -> the tables of the README and of docs/results.md, the plots, and metrics/summary.json."""

import sys

from r2plus1d.config import files
from r2plus1d.config.schema import CUSTOM
from r2plus1d.results import page, plots, report, seeds, tried
from r2plus1d.results.figures import Measured, read_row, read_table
from r2plus1d.results.markdown import into_document
from r2plus1d.results.summary import short_names, summary
from r2plus1d.system import paths
from r2plus1d.system.files import must_read_json, write_json, write_text
from r2plus1d.system.stage import run


def main() -> None:
    published, coverage = must_read_json(paths.PUBLISHED), must_read_json(paths.COVERAGE)
    rows = [read_row(name) for name in files.read_params(paths.PARAMS)["zoo"]]
    names = short_names([row.config for row in rows], published)
    write_json(paths.SUMMARY, summary(rows, names, rows[0].test["videos"]))
    beside = None
    for row in rows:
        if row.config.row == CUSTOM and row.config.dataset in tried.DATASETS:
            tried.note(row)
            beside = tried.table(row.config.dataset)
    seeded = seeds.of_what_lies_here(seeds.read(), names)
    spreads = {row: text for row in names if (text := seeds.spread_text(seeded, row))}
    measured = Measured(rows, names, coverage, read_table(paths.BASELINES), spreads, beside)
    for document, name, table in (
        (paths.README, "published", report.published_table(published)),
        (paths.README, "measured", report.measured_table(measured)),
        (paths.RESULTS, "details", report.details_table(measured)),
        (paths.RESULTS, "views", report.views_table(measured)),
    ):
        write_text(paths.REPORT / f"{name}.md", table + "\n")
        into_document(document, name, table)
    write_text(paths.REPORT / "index.html", page.page(measured, published, seeded if spreads else None))
    for figure, name in (
        (plots.curves_figure(measured), "training_curves"),
        (plots.top1_figure(measured), "top1"),
        (plots.views_figure(measured), "views"),
        (plots.calibration_figure(measured), "calibration"),
    ):
        plots.save_figure(figure, paths.REPORT / f"{name}.png")
    for row in rows:
        plots.plot_confusion(row, paths.REPORT / f"confusion_{row.config.row}.png")


if __name__ == "__main__":
    run(main, sys.argv)
