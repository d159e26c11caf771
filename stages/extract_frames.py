"""Videos -> packed JPEG frames in data/<dataset>/frames/<short side>p, for the short sides that some row needs.

Loose frames that another tool extracted are only indexed.
"""

import sys

from r2plus1d.config import files
from r2plus1d.datasets import manifest
from r2plus1d.system import paths
from r2plus1d.system.files import digest
from r2plus1d.system.stage import run
from r2plus1d.video.extraction import CODE, extract, index_loose


def main() -> None:
    data = files.read_data(paths.DATA_CONFIG)
    listed = paths.manifest(data.dataset)
    table = manifest.read_table(listed)
    work = paths.work(f"extract-{data.dataset}", digest([paths.DATA_CONFIG, listed], CODE))
    out = paths.frames(data.dataset)
    if data.loose_frames:
        counts = dict(zip(table["path"], table["frames"].tolist(), strict=True))
        unreadable = index_loose(paths.videos(data), counts, data.loose_frames, data.short_sides, work, out)
    else:
        params = files.read_params(paths.PARAMS)
        processes = files.workers(params), files.scheduler(params)
        digests = (
            dict(zip(table["path"], table["sha256"], strict=True)) if data.in_place else None
        )  # DVC checks its own
        unreadable = extract(
            paths.videos(data), table["path"].tolist(), data.short_sides, work, out, *processes, digests
        )
    manifest.write_table(paths.unreadable(data.dataset), unreadable, manifest.Unreadable)
    for path, reason in unreadable:
        print(f"set aside {path}: {reason}")


if __name__ == "__main__":
    run(main, sys.argv)
