"""Tests one row by the table's protocol, 10 clips x 3 crops: python stages/test.py ROW."""

import sys

import torch
from safetensors.torch import save

from r2plus1d.config.schema import TestedRow
from r2plus1d.model import checkpoint
from r2plus1d.system import arithmetic, paths, processes
from r2plus1d.system.files import sha256, write_bytes, write_json, write_text
from r2plus1d.system.stage import run
from r2plus1d.zoo import accuracy, evaluation, features, mistakes, records
from r2plus1d.zoo.rows import Row, open_row


def main(name: str) -> None:
    row = open_row(name, TestedRow)
    arithmetic.choose(row.config.runtime.arithmetic)
    if records.gives_back("test", row):
        return
    if not features.last_layer_alone(row.config):
        processes.run(lambda: test(row), row.config.runtime, lambda: row.key() + sha256(paths.weights(name))[:12])
    elif processes.first():  # where several processes were started, one is enough
        test(row)


@records.recorded("test")
def test(row: Row) -> None:
    name, model = row.config.row, checkpoint.restore(paths.weights(row.config.row))
    split = row.measured
    if features.last_layer_alone(row.config):
        network: evaluation.Tested = features.FrozenNetwork(row, model)
    else:
        network = evaluation.WholeNetwork(row.config, model, row.reader, row.workers)
    result = evaluation.test(row.config, network, row.splits[split])
    if not processes.first():
        return
    write_text(paths.scores(name), evaluation.format_scores(result.scores))
    if result.views is not None:
        write_bytes(paths.views(name), save({"scores": torch.from_numpy(result.views)}))
    write_json(paths.metrics(name, "test.json"), {**result.figures, "split": split})
    videos, mode = [sample.path for sample in row.splits[split]], row.config.test.average_clips
    predictions = accuracy.predictions(videos, result.scores, result.labels, row.classes, mode)
    for table, file in (
        (predictions, "predictions.csv"),
        (accuracy.per_class(result.scores, result.labels, row.classes), "per_class.csv"),
        (result.fewer, "views.csv"),
    ):
        write_text(paths.metrics(name, file), table.to_csv(index=False, lineterminator="\n"))
    write_json(paths.metrics(name, "mistakes.json"), mistakes.surest(predictions, row.splits[split], row.reader))
    print(f"{name}: top-1 {result.figures['top1']}, static control {result.figures['static']['top1']}")


if __name__ == "__main__":
    run(main, sys.argv)
