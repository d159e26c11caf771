"""Manifest and probe -> annotation lists, label map and coverage; refuses lists that would spoil a result."""

import sys

import pandas as pd

from r2plus1d.clips import lists
from r2plus1d.config import files
from r2plus1d.config.schema import DataConfig, FolderSource
from r2plus1d.datasets import recordings
from r2plus1d.datasets.annotations import Sample, format_frames, format_published, format_videos
from r2plus1d.datasets.manifest import Suspected, read_table, write_table
from r2plus1d.system import paths
from r2plus1d.system.files import write_json, write_text
from r2plus1d.system.stage import run


def main() -> None:
    data = files.read_data(paths.DATA_CONFIG)
    name, folder, videos = data.dataset, paths.lists(data.dataset), paths.videos(data)
    manifest, probed, aside = (read_table(path(name)) for path in (paths.manifest, paths.probe, paths.set_aside))
    seen = read_table(paths.looks(name))
    looks = dict(zip(seen["path"], seen["looks"], strict=True))
    classes = paths.classes(name).read_text(encoding="utf-8").splitlines()
    source = data.source
    known = recordings.by_rule(list(manifest["path"]), source.group) if isinstance(source, FolderSource) else {}
    if not manifest["split"].all():
        manifest["split"] = manifest["path"].map(divided(data, manifest, classes, looks, known))
    frames = dict(zip(probed["path"], probed["frames"].tolist(), strict=True))
    labels = {label: number for number, label in enumerate(classes)}
    splits: dict[str, list[Sample]] = {split: [] for split in lists.SPLITS}
    for path, label, split in zip(manifest["path"], manifest["label"], manifest["split"], strict=True):
        if path in frames:
            splits[split].append(Sample(path, frames[path], labels[label]))
    found = {path for path in manifest["path"] if (videos / path).exists()}
    lists.check(splits, classes, dict(zip(manifest["path"], manifest["sha256"], strict=True)), found)
    listed = [split for split in lists.SPLITS if split != "test" or (manifest["split"] == split).any()]
    for split in listed:
        samples = splits[split]
        write_text(folder / lists.list_name(name, split, "rawframes"), format_frames(samples))
        write_text(folder / lists.list_name(name, split, "videos"), format_videos(samples))
        write_text(folder / lists.list_name(name, split, "ids"), format_published(samples))
    write_text(folder / lists.RATES, probed[["path", "rate"]].to_csv(index=False, lineterminator="\n"))
    write_text(paths.labels(name), "".join(f"{label}\n" for label in classes))
    coverage: dict = {"classes": len({sample.label for samples in splits.values() for sample in samples})}
    for split in listed:
        own = manifest[manifest["split"] == split]
        counted = len(own) + int((aside["split"] == split).sum())
        readable = len(splits[split])
        coverage[split] = {"listed": counted, "found": int(own["path"].isin(found).sum()), "readable": readable}
    pairs = recordings.suspected({split: [s.path for s in splits[split]] for split in listed}, looks, known)
    write_table(paths.suspected(name), pairs, Suspected)
    coverage["suspected_pairs"] = len(pairs) if looks else None  # of loose frames the pictures are not looked at
    write_json(paths.COVERAGE, coverage)
    print(", ".join(f"{key} {value}" for key, value in coverage.items()))


def divided(data: DataConfig, manifest: pd.DataFrame, classes: list[str], looks: dict, known: dict) -> dict[str, str]:
    """train or val of each video, by path; clips of one recording together."""
    assert isinstance(data.source, FolderSource)
    paths_ = list(manifest["path"])
    pairs = []
    if data.source.group == recordings.AUTO:
        videos = recordings.Looked({path: looks.get(path, "") for path in paths_})
        pairs = [(a, b) for a, b, _ in recordings.alike(videos, videos) if a < b]
    groups = recordings.grouped(paths_, known, pairs)
    labels = dict(zip(paths_, manifest["label"], strict=True))
    split, empty = recordings.divide(labels, classes, groups, data.source.val_share, data.seed)
    together = [group for group in groups if len(group) > 1]
    if together:
        print(f"{sum(map(len, together))} videos are of {len(together)} recordings, each kept on one side")
    for label in empty:
        print(f"{label}: its videos are all of one recording with others, and none can go to val")
    return split


if __name__ == "__main__":
    run(main, sys.argv)
