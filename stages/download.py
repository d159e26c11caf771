"""Brings the dataset's videos to data/<dataset>/videos, or finds them where they lie, with a manifest."""

import sys

from r2plus1d import config, datasets, paths
from r2plus1d.files import digest, write_text
from r2plus1d.stage import run


def main() -> None:
    data = config.read_data(paths.DATA_CONFIG)
    work = paths.work(f"download-{data.dataset}", digest([paths.DATA_CONFIG]))
    videos = paths.data(data.dataset) / "videos"
    params = config.read_params(paths.PARAMS)
    rows, aside, classes = datasets.bring(data, work, videos, config.workers(params), config.connections(params))
    datasets.write_table(paths.manifest(data.dataset), rows, datasets.MANIFEST)
    datasets.write_table(paths.set_aside(data.dataset), aside, datasets.SET_ASIDE)
    write_text(paths.classes(data.dataset), "".join(f"{name}\n" for name in classes))
    print(f"{len(rows)} videos, {sum(row[-2] for row in rows) / 1e6:.1f} MB; {len(aside)} files set aside")


if __name__ == "__main__":
    run(main, sys.argv)
