"""Manifest and probe -> annotation lists, label map and coverage; refuses lists that would spoil a result."""

import sys

from r2plus1d.clips import lists
from r2plus1d.config import files
from r2plus1d.datasets.annotations import Sample, format_frames, format_published, format_videos
from r2plus1d.datasets.manifest import read_table
from r2plus1d.system import paths
from r2plus1d.system.files import write_json, write_text
from r2plus1d.system.stage import run


def main() -> None:
    data = files.read_data(paths.DATA_CONFIG)
    name, folder, videos = data.dataset, paths.lists(data.dataset), paths.videos(data)
    manifest, probed, aside = (read_table(path(name)) for path in (paths.manifest, paths.probe, paths.set_aside))
    frames = dict(zip(probed["path"], probed["frames"].tolist(), strict=True))
    classes = paths.classes(name).read_text(encoding="utf-8").splitlines()
    labels = {label: number for number, label in enumerate(classes)}
    splits: dict[str, list[Sample]] = {"train": [], "val": []}
    for path, label, split in zip(manifest["path"], manifest["label"], manifest["split"], strict=True):
        if path in frames:
            splits[split].append(Sample(path, frames[path], labels[label]))
    found = {path for path in manifest["path"] if (videos / path).exists()}
    lists.check(splits, classes, dict(zip(manifest["path"], manifest["sha256"], strict=True)), found)
    for split, samples in splits.items():
        write_text(folder / lists.list_name(name, split, "rawframes"), format_frames(samples))
        write_text(folder / lists.list_name(name, split, "videos"), format_videos(samples))
        write_text(folder / lists.list_name(name, split, "ids"), format_published(samples))
    write_text(paths.labels(name), "".join(f"{label}\n" for label in classes))
    coverage: dict = {"classes": len({sample.label for samples in splits.values() for sample in samples})}
    for split, samples in splits.items():
        own = manifest[manifest["split"] == split]
        listed = len(own) + int((aside["split"] == split).sum())
        coverage[split] = {"listed": listed, "found": int(own["path"].isin(found).sum()), "readable": len(samples)}
    write_json(paths.COVERAGE, coverage)
    print(", ".join(f"{key} {value}" for key, value in coverage.items()))


if __name__ == "__main__":
    run(main, sys.argv)
