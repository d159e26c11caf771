"""Trains one row, or takes finished weights for it: python stages/train.py ROW.

Interrupted, it goes on from the last epoch, or the last byte fetched, when it is run again.
"""

import shutil
import sys
from pathlib import Path

from r2plus1d.datasets.fetch import FetchError, fetch
from r2plus1d.model import checkpoint
from r2plus1d.results import provenance
from r2plus1d.system import paths, processes
from r2plus1d.system.stage import run
from r2plus1d.zoo import training
from r2plus1d.zoo.rows import Row, open_row


def main(name: str) -> None:
    row = open_row(name)
    if row.config.checkpoint is None:
        processes.run(lambda: make(row), row.config.runtime, row.key)
    elif processes.first():  # where several processes were started, one adopts the weights
        make(row)


@provenance.recorded("train")
def make(row: Row) -> None:
    name, config, classes = row.config.row, row.config, len(row.classes)
    arguments, work = training.build_arguments(config, classes), paths.work(name, row.key())
    if config.checkpoint is None:
        model, log = training.train(config, row.splits, row.reader, classes, work, row.workers, say)
        iterations = -(-len(row.splits["train"]) // config.videos_per_step)
        lines = [training.format_entry(entry, iterations) for entry in log.entries]
    else:
        model, log = checkpoint.adopt(weights_file(config.checkpoint), arguments), training.Log()
        lines = [f"Not trained: these are the weights of {config.checkpoint}"]
        say(lines[0])
    if processes.first():
        checkpoint.save(model, paths.weights(name), arguments)
        log.write(paths.model(name), lines, paths.timed_log(name), paths.metrics(name, "curve.csv"))
        shutil.rmtree(work, ignore_errors=True)


def weights_file(source: str) -> Path:
    """A fetched file stays in torch's own cache, where MMAction keeps the same files under the same names."""
    if "://" not in source:
        return Path(source)
    import torch.hub  # noqa: PLC0415  (at the top it would stand before the package, which fixes what torch reads)

    try:
        return fetch(source, Path(torch.hub.get_dir(), "checkpoints"))
    except FetchError as error:
        raise FetchError(f"{error}; or fetch the file yourself and give its path as `checkpoint`") from error


def say(text: str) -> None:
    if processes.first():
        print(text, flush=True)


if __name__ == "__main__":
    run(main, sys.argv)
