"""Trains one row: python stages/train.py ROW. Interrupted, it goes on from the last epoch when run again."""

import json
import shutil
import sys

import pandas as pd

from r2plus1d import checkpoint, paths, training
from r2plus1d.files import held, write_text
from r2plus1d.rows import open_row
from r2plus1d.stage import run


def main(name: str) -> None:
    row = open_row(name)
    say = lambda text: print(text, flush=True)  # noqa: E731
    with held(paths.work(name, row.key())) as work:
        model, built_with, log = training.train(
            row.config, row.splits, row.reader, len(row.classes), work, row.workers, say
        )
        checkpoint.save(model, paths.weights(name), built_with)
        iterations = -(-len(row.splits["train"]) // row.config.train.videos_per_gpu)
        lines = [training.format_entry(entry, iterations) for entry in log.entries]
        write_text(paths.model(name) / "train.log", "\n".join(lines) + "\n")
        write_text(paths.model(name) / "train.log.json", "".join(json.dumps(e) + "\n" for e in log.entries))
        write_text(paths.timed_log(name), "".join(json.dumps(e) + "\n" for e in log.timed))
        write_text(paths.metrics(name, "curve.csv"), pd.DataFrame(log.curve()).to_csv(index=False, lineterminator="\n"))
        shutil.rmtree(work)


if __name__ == "__main__":
    run(main, sys.argv)
