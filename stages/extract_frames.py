"""Videos -> packed JPEG frames of one row's short side: python stages/extract_frames.py ROW.

A row that reads videos, or loose frames where they lie, or makes its frames on the fly, needs none. Frames that another
row has packed from the same videos at the same short side are taken over.
"""

import os
import shutil
import sys
from pathlib import Path

from r2plus1d.config import files
from r2plus1d.config.schema import FramesConfig
from r2plus1d.datasets.manifest import read_table
from r2plus1d.system import code, kept, paths, records
from r2plus1d.system.files import digest, held
from r2plus1d.system.stage import run
from r2plus1d.video import shards
from r2plus1d.video.groups import CODE, Machines, listed


def main(name: str) -> None:
    if kept.gives_back("extract_frames", name):
        return
    row = files.read_row(paths.CONFIGS, name, FramesConfig)
    out, inputs = paths.frames(row.dataset, name), [paths.manifest(row.dataset), paths.probe(row.dataset)]
    facts: dict = {"short_side": row.short_side, "input": row.input}
    shutil.rmtree(shards.unfinished(out), ignore_errors=True)  # of one that was killed
    with records.recorded("extract_frames", name, inputs, lambda: shards.told(out), lambda: facts):
        if row.input == "video" or row.loose_frames:
            shards.nothing_packed(out)
            print(f"{name} reads {'loose frames' if row.loose_frames else 'videos'} where they lie")
        elif other := packed_before(row, inputs, facts):
            shards.take_over(paths.frames(row.dataset, other["row"]), out)
            facts["code"] = code.running() | other["code"]  # what packed them, if not this process
            print(f"the frames of {other['row']} have the same short side: {row.short_side}")
        else:
            pack(row)


def packed_before(row: FramesConfig, inputs: list[Path], facts: dict) -> dict:
    """The record of another row with the same frames, if they are whole."""
    other = {} if kept.AGAIN in os.environ else records.same("extract_frames", inputs, facts, row.row)
    return other if other and kept.is_whole(f"extract_frames@{other['row']}") else {}


def pack(row: FramesConfig) -> None:
    from r2plus1d.video import extraction  # noqa: PLC0415  (loads torch, for rows that have something to pack)

    table, probed = (read_table(path) for path in (paths.manifest(row.dataset), paths.probe(row.dataset)))
    machine = files.machine(files.read_params(paths.PARAMS))
    keys = [paths.manifest(row.dataset), paths.probe(row.dataset)]
    work = paths.work(f"extract-{row.dataset}-{row.short_side}", digest(keys, CODE))
    counts = dict(zip(probed["path"], probed["frames"].tolist(), strict=True))
    name = f"extract-{row.dataset}-{row.short_side}"
    with held(paths.lock(name, None), f"extracting {row.dataset} at a short side of {row.short_side}"):
        extraction.extract(
            paths.videos(row),
            listed(table, row.in_place is not None),
            counts,
            row.short_side,
            work,
            paths.frames(row.dataset, row.row),
            Machines(machine.readers, machine.scheduler),
        )


if __name__ == "__main__":
    run(main, sys.argv)
