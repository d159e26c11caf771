"""Videos -> packed JPEG frames in data/<dataset>/frames/<short side>p, for the short sides that some row needs."""

from r2plus1d import config, datasets, paths
from r2plus1d.extraction import extract
from r2plus1d.files import digest
from r2plus1d.stage import run


def main() -> None:
    data = config.read_data(paths.DATA_CONFIG)
    manifest = paths.manifest(data.dataset)
    unreadable = extract(
        paths.videos(data.dataset),
        datasets.read_table(manifest)["path"].tolist(),
        data.short_sides,
        paths.work(f"extract-{data.dataset}", digest([paths.DATA_CONFIG, manifest])),
        paths.frames(data.dataset),
        config.workers(config.read_params(paths.PARAMS)),
    )
    datasets.write_table(paths.unreadable(data.dataset), unreadable, datasets.SET_ASIDE)
    for path, reason in unreadable:
        print(f"set aside {path}: {reason}")


if __name__ == "__main__":
    run(main)
