"""Looks at every video: which can be read, how many frames each has, what it looks like -> data/<dataset>/probe.csv,
looks.csv and unreadable.csv."""

import sys

from r2plus1d.config import files
from r2plus1d.datasets.manifest import Looks, Probed, Unreadable, read_table, write_table
from r2plus1d.system import kept, paths, records
from r2plus1d.system.files import digest
from r2plus1d.system.stage import run
from r2plus1d.video.groups import CODE, Machines, forget, listed
from r2plus1d.video.probe import probe, probe_loose


def main() -> None:
    if kept.gives_back("probe", records.SHARED):
        return
    data = files.read_data(paths.DATA_CONFIG)
    name, inputs = data.dataset, [paths.manifest(data.dataset)]
    table, videos = read_table(paths.manifest(name)), paths.videos(data)
    tables = [paths.probe(name), paths.looks(name), paths.unreadable(name)]
    machine = files.machine(files.read_params(paths.PARAMS))
    work = paths.work(f"probe-{name}", digest([paths.DATA_CONFIG, *inputs], CODE))
    with records.recorded("probe", records.SHARED, inputs, lambda: tables):
        if data.loose_frames:
            counts = dict(zip(table["path"], table["frames"].tolist(), strict=True))
            readable, unreadable = probe_loose(videos, counts, data.loose_frames, data.loose_rate or 0.0)
            looks: list[Looks] = []
        else:
            machines = Machines(machine.readers, machine.scheduler)
            readable, looks, unreadable = probe(videos, listed(table, data.in_place is not None), work, machines)
        write_table(paths.probe(name), readable, Probed)
        write_table(paths.looks(name), looks, Looks)
        write_table(paths.unreadable(name), unreadable, Unreadable)
        forget(work)
    for row in unreadable:
        print(f"set aside {row.path}: {row.reason}")
    print(f"{len(readable)} of {len(table)} videos can be read")


if __name__ == "__main__":
    run(main, sys.argv)
