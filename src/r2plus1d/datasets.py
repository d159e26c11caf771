"""Where videos come from: brings those of a dataset to one folder, or finds them where they lie, with a manifest.

manifest.csv has one line per video, sorted by path or in the order of existing lists: path (below the folder), label
(class name), split (train or val), frames (what an existing list says, else 0), bytes, sha256. set_aside.csv has one
line per file that was found or listed but not taken: path, split (of listed videos), reason. classes.txt has the class
names, by label.
"""

import functools
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from r2plus1d import downloads, kinetics, motion, official
from r2plus1d.config import DataConfig, FolderSource, KineticsSource, ListsSource, MotionSource
from r2plus1d.errors import UserError
from r2plus1d.existing import find
from r2plus1d.files import held, remove_partials, replace_folder, replacing, sha256
from r2plus1d.lists import writable
from r2plus1d.pool import spread
from r2plus1d.progress import progress
from r2plus1d.video import VIDEO_SUFFIXES, write_h264

MANIFEST = ("path", "label", "split", "frames", "bytes", "sha256")
SET_ASIDE = ("path", "split", "reason")
UNREADABLE = ("path", "reason")
TYPES = {"frames": np.int64, "bytes": np.int64} | dict.fromkeys(("path", "label", "split", "sha256", "reason"), str)


class DataError(UserError):
    """Videos that cannot be brought; the message names the place and the way out."""


def bring(
    config: DataConfig, work: Path, videos: Path, workers: int | None, connections: int = 1
) -> tuple[list, list, list[str]]:
    """Fills `videos` and returns the rows of the manifest, those of the files set aside, and the class names.

    `videos` stays empty where files are used in place: those of existing lists, and downloaded ones, which are kept
    outside the pipeline's own folders. What an interrupted run left in `work` is reused. Raises DataError where there
    are not at least two classes.
    """
    work.mkdir(parents=True, exist_ok=True)
    remove_partials(work)
    if isinstance(config.source, MotionSource):
        rows, aside = _generate(config.source, config.seed, work, workers), []
        classes = sorted(motion.CLASSES)
    elif isinstance(config.source, FolderSource):
        rows, aside, classes = _copy(config.source, config.seed, config.path, work)
    elif isinstance(config.source, ListsSource):
        rows, aside, classes = find(config.source, Path(config.path), workers)
    else:
        rows, aside, classes = _download(config, connections)
    replace_folder(work, videos)
    return rows, aside, classes


def write_table(path: Path, rows: list[tuple], columns: tuple[str, ...]) -> None:
    with replacing(path) as partial:
        pd.DataFrame(rows, columns=columns).to_csv(partial, index=False, lineterminator="\n")


def read_table(path: Path) -> pd.DataFrame:
    """One of the tables above. Raises DataError for one that `write_table` did not write so."""
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=TYPES)
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())[:200]}); run `dvc repro`") from error
    if tuple(table.columns) not in (MANIFEST, SET_ASIDE, UNREADABLE):
        raise DataError(f"{path}: damaged (the columns are {', '.join(table.columns)[:200]}); run `dvc repro`")
    return table


def _download(config: DataConfig, connections: int) -> tuple[list[tuple], list[tuple], list[str]]:
    source, store = config.source, Path(config.in_place).parent
    layout = kinetics if isinstance(source, KineticsSource) else official
    with held(store / "incoming.lock", f"the download to {store}"):
        catalogue = layout.catalogue(source, store / "annotations")
        rows, aside = downloads.bring(catalogue, source.limit, source.skip, store, connections)
    return rows, aside, catalogue.classes


def _generate(source: MotionSource, seed: int, work: Path, workers: int | None) -> list[tuple]:
    tasks = [
        (split, label, index)
        for split, count in (("train", source.train_videos), ("val", source.val_videos))
        for label in range(len(motion.CLASSES))
        for index in range(count)
    ]
    make = functools.partial(_generate_one, seed=seed, short_side=source.short_side, work=work)
    return sorted(progress(spread(make, tasks, workers), len(tasks), "generating", "videos"))


def _generate_one(task: tuple[str, int, int], seed: int, short_side: int, work: Path) -> tuple:
    split, label, index = task
    name = motion.CLASSES[label]
    path = work / split / name / f"{name}_{index:03d}.mp4"
    if not path.exists():
        planes = motion.render(seed, ("train", "val").index(split), label, index, short_side)
        write_h264(path, planes, motion.FPS)
    return _row(path, work, name, split)


def _copy(source: FolderSource, seed: int, path: str | None, work: Path) -> tuple[list[tuple], list[tuple], list[str]]:
    if path is None:
        raise DataError("datasets.folder.path is null: give it the folder that holds your videos")
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"datasets.folder.path is {path!r}: there is no such folder")
    splits = {name: root / name for name in ("train", "val") if (root / name).is_dir()}
    if list(splits) == ["train"]:
        raise DataError(f"{root}: there is a train/ but no val/ beside it; add it, or keep neither")
    found, aside = _scan(root, list(splits.values()) or [root])
    order = {label: label.replace("_", " ") for _, label in found}  # Kinetics' own
    classes = sorted(order, key=lambda name: (order[name], name))
    if len(classes) < 2:
        raise DataError(
            f"{root}: found videos of {len(classes)} class{'' if len(classes) == 1 else 'es'} "
            f"({', '.join(classes) or 'none'}); expected one sub-folder per class, at least two, with videos in each"
        )
    needed = sum(file.stat().st_size for file, _ in found)
    if needed > (free := shutil.disk_usage(work).free):
        raise DataError(f"{root}: copying needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of disk are free")
    rows = []
    for file, label in progress(found, len(found), "copying", "videos"):
        target = work / file.relative_to(root)
        if not (target.exists() and target.stat().st_size == file.stat().st_size):
            with replacing(target) as partial:
                shutil.copyfile(file, partial)
        split = file.relative_to(root).parts[0] if splits else ""
        rows.append(_row(target, work, label, split))
    _remove_others(work, {row[0] for row in rows})
    if not splits:
        rows, repeated = _without_repeats(rows)
        aside += repeated
        rows = _split(rows, classes, source.val_share, seed)
    return sorted(rows), sorted(aside), classes


def _scan(root: Path, tops: list[Path]) -> tuple[list[tuple[Path, str]], list[tuple]]:
    """(file, class) of every video, sorted, and (path, split, reason) of other files. Folder links are not followed."""
    found, aside = [], []
    for top in tops:
        split = "" if top == root else top.name

        def keep(file: Path | str, reason: str, split=split) -> None:
            path = str(Path(file).relative_to(root))
            aside.append((path if path.isprintable() else ascii(path), split, reason))

        unopened = lambda error, keep=keep: keep(error.filename, f"a folder that cannot be read: {error.strerror}")  # noqa: E731
        for folder, subfolders, names in os.walk(top, onerror=unopened):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for link in (Path(folder, name) for name in subfolders if os.path.islink(Path(folder, name))):
                keep(link, "a link to a folder, which is not followed")
            for name in sorted(name for name in names if not name.startswith(".")):
                file = Path(folder, name)
                below = file.relative_to(top).parts
                if len(below) < 2:
                    continue  # beside the class folders, such as a README
                if file.suffix.lower() not in VIDEO_SUFFIXES:
                    keep(file, "its name does not end like a video's")
                elif not writable(str(file.relative_to(root))):
                    keep(
                        file,
                        "control characters or a blank at the start cannot stand in an annotation list",
                    )
                elif not file.is_file():
                    keep(file, "not a file, or a link to nowhere")
                elif not os.access(file, os.R_OK):
                    keep(file, "may not be read")
                else:
                    found.append((file, below[0]))
    return sorted(found), aside


def _split(rows: list[tuple], classes: list[str], val_share: float, seed: int) -> list[tuple]:
    """The same share of every class to val, drawn by the seed; a class keeps at least one training video."""
    divided = []
    for number, label in enumerate(classes):
        own = sorted(row for row in rows if row[1] == label)
        count = min(len(own) - 1, max(1, round(len(own) * val_share)))
        chosen = set(np.random.default_rng([seed, number]).permutation(len(own))[:count].tolist())
        divided += [
            (path, label, "val" if i in chosen else "train", *rest) for i, (path, _, _, *rest) in enumerate(own)
        ]
    return divided


def _without_repeats(rows: list[tuple]) -> tuple[list[tuple], list[tuple]]:
    first: dict[str, str] = {}
    kept, repeated = [], []
    for row in sorted(rows):
        path, content = row[0], row[-1]
        if content in first:
            repeated.append((path, "", f"same content as {first[content]}"))
        else:
            first[content] = path
            kept.append(row)
    return kept, repeated


def _remove_others(work: Path, wanted: set[str]) -> None:
    """Clears what an interrupted run copied from files that are gone since."""
    for file in [f for f in work.rglob("*") if f.is_file()]:
        if str(file.relative_to(work)) not in wanted:
            file.unlink()


def _row(file: Path, root: Path, label: str, split: str) -> tuple:
    return str(file.relative_to(root)), label, split, 0, file.stat().st_size, sha256(file)
