"""Metric files -> the tables of the README and of docs/results.md, the plots, and metrics/summary.json."""

import sys

import pandas as pd

from r2plus1d.config import files
from r2plus1d.config.schema import CUSTOM, TestedRow
from r2plus1d.results import page, plots, report, tried
from r2plus1d.results.markdown import into_document
from r2plus1d.results.report import TEXTS
from r2plus1d.results.summary import short_names, summary
from r2plus1d.system import paths, records
from r2plus1d.system.files import must_read_json, write_json, write_text
from r2plus1d.system.stage import run


def main() -> None:
    published, coverage = must_read_json(paths.PUBLISHED), must_read_json(paths.COVERAGE)
    rows = [opened(name) for name in files.read_params(paths.PARAMS)["zoo"]]
    names = short_names([row.config for row in rows], published)
    write_json(paths.SUMMARY, summary(rows, names, rows[0].test["videos"]))
    beside = None
    for row in rows:
        if row.config.row == CUSTOM and row.config.dataset in tried.DATASETS:
            tried.note(row)
            beside = tried.table(row.config.dataset)
    for document, name, table in (
        (paths.README, "published", report.published_table(published)),
        (paths.README, "measured", report.measured_table(rows, names, coverage, beside)),
        (paths.RESULTS, "details", report.details_table(rows, names, coverage)),
    ):
        write_text(paths.REPORT / f"{name}.md", table + "\n")
        into_document(document, name, table)
    write_text(paths.REPORT / "index.html", page.page(rows, names, published, coverage, beside))
    plots.save_figure(plots.curves_figure(rows), paths.REPORT / "training_curves.png")
    plots.save_figure(plots.top1_figure(rows, coverage), paths.REPORT / "top1.png")
    for row in rows:
        plots.plot_confusion(row, paths.REPORT / f"confusion_{row.config.row}.png")


def opened(name: str) -> report.RowFigures:
    return report.RowFigures(
        config=files.read_row(paths.CONFIGS, name, TestedRow),
        test=must_read_json(paths.metrics(name, "test.json")),
        benchmark=must_read_json(paths.metrics(name, "benchmark.json")),
        machine=must_read_json(paths.metrics(name, "benchmark_machine.json")),
        curve=pd.read_csv(paths.metrics(name, "curve.csv")),
        predictions=pd.read_csv(paths.metrics(name, "predictions.csv"), dtype=TEXTS, keep_default_na=False),
        classes=pd.read_csv(paths.metrics(name, "per_class.csv"), dtype=TEXTS, keep_default_na=False),
        mistakes=must_read_json(paths.metrics(name, "mistakes.json")),
        record=records.of_output("train", name, paths.weights(name)),
    )


if __name__ == "__main__":
    run(main, sys.argv)
