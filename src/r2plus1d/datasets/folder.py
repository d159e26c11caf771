"""A folder of the user's own videos: one sub-folder per class, or train/ and val/ or test/ or both, with those below.

Without val/, `build_lists` divides what is not in test/: see `recordings`. Splits are known by their usual names, in
any case: Train, validation, valid, ...
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from r2plus1d.datasets.annotations import writable
from r2plus1d.datasets.manifest import VIDEO_SUFFIXES, DataError, Entry, Found, SetAside, entry
from r2plus1d.system.files import replacing, sha256
from r2plus1d.system.paths import in_experiment
from r2plus1d.system.progress import progress

SHARE_BLOCKS = 0x40049409  # FICLONE of Linux's fs.h
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLITS |= {"trn": "train", "dev": "val", "test": "test", "testing": "test", "tst": "test"}
AFTER_SPLIT = re.compile(r"(?<=.)(s|[ _-]?(set|data|split|videos|clips))$")  # such as in `train_set` and `tests`


def copy(
    path: str | None, work: Path, scanned: Mapping[str, str] | None = None
) -> tuple[list[Entry], list[SetAside], list[str]]:
    """`scanned` are the digests of `scan`, by path. Raises DataError where a video is another than then."""
    if path is None:
        raise DataError("datasets.folder.path is null: give it the folder that holds your videos")
    root = Path(path)
    found, aside, classes = look(root)
    splits = {folder.name: split for split, folder in _tops(root).items()}
    missing = [file for file, _ in found if not _is_copied(file, work / file.relative_to(root))]
    needed = sum(file.stat().st_size for file in missing)
    if needed > (free := shutil.disk_usage(work).free) and not _share(missing[0], work):
        raise DataError(f"{root}: copying needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB of disk are free")
    rows = []
    for file, label in progress(found, len(found), "copying", "videos"):
        target = work / file.relative_to(root)
        place = label, splits.get(file.relative_to(root).parts[0], "")
        if not _is_copied(file, target):
            _copy(file, target)
        row, then = entry(target, work, *place), (scanned or {}).get(_scanned_as(file, root))
        if then not in (None, row.sha256):  # what an earlier run copied of another one with this name
            _copy(file, target)
            row = entry(target, work, *place)
        if then not in (None, row.sha256):
            raise DataError(f"{file}: it was changed while this ran; run the same command again")
        rows.append(row)
    _remove_others(work, {row.path for row in rows})
    rows, repeated = _without_repeats(rows, root)
    return sorted(rows), sorted(aside + repeated), classes


def _is_copied(source: Path, target: Path) -> bool:
    """By an interrupted run, and not changed since."""
    if not target.exists():
        return False
    there, copied = source.stat(), target.stat()
    return (there.st_size, there.st_mtime_ns) == (copied.st_size, copied.st_mtime_ns)


def _copy(source: Path, target: Path) -> None:
    """With the time of its last change. A hard link would save nothing: DVC copies what has another name elsewhere."""
    times = source.stat()
    with replacing(target) as partial:
        if not _shared(source, partial):
            shutil.copyfile(source, partial)
        os.utime(partial, ns=(times.st_atime_ns, times.st_mtime_ns))


def _shared(source: Path, target: Path) -> bool:
    """Whether both files now share what they hold, until one is written to, as on Btrfs and XFS."""
    with open(source, "rb") as whole, open(target, "wb") as copied, contextlib.suppress(OSError):
        fcntl.ioctl(copied, SHARE_BLOCKS, whole.fileno())
        return True
    return False


def _share(source: Path, folder: Path) -> bool:
    """Whether a file in the folder would share what it holds with `source`."""
    with tempfile.NamedTemporaryFile(dir=folder) as target:
        return _shared(source, Path(target.name))


def look(root: Path) -> tuple[list[tuple[Path, str]], list[SetAside], list[str]]:
    """(file and class of every video, files that are none, class names in the order of their labels).

    Raises DataError for a folder that is not there, or does not say what its videos show.
    """
    if not root.is_dir():
        raise DataError(f"datasets.folder.path is {str(root)!r}: there is no such folder")
    splits = _splits(root)
    if splits and not ("train" in splits and len(splits) > 1):
        there = " and ".join(f"{folder.name}/" for folder in splits.values())
        missing = "train/" if "train" not in splits else "val/ or test/"
        raise DataError(
            f"{root}: there is {there} but no {missing}; add it, or give the folder that holds the classes. Where "
            f"{there.replace('/', '')} is the name of a class, rename that folder, or put all classes below train/ and "
            "val/"
        )
    found, aside = _scan(root, _tops(root))
    if splits:
        aside += _beside(root, splits)
        for split in splits.values():
            if not any(file.is_relative_to(split) for file, _ in found):
                raise DataError(f"{split}: no videos in folders of classes{_such_as(aside, split.name)}")
    order = {label: label.replace("_", " ") for _, label in found}  # Kinetics' own
    classes = sorted(order, key=lambda name: (order[name], name))
    _check_names(root, classes)
    if len(classes) < 2:
        raise DataError(
            f"{root}: found videos of {len(classes)} class{'' if len(classes) == 1 else 'es'} "
            f"({', '.join(classes) or 'none'}); expected one sub-folder per class, at least two, with videos in each"
            f"{_such_as(aside)}{in_experiment(root)}"
        )
    return found, aside, classes


def _such_as(aside: list[SetAside], below: str = "") -> str:
    """Of what is passed over the first, in an error."""
    passed = [file for file in aside if file.path.startswith(below)]
    return f"; {len(passed)} passed over, the first is {passed[0].path} ({passed[0].reason})" if passed else ""


def _splits(root: Path) -> dict[str, Path]:
    """The folders of train, val and test, as far as there are such. Raises DataError where two stand for one."""
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in sorted(root.iterdir()):
        name = AFTER_SPLIT.sub("", folder.name.lower().strip())
        if name in SPLITS and folder.is_dir():
            found[SPLITS[name]].append(folder)
    for split, folders in found.items():
        if len(folders) > 1:
            raise DataError(
                f"{root}: {' and '.join(f'{folder.name}/' for folder in folders)} both stand for the split {split}; "
                "leave one of them"
            )
    return {split: found[split][0] for split in ("train", "val", "test") if split in found}


def _tops(root: Path) -> dict[str, Path]:
    """The folders that hold those of the classes, by split; that of none is still to be divided: all, or train/ where
    there is no val/."""
    splits = _splits(root)
    open_ = "train" if "val" not in splits else None
    return {"" if split == open_ else split: top for split, top in splits.items()} or {"": root}


def _beside(root: Path, splits: dict[str, Path]) -> list[SetAside]:
    """The videos that lie in none of the splits."""
    places = [place for place in sorted(root.iterdir()) if place not in splits.values() and place.name[:1] != "."]
    files = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*")))]
    names = " and ".join(f"{folder.name}/" for folder in splits.values())
    reason = f"beside {names}, so that nothing says its split"
    return [SetAside(_told(file, root), "", reason) for file in files if file.suffix.lower() in VIDEO_SUFFIXES]


def form(name: str) -> str:
    """What the names of one class have in common: they differ by case, blanks around or the form of Unicode alone."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def _check_names(root: Path, classes: list[str]) -> None:
    """Raises DataError for two names that look the same."""
    forms: dict[str, str] = {}
    for name in classes:
        if (other := forms.setdefault(form(name), name)) != name:
            raise DataError(
                f"{root}: the classes {other!a} and {name!a} differ by case, a blank at the end or the form of Unicode "
                "alone; put their videos into one folder, or give them names that differ by more"
            )


def _told(file: Path, root: Path) -> str:
    path = str(file.relative_to(root))
    return path if path.isprintable() else ascii(path)


def scan(path: str | None) -> list[Found]:
    """Every file below the folder, with its content, sorted; what `copy` will say of it is for later."""
    root = Path(str(path))
    files = sorted(file for file in root.rglob("*") if file.is_file() and os.access(file, os.R_OK))
    shown = progress(files, len(files), "looking through the folder", "files")
    return [Found(_scanned_as(file, root), sha256(file)) for file in shown]


def _scanned_as(file: Path, root: Path) -> str:
    return ascii(str(file.relative_to(root)))


def without_videos(root: Path, classes: list[str]) -> list[str]:
    """What looks like the folder of a class, but for which there is no video to take: its name with the splits'."""
    folders = _splits(root).values() or [root]
    below = [place for folder in folders for place in sorted(folder.iterdir()) if place.is_dir()]
    there = [place for place in below if place.name[:1] != "." and place.name not in classes]
    return [_told(place, root) for place in there]


def check(root: Path) -> None:
    """Raises DataError for what DVC, which reads all of the folder, would stumble over."""
    for folder, folders, names in os.walk(root):
        for file in (Path(folder, name) for name in sorted([*folders, *names])):
            if (problem := _problem(file)) is not None:
                raise DataError(f"{_told(file, root.parent)}: {problem}")


def _problem(file: Path) -> str | None:
    try:
        file.name.encode()
        kind = file.stat().st_mode
    except UnicodeEncodeError:
        return "its name is not in UTF-8, which DVC cannot take; rename it"
    except OSError as error:
        return f"a link to nowhere ({error.strerror}), which DVC cannot read; remove it"
    if file.name == ".dvcignore":
        return "DVC takes no such file inside the folder; remove it, or move it next to the folder"
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        return "a pipe, socket or device, which DVC would read; remove it"
    if stat.S_ISREG(kind) and not os.access(file, os.R_OK):
        return "it may not be read, and DVC reads it; give this user access, or remove it"
    return None


def _scan(root: Path, tops: dict[str, Path]) -> tuple[list[tuple[Path, str]], list[SetAside]]:
    """(file, class) of every video, sorted, and (path, split, reason) of other files; `tops` are the folders by their
    splits. Folder links are not followed."""
    found, aside = [], []
    for split, top in tops.items():

        def keep(file: Path | str, reason: str, split=split) -> None:
            aside.append(SetAside(_told(Path(file), root), split, reason))

        unopened = lambda error, keep=keep: keep(error.filename, f"a folder that cannot be read: {error.strerror}")  # noqa: E731
        for folder, subfolders, names in os.walk(top, onerror=unopened):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for link in (Path(folder, name) for name in subfolders if os.path.islink(Path(folder, name))):
                keep(link, "a link to a folder, which is not followed")
            for name in sorted(name for name in names if not name.startswith(".")):
                file = Path(folder, name)
                below = file.relative_to(top).parts
                if len(below) < 2:
                    if file.suffix.lower() in VIDEO_SUFFIXES:
                        keep(file, "in no folder of a class")
                    continue  # a README, say
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


def _without_repeats(rows: list[Entry], root: Path) -> tuple[list[Entry], list[SetAside]]:
    """Of files with the same content in one split the first alone. Raises DataError where they are of two classes."""
    first: dict[tuple[str, str], Entry] = {}
    labelled: dict[str, Entry] = {}
    kept, repeated = [], []
    for row in sorted(rows):
        if (other := labelled.setdefault(row.sha256, row)).label != row.label:
            raise DataError(
                f"{root}: {other.path} and {row.path} are the same video in two classes; remove it from one of them"
            )
        if (same := first.setdefault((row.split, row.sha256), row)) is row:
            kept.append(row)
        else:
            repeated.append(SetAside(row.path, row.split, f"same content as {same.path}"))
    return kept, repeated


def _remove_others(work: Path, wanted: set[str]) -> None:
    """Clears what an interrupted run copied from files that are gone since."""
    for file in [f for f in work.rglob("*") if f.is_file()]:
        if str(file.relative_to(work)) not in wanted:
            file.unlink()
