"""Brings the dataset's videos to data/<dataset>/videos, or finds them where they lie, with a manifest."""

import sys

from r2plus1d.config import files
from r2plus1d.config.schema import DataConfig, FolderSource
from r2plus1d.datasets import dispatch
from r2plus1d.datasets.manifest import Entry, SetAside, read_table, write_table
from r2plus1d.system import code, kept, paths, records
from r2plus1d.system.files import digest, replace_folder, write_text
from r2plus1d.system.stage import run


def main() -> None:
    if kept.gives_back("download", records.SHARED):
        return
    data = files.read_data(paths.DATA_CONFIG)
    name, inputs = data.dataset, [paths.DATA_CONFIG, paths.scan(data.dataset), *dispatch.given(data)]
    tables = [paths.manifest(name), paths.set_aside(name), paths.classes(name)]
    machine = files.machine(files.read_params(paths.PARAMS))
    with records.recorded("download", records.SHARED, inputs, lambda: tables):
        made = [] if data.in_place else [repr(sorted(code.below("datasets").items())), repr(code.libraries())]
        work = paths.work(f"download-{name}", digest([paths.DATA_CONFIG], *made))
        rows, aside, classes = dispatch.bring(data, work, machine, scanned(data))
        write_table(paths.manifest(name), rows, Entry)
        write_table(paths.set_aside(name), aside, SetAside)
        write_text(paths.classes(name), "".join(f"{label}\n" for label in classes))
        replace_folder(work, paths.data(name) / "videos")  # last: what it holds is not fetched again
    listed = f", see {paths.set_aside(name)}" if aside else ""
    print(f"{len(rows)} videos, {sum(row.bytes for row in rows) / 1e6:.1f} MB; {len(aside)} files set aside{listed}")


def scanned(data: DataConfig) -> dict[str, str]:
    """The digests of the user's own videos, by path; of other datasets nothing."""
    if not isinstance(data.source, FolderSource):
        return {}
    table = read_table(paths.scan(data.dataset))
    return dict(zip(table["path"], table["sha256"], strict=True))


if __name__ == "__main__":
    run(main, sys.argv)
