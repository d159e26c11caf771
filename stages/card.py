"""Metrics and record of one row -> its model card: python stages/card.py ROW."""

import sys

from r2plus1d.config import files
from r2plus1d.config.schema import TestedRow
from r2plus1d.results.card import card
from r2plus1d.results.figures import read_table
from r2plus1d.system import paths, records
from r2plus1d.system.files import must_read_json, write_text
from r2plus1d.system.stage import run


def main(name: str) -> None:
    config = files.read_row(paths.CONFIGS, name, TestedRow)
    classes, predictions = (read_table(paths.metrics(name, file)) for file in ("per_class.csv", "predictions.csv"))
    test, coverage = must_read_json(paths.metrics(name, "test.json")), must_read_json(paths.COVERAGE)
    record = records.of_output("train", name, paths.weights(name))
    tested = records.of_output("test", name, paths.metrics(name, "test.json"))
    write_text(paths.card(name), card(config, test, predictions, classes, coverage, record, tested))


if __name__ == "__main__":
    run(main, sys.argv)
