"""Trains one row, or takes finished weights for it: python stages/train.py ROW.

Interrupted, it goes on from the last epoch, or the last byte fetched, when it is run again.
"""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import torch.hub

from r2plus1d import checkpoint, distributed, paths, training
from r2plus1d.fetch import FetchError, fetch
from r2plus1d.files import held, write_text
from r2plus1d.rows import Row, open_row
from r2plus1d.stage import run


def main(name: str) -> None:
    row = open_row(name)
    if row.config.checkpoint is None:
        distributed.run(lambda: make(row), row.config.runtime, row.key)
    elif os.environ.get("RANK", "0") == "0":  # where several processes or machines were started, the first adopts it
        make(row)


def make(row: Row) -> None:
    name, config, classes = row.config.row, row.config, len(row.classes)
    arguments, work, folder = training.build_arguments(config, classes), paths.work(name, row.key()), paths.model(name)
    with held(work) if distributed.first() else contextlib.nullcontext():
        if config.checkpoint is None:
            model, log = training.train(config, row.splits, row.reader, classes, work, row.workers, say)
            iterations = -(-len(row.splits["train"]) // config.videos_per_step)
            lines = [training.format_entry(entry, iterations) for entry in log.entries]
        else:
            model, log = checkpoint.adopt(weights_file(config.checkpoint), arguments), training.Log()
            lines = [f"Not trained: these are the weights of {config.checkpoint}"]
            say(lines[0])
        if not distributed.first():
            return
        checkpoint.save(model, paths.weights(name), arguments)
        write_text(folder / "train.log", "\n".join(lines) + "\n")
        write_text(folder / "train.log.json", "".join(json.dumps(e) + "\n" for e in log.entries))
        write_text(paths.timed_log(name), "".join(json.dumps(e) + "\n" for e in log.timed))
        curve = pd.DataFrame(log.curve(), columns=training.CURVE)
        write_text(paths.metrics(name, "curve.csv"), curve.to_csv(index=False, lineterminator="\n"))
        shutil.rmtree(work)


def weights_file(source: str) -> Path:
    """A fetched file stays in torch's own cache, where MMAction keeps the same files under the same names."""
    if "://" not in source:
        return Path(source)
    try:
        return fetch(source, Path(torch.hub.get_dir(), "checkpoints"))
    except FetchError as error:
        raise FetchError(f"{error}; or fetch the file yourself and give its path as `checkpoint`") from error


def say(text: str) -> None:
    if distributed.first():
        print(text, flush=True)


if __name__ == "__main__":
    run(main, sys.argv)
