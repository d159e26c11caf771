"""Metric files -> the README's tables (also in metrics/report/) and the plots."""

import json
import sys

import pandas as pd

from r2plus1d.config import files, schema
from r2plus1d.results import markdown, plots, report
from r2plus1d.system import paths
from r2plus1d.system.files import write_text
from r2plus1d.system.stage import run


def main() -> None:
    published, coverage = read(paths.PUBLISHED), read(paths.COVERAGE)
    names = [name for name in (*published["rows"], schema.CUSTOM) if paths.row_config(name).is_file()]
    rows = [
        report.RowFigures(
            config=files.read_row(paths.row_config(name)),
            test=read(paths.metrics(name, "test.json")),
            benchmark=read(paths.metrics(name, "benchmark.json")),
            machine=read(paths.metrics(name, "benchmark_machine.json")),
            curve=pd.read_csv(paths.metrics(name, "curve.csv")),
            confusion=pd.read_csv(paths.metrics(name, "confusion.csv"), dtype=str, keep_default_na=False),
        )
        for name in names
    ]
    tables = {"published": report.published_table(published), "measured": report.measured_table(rows, coverage)}
    readme = paths.README.read_text(encoding="utf-8")
    for name, table in tables.items():
        write_text(paths.REPORT / f"{name}.md", table + "\n")
        readme = markdown.between_markers(readme, name, table)
    if readme != paths.README.read_text(encoding="utf-8"):
        write_text(paths.README, readme)
    plots.plot_curves(rows, paths.REPORT / "training_curves.png")
    plots.plot_top1(rows, coverage, paths.REPORT / "top1.png")
    for row in rows:
        plots.plot_confusion(row, paths.REPORT / f"confusion_{row.config.row}.png")


def read(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(main, sys.argv)
