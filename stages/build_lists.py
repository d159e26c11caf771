"""Manifest and frame index -> annotation lists, label map and coverage; refuses lists that would spoil a result."""

import sys

from r2plus1d.clips import lists
from r2plus1d.config import files
from r2plus1d.datasets import annotations, manifest
from r2plus1d.system import paths
from r2plus1d.system.files import write_json, write_text
from r2plus1d.system.stage import run
from r2plus1d.video import shards


def main() -> None:
    data = files.read_data(paths.DATA_CONFIG)
    dataset, folder = data.dataset, paths.lists(data.dataset)
    table = manifest.read_table(paths.manifest(dataset))
    index = shards.read_index(paths.frames(dataset) / next(iter(data.short_sides)))["frames"].to_dict()
    classes = paths.classes(dataset).read_text(encoding="utf-8").splitlines()
    labels = {name: label for label, name in enumerate(classes)}
    splits = {"train": [], "val": []}
    for path, label, split in zip(table["path"], table["label"], table["split"], strict=True):
        if path in index:
            splits[split].append(annotations.Sample(path, index[path], labels[label]))
    videos = paths.videos(data)
    found = {path for path in table["path"] if (videos / path).exists()}
    aside = manifest.read_table(paths.set_aside(dataset))
    lists.check(splits, classes, dict(zip(table["path"], table["sha256"], strict=True)), found)
    for split, samples in splits.items():
        write_text(folder / lists.list_name(dataset, split, "rawframes"), annotations.format_frames(samples))
        write_text(folder / lists.list_name(dataset, split, "videos"), annotations.format_videos(samples))
        write_text(folder / lists.list_name(dataset, split, "ids"), annotations.format_published(samples))
    write_text(paths.labels(dataset), "".join(f"{name}\n" for name in classes))
    coverage = {"classes": len({sample.label for samples in splits.values() for sample in samples})}
    for split, samples in splits.items():
        own = table[table["split"] == split]
        listed = len(own) + int((aside["split"] == split).sum())
        coverage[split] = {"listed": listed, "found": int(own["path"].isin(found).sum()), "readable": len(samples)}
    write_json(paths.COVERAGE, coverage)
    print(", ".join(f"{key} {value}" for key, value in coverage.items()))


if __name__ == "__main__":
    run(main, sys.argv)
