"""Videos -> packed JPEG frames in data/<dataset>/frames/<short side>p, for the short sides that some row needs.

Loose frames that another tool extracted are only indexed.
"""

import sys

from r2plus1d import config, datasets, paths
from r2plus1d.extraction import CODE, extract, index_loose
from r2plus1d.files import digest
from r2plus1d.stage import run


def main() -> None:
    data = config.read_data(paths.DATA_CONFIG)
    manifest = paths.manifest(data.dataset)
    table = datasets.read_table(manifest)
    work = paths.work(f"extract-{data.dataset}", digest([paths.DATA_CONFIG, manifest], CODE))
    out = paths.frames(data.dataset)
    if data.loose_frames:
        counts = dict(zip(table["path"], table["frames"].tolist(), strict=True))
        unreadable = index_loose(paths.videos(data), counts, data.loose_frames, data.short_sides, work, out)
    else:
        params = config.read_params(paths.PARAMS)
        processes = config.workers(params), config.scheduler(params)
        digests = (
            dict(zip(table["path"], table["sha256"], strict=True)) if data.in_place else None
        )  # DVC checks its own
        listed = table["path"].tolist()
        unreadable = extract(paths.videos(data), listed, data.short_sides, work, out, *processes, digests)
    datasets.write_table(paths.unreadable(data.dataset), unreadable, datasets.UNREADABLE)
    for path, reason in unreadable:
        print(f"set aside {path}: {reason}")


if __name__ == "__main__":
    run(main, sys.argv)
