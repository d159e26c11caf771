"""Videos -> packed JPEG frames of one row's short side: python stages/extract_frames.py ROW.

A row that reads videos, or loose frames where they lie, needs none. Frames that another row has packed from the same
videos at the same short side are taken over.
"""

import sys

from r2plus1d.config import files
from r2plus1d.config.schema import FramesConfig
from r2plus1d.datasets.manifest import read_table
from r2plus1d.system import kept, paths, records
from r2plus1d.system.files import digest
from r2plus1d.system.stage import run
from r2plus1d.video import extraction
from r2plus1d.video.groups import CODE, Machines, listed


def main(name: str) -> None:
    if kept.gives_back("extract_frames", name):
        return
    row = files.read_row(paths.CONFIGS, name, FramesConfig)
    out, inputs = paths.frames(row.dataset, name), [paths.manifest(row.dataset), paths.probe(row.dataset)]
    facts = {"short_side": row.short_side, "input": row.input}
    with records.recorded("extract_frames", name, inputs, [out / "index.csv"], lambda: facts):
        if row.input == "video" or row.loose_frames:
            extraction.nothing_packed(out)
            print(f"{name} reads {'loose frames' if row.loose_frames else 'videos'} where they lie")
        elif other := records.same("extract_frames", inputs, facts, name):
            extraction.take_over(paths.frames(row.dataset, other), out)
            print(f"the frames of {other} have the same short side: {row.short_side}")
        else:
            pack(row)


def pack(row: FramesConfig) -> None:
    table, probed = (read_table(path) for path in (paths.manifest(row.dataset), paths.probe(row.dataset)))
    machine = files.machine(files.read_params(paths.PARAMS))
    keys = [paths.manifest(row.dataset), paths.probe(row.dataset)]
    work = paths.work(f"extract-{row.dataset}-{row.short_side}", digest(keys, CODE))
    counts = dict(zip(probed["path"], probed["frames"].tolist(), strict=True))
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
