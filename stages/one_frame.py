"""One row trained and tested with one frame a clip, to learn from appearance alone: python stages/one_frame.py ROW.

Interrupted, it goes on from the last epoch, or where the last layer alone is trained from the last videos, when it is
run again.
"""

import shutil
import sys

import pandas as pd

from r2plus1d.config import files
from r2plus1d.config.schema import OneFrameConfig, TestedRow
from r2plus1d.system import arithmetic, paths
from r2plus1d.system.files import write_text
from r2plus1d.system.stage import run
from r2plus1d.zoo import accuracy


def main(name: str) -> None:
    config = files.read_row(paths.CONFIGS, name, OneFrameConfig)
    if config.of is not None:
        compute(config.of)
        return
    save(name, pd.DataFrame(columns=accuracy.PREDICTIONS))
    print(f"{name} is not trained with one frame a clip: baselines.one_frame in params.yaml says of which rows")


def compute(config: TestedRow) -> None:
    from r2plus1d.system import processes  # noqa: PLC0415 (load torch, for rows that have something to compute)
    from r2plus1d.zoo import evaluation, features, last_layer, records  # noqa: PLC0415
    from r2plus1d.zoo.rows import Row, of_config  # noqa: PLC0415
    from r2plus1d.zoo.training import Training  # noqa: PLC0415
    from r2plus1d.zoo.weights import starting_network  # noqa: PLC0415

    arithmetic.choose(config.runtime.arithmetic)
    row, alone = of_config(config, "one_frame"), features.last_layer_alone(config)
    if records.gives_back("one_frame", row):
        return

    def say(text: str) -> None:
        if processes.first():
            print(text, flush=True)

    @records.recorded("one_frame")
    def make(row: Row) -> None:
        work = records.unfinished(row, "one_frame")
        say(f"{config.row}, with one frame a clip")
        network: evaluation.Tested
        if alone:
            model = starting_network(config, row.classes, say).eval()
            last_layer.train(config, model, features.features(row, model), row.splits, row.classes, say)
            network = features.FrozenNetwork(row, model)
        else:
            model, _ = Training(config, row.splits, row.reader, row.classes, work, row.workers, say).run()
            network = evaluation.WholeNetwork(config, model, row.reader, row.workers)
        samples = row.splits[row.measured]
        result = evaluation.test(config, network, samples)
        if processes.first():
            videos = [sample.path for sample in samples]
            mode = config.test.average_clips
            save(config.row, accuracy.predictions(videos, result.scores, result.labels, row.classes, mode))
            shutil.rmtree(work, ignore_errors=True)
        say(f"{config.row}, with one frame a clip: top-1 {result.figures['top1']}")

    if not alone:
        processes.run(lambda: make(row), config.runtime, lambda: records.key(row))
    elif processes.first():
        make(row)


def save(name: str, table: pd.DataFrame) -> None:
    write_text(paths.metrics(name, "one_frame.csv"), table.to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    run(main, sys.argv)
