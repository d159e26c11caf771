"""Brings the dataset's videos to data/<dataset>/videos, or finds them where they lie, with a manifest."""

import sys

from r2plus1d.config import files
from r2plus1d.datasets import dispatch, manifest
from r2plus1d.system import paths
from r2plus1d.system.files import digest, write_text
from r2plus1d.system.stage import run


def main() -> None:
    data = files.read_data(paths.DATA_CONFIG)
    work = paths.work(f"download-{data.dataset}", digest([paths.DATA_CONFIG]))
    videos = paths.data(data.dataset) / "videos"
    params = files.read_params(paths.PARAMS)
    rows, aside, classes = dispatch.bring(data, work, videos, files.workers(params), files.connections(params))
    manifest.write_table(paths.manifest(data.dataset), rows, manifest.Entry)
    manifest.write_table(paths.set_aside(data.dataset), aside, manifest.SetAside)
    write_text(paths.classes(data.dataset), "".join(f"{name}\n" for name in classes))
    print(f"{len(rows)} videos, {sum(row.bytes for row in rows) / 1e6:.1f} MB; {len(aside)} files set aside")


if __name__ == "__main__":
    run(main, sys.argv)
