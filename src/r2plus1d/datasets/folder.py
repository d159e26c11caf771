"""A folder of the user's own videos: one sub-folder per class, or train/ and val/, and perhaps test/, with those below.

Without train/ and val/, `build_lists` divides the videos: see `recordings`.
"""

import os
import shutil
from pathlib import Path

from r2plus1d.datasets.annotations import writable
from r2plus1d.datasets.manifest import VIDEO_SUFFIXES, DataError, Entry, Found, SetAside, entry
from r2plus1d.system.files import replacing, sha256
from r2plus1d.system.progress import progress


def copy(path: str | None, work: Path) -> tuple[list[Entry], list[SetAside], list[str]]:
    if path is None:
        raise DataError("datasets.folder.path is null: give it the folder that holds your videos")
    root = Path(path)
    found, aside, classes = look(root)
    splits = _splits(root)
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
        rows.append(entry(target, work, label, split))
    _remove_others(work, {row.path for row in rows})
    if not splits:
        rows, repeated = _without_repeats(rows)
        aside += repeated
    return sorted(rows), sorted(aside), classes


def look(root: Path) -> tuple[list[tuple[Path, str]], list[SetAside], list[str]]:
    """(file and class of every video, files that are none, class names in the order of their labels).

    Raises DataError for a folder that is not there, or does not say what its videos show.
    """
    if not root.is_dir():
        raise DataError(f"datasets.folder.path is {str(root)!r}: there is no such folder")
    splits = _splits(root)
    if splits and not {"train", "val"} <= splits.keys():
        there, missing = (
            f" and {word}".join(f"{name}/" for name in names)
            for word, names in (("", splits), ("no ", sorted({"train", "val"} - splits.keys())))
        )
        raise DataError(
            f"{root}: there is {there} but no {missing}; add it (what is called test/ may be renamed), or put the "
            "classes straight into the folder"
        )
    found, aside = _scan(root, list(splits.values()) or [root])
    order = {label: label.replace("_", " ") for _, label in found}  # Kinetics' own
    classes = sorted(order, key=lambda name: (order[name], name))
    if len(classes) < 2:
        raise DataError(
            f"{root}: found videos of {len(classes)} class{'' if len(classes) == 1 else 'es'} "
            f"({', '.join(classes) or 'none'}); expected one sub-folder per class, at least two, with videos in each"
        )
    return found, aside, classes


def _splits(root: Path) -> dict[str, Path]:
    return {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}


def scan(path: str | None) -> list[Found]:
    """Every file below the folder, with its content, sorted; what `copy` will say of it is for later."""
    root = Path(str(path))
    files = sorted(file for file in root.rglob("*") if file.is_file() and os.access(file, os.R_OK))
    shown = progress(files, len(files), "looking through the folder", "files")
    return [Found(ascii(str(file.relative_to(root))), sha256(file)) for file in shown]


def _scan(root: Path, tops: list[Path]) -> tuple[list[tuple[Path, str]], list[SetAside]]:
    """(file, class) of every video, sorted, and (path, split, reason) of other files. Folder links are not followed."""
    found, aside = [], []
    for top in tops:
        split = "" if top == root else top.name

        def keep(file: Path | str, reason: str, split=split) -> None:
            path = str(Path(file).relative_to(root))
            aside.append(SetAside(path if path.isprintable() else ascii(path), split, reason))

        unopened = lambda error, keep=keep: keep(error.filename, f"a folder that cannot be read: {error.strerror}")  # noqa: E731
        for folder, subfolders, names in os.walk(top, onerror=unopened):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for link in (Path(folder, name) for name in subfolders if os.path.islink(Path(folder, name))):
                keep(link, "a link to a folder, which is not followed")
            for name in sorted(name for name in names if not name.startswith(".")):
                file = Path(folder, name)
                below = file.relative_to(top).parts
                if len(below) < 2:
                    continue  # not in a class folder: a README, say
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


def _without_repeats(rows: list[Entry]) -> tuple[list[Entry], list[SetAside]]:
    first: dict[str, str] = {}
    kept, repeated = [], []
    for row in sorted(rows):
        if row.sha256 in first:
            repeated.append(SetAside(row.path, "", f"same content as {first[row.sha256]}"))
        else:
            first[row.sha256] = row.path
            kept.append(row)
    return kept, repeated


def _remove_others(work: Path, wanted: set[str]) -> None:
    """Clears what an interrupted run copied from files that are gone since."""
    for file in [f for f in work.rglob("*") if f.is_file()]:
        if str(file.relative_to(work)) not in wanted:
            file.unlink()
