"""Trains one row, or takes finished weights for it: python stages/train.py ROW.

Interrupted, it goes on from the last epoch, or the last byte fetched, when it is run again.
"""

import shutil
import sys

from r2plus1d.clips.items import repeated
from r2plus1d.config.schema import RowConfig
from r2plus1d.model import checkpoint
from r2plus1d.system import arithmetic, paths, processes
from r2plus1d.system.errors import redacted
from r2plus1d.system.stage import run
from r2plus1d.zoo import features, last_layer, live, records
from r2plus1d.zoo.log import Log, format_entry
from r2plus1d.zoo.rows import Row, open_row
from r2plus1d.zoo.training import Training
from r2plus1d.zoo.weights import finished_network, starting_network


def main(name: str) -> None:
    row = open_row(name, RowConfig)
    arithmetic.choose(row.config.runtime.arithmetic)
    if records.gives_back("train", row):
        live.clear(name)
        return
    if row.config.checkpoint is None and not features.last_layer_alone(row.config):
        processes.run(lambda: make(row), row.config.runtime, lambda: records.key(row))
    elif processes.first():  # where several processes were started, one is enough
        make(row)


@records.recorded("train")
def make(row: Row) -> None:
    name, config, work = row.config.row, row.config, records.unfinished(row)
    training = row.splits["train"]
    if config.checkpoint is None and (count := repeated(config, training)):
        say(f"training videos that are shorter than a clip, which then repeats them: {count} of {len(training)}")
    if features.last_layer_alone(config):
        found = features.read(paths.features(config.dataset, name))
        model = starting_network(config, row.classes, say).eval()
        log = last_layer.train(config, model, found, row.splits, row.classes, say)
        lines = [format_entry(entry, last_layer.STEPS) for entry in log.entries]
    elif config.checkpoint is None:
        model, log = Training(
            config, row.splits, row.reader, row.classes, work, row.workers, say, row.machine.live
        ).run()
        iterations = -(-len(row.splits["train"]) // config.videos_per_step)
        lines = [format_entry(entry, iterations) for entry in log.entries]
    else:
        model, log = finished_network(config, row.classes), Log()
        lines = [f"Not trained: these are the weights of {redacted(config.checkpoint)}"]
        say(lines[0])
    if processes.first():
        checkpoint.save(model, paths.weights(name))
        log.write(paths.model(name), lines, paths.timed_log(name), paths.metrics(name, "curve.csv"))
        shutil.rmtree(work, ignore_errors=True)
        live.clear(name)


def say(text: str) -> None:
    if processes.first():
        print(text, flush=True)


if __name__ == "__main__":
    run(main, sys.argv)
