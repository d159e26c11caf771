"""Manifest and probe -> annotation lists, label map and coverage; refuses lists that would spoil a result."""

import sys
from pathlib import Path

import pandas as pd

from r2plus1d.clips import lists
from r2plus1d.config import files
from r2plus1d.config.schema import DataConfig, FolderSource, ListsSource
from r2plus1d.datasets import recordings
from r2plus1d.datasets.annotations import ListError, Sample, format_frames, format_published, format_videos
from r2plus1d.datasets.manifest import DataError, Suspected, read_table, write_table
from r2plus1d.system import kept, paths, records
from r2plus1d.system.files import write_json, write_text
from r2plus1d.system.stage import run

NEARLY = 0.1  # of its frames may be missing in what a list tells of a video


def main() -> None:
    if kept.gives_back("build_lists", records.SHARED):
        return
    data = files.read_data(paths.DATA_CONFIG)
    name, group = data.dataset, data.source.group if isinstance(data.source, FolderSource) else recordings.NONE
    inputs = [path(name) for path in (paths.manifest, paths.set_aside, paths.classes, paths.probe, paths.looks)]
    inputs += [paths.DATA_CONFIG, *([Path(group)] if group.endswith(".csv") else [])]

    def outputs() -> list[Path]:
        return [*sorted(paths.lists(name).iterdir()), paths.suspected(name), paths.COVERAGE]

    with records.recorded("build_lists", records.SHARED, inputs, outputs):
        build(data, group)


def build(data: DataConfig, group: str) -> None:
    name, folder, videos = data.dataset, paths.lists(data.dataset), paths.videos(data)
    manifest, probed, aside = (read_table(path(name)) for path in (paths.manifest, paths.probe, paths.set_aside))
    seen = read_table(paths.looks(name))
    looks = dict(zip(seen["path"], seen["looks"], strict=True))
    classes = paths.classes(name).read_text(encoding="utf-8").splitlines()
    known = recordings.by_rule(list(manifest["path"]), group, aside["path"])
    if (open_ := manifest["split"] == "").any():
        manifest.loc[open_, "split"] = divided(data, manifest[open_], probed, classes, looks, known)
    frames = dict(zip(probed["path"], probed["frames"].tolist(), strict=True))
    labels = {label: number for number, label in enumerate(classes)}
    splits: dict[str, list[Sample]] = {split: [] for split in lists.SPLITS}
    for path, label, split in zip(manifest["path"], manifest["label"], manifest["split"], strict=True):
        if path in frames:
            splits[split].append(Sample(path, frames[path], labels[label]))
    refuse_missing(manifest, aside, isinstance(data.source, ListsSource))
    found = {path for path in manifest["path"] if (videos / path).exists()}
    named = {*manifest["split"], *aside["split"], "train", "val"}
    listed = [split for split in lists.SPLITS if split in named]
    lost = sorted(set(manifest["label"]) - {classes[s.label] for samples in splits.values() for s in samples})
    check_counts(manifest, frames)
    digests = dict(zip(manifest["path"], manifest["sha256"], strict=True))
    lists.check(splits, classes, digests, found, [split for split in listed if split != "train"], lost)
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
    write_table(paths.suspected(name), pairs[: recordings.MOST_LISTED], Suspected)
    coverage["suspected_pairs"] = len(pairs) if looks else None  # of loose frames the pictures are not looked at
    write_json(paths.COVERAGE, coverage)
    for split in listed:
        print(f"{split}: {', '.join(f'{count} {what}' for what, count in coverage[split].items())}")
    alike = f"; {len(pairs)} pairs of videos in different splits seem to be of one recording" if looks else ""
    print(f"{coverage['classes']} classes{alike}")


def refuse_missing(manifest: pd.DataFrame, aside: pd.DataFrame, own: bool) -> None:
    """Raises ListError for a list, the user's `own` or a dataset's, of which no video was found."""
    for split in sorted(set(aside["split"]) - set(manifest["split"]) - {""}):
        path, _, reason = next(aside[aside["split"] == split].itertuples(index=False, name=None))
        count = (aside["split"] == split).sum()
        another = "give another list" if split == "val" else f"leave that list out ({split}: null)"
        way_out = f"; bring them, or {another}" if own else ""
        raise ListError(f"none of the {count} videos of {split} can be taken; the first is {path}: {reason}{way_out}")


def check_counts(manifest: pd.DataFrame, frames: dict[str, int]) -> None:
    """Compares the numbers of frames that existing lists tell with those of the videos. Raises ListError where most
    are of something else, such as a second label."""
    told = manifest[(manifest["frames"] > 0) & manifest["path"].isin(frames)]
    found = told["path"].map(frames).astype("int64")  # of no videos, too
    odd = told[(told["frames"] - found).abs() > (found * NEARLY).clip(lower=2)]
    if odd.empty:
        return
    path, listed = odd.iloc[0]["path"], odd.iloc[0]["frames"]
    example = f"such as {path}: {listed} listed, {frames[path]} there"
    if 2 * len(odd) > len(told):
        raise ListError(
            f"{len(odd)} of {len(told)} lines tell another number of frames than the videos have, {example}. Lines are "
            "`path total_frames label` or `path label`; several labels of one video are not supported"
        )
    print(f"{len(odd)} videos have another number of frames than their lines tell, {example}; theirs counts")


def divided(
    data: DataConfig, manifest: pd.DataFrame, probed: pd.DataFrame, classes: list[str], looks: dict, known: dict
) -> list[str]:
    """train or val of each video; clips of one recording together. Those that cannot be read count for nothing, and are
    said to be of train. Raises DataError where no division keeps the recordings apart."""
    assert isinstance(data.source, FolderSource)
    print(
        f"no val/: {100 * data.source.val_share:g}% of each class are for validation (datasets.folder.source.val_share)"
    )
    readable = manifest[manifest["path"].isin(probed["path"])]
    own = list(readable["path"])
    pairs: list[tuple[str, str]] = []
    if data.source.group == recordings.AUTO:
        videos = recordings.Looked({path: looks.get(path, "") for path in own})
        pairs = [(a, b) for a, b, _ in recordings.alike(videos, videos)]
    groups = recordings.grouped(own, {path: known[path] for path in own if path in known}, pairs)
    labels = dict(zip(own, readable["label"], strict=True))
    split, without = recordings.divide(labels, classes, groups, data.source.val_share, data.source.seed)
    together = [group for group in groups if len(group) > 1]
    if together:
        print(f"{sum(map(len, together))} videos are of {len(together)} recordings, each kept on one side")
    for label in without:
        alone = sum(found == label for found in labels.values()) == 1
        reason = "it has one video" if alone else "its videos are of one recording, or of those of other classes"
        print(f"{label}: no video for val, since {reason}")
    if len(without) == len(set(labels.values())):
        if not together:
            raise DataError(
                "no video can go to val: no class has two videos. Give each class more, one at least for training and "
                "one to measure on"
            )
        raise DataError(
            f"no video can go to val: {sum(map(len, together))} of {len(own)} videos seem to be of {len(together)} "
            "recordings (by their names, or since frames look the same), and those are kept on one side. Divide them "
            "yourself, into train/ and val/; say what belongs together with datasets.folder.source.group, a pattern or "
            "a .csv file; or take every video for a recording of its own: -S datasets.folder.source.group=none"
        )
    return [split.get(path, "train") for path in manifest["path"]]


if __name__ == "__main__":
    run(main, sys.argv)
