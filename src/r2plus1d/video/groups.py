"""Work on many videos in groups of a fixed size: shared out, noted when done, gone on with after an interruption."""

import functools
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from r2plus1d.system import code
from r2plus1d.system.errors import MACHINE, UserError, one_line
from r2plus1d.system.files import read_json, remove_partials, replacing, sha256
from r2plus1d.system.pool import spread
from r2plus1d.system.progress import progress
from r2plus1d.video.decoding import VideoError

VIDEOS_PER_GROUP = 64
# What decides the bytes, apart from the videos, as it was when this process started.
CODE = code.digest(sorted(Path(__file__).parent.glob("*.py")))


class MachineError(UserError):
    """A machine that cannot take part in the work; the message names it and the way out."""


class Listed(NamedTuple):
    """A video, with the SHA-256 it had when it was listed, where it may have changed since; else None."""

    path: str  # below the folder of videos
    sha256: str | None = None


class Machines(NamedTuple):
    """Who shares the work; see `pool.spread`. Every machine must see the project under the same path."""

    workers: int | None
    scheduler: str | None = None


def listed(manifest: pd.DataFrame, may_change: bool) -> list[Listed]:
    """The videos of a manifest; those that DVC does not watch are checked against it."""
    digests = manifest["sha256"] if may_change else [None] * len(manifest)
    return [Listed(path, digest) for path, digest in zip(manifest["path"], digests, strict=True)]


def in_groups(
    do: Callable[[int, list[Listed]], Any],
    complete: Callable[[int], bool],
    videos: list[Listed],
    work: Path,
    machines: Machines,
    what: str,
) -> Iterator[Any]:
    """What `do` returned for each group, by the group's number: plain values, noted below `work` when it is done.

    A group that is noted and `complete` is passed over. `do` and `complete` go to other processes, which must run the
    same code as this one. Raises MachineError.
    """
    groups = [videos[i : i + VIDEOS_PER_GROUP] for i in range(0, len(videos), VIDEOS_PER_GROUP)]
    work.mkdir(parents=True, exist_ok=True)
    remove_partials(work)
    one = functools.partial(_one, do=do, complete=complete, work=work.absolute(), asked=CODE)
    done = spread(one, list(enumerate(groups)), machines.workers, machines.scheduler)
    for _ in progress(done, len(groups), what, "groups of videos"):
        pass
    remove_partials(work)
    return (json.loads(_note(work, number).read_text(encoding="utf-8")) for number in range(len(groups)))


def forget(work: Path) -> None:
    """Removes finished work, and its notes."""
    for folder in (_notes(work), work):
        shutil.rmtree(folder, ignore_errors=True)


def check_content(file: Path, video: Listed) -> None:
    """Raises VideoError where the file is another than when it was listed; reading it costs little next to decoding."""
    if video.sha256 is None:
        return
    try:
        found = sha256(file)
    except OSError as error:
        if error.errno in MACHINE:
            raise
        raise VideoError(one_line(error)) from error
    if found != video.sha256:
        raise VideoError("its content is not the one noted in manifest.csv")


def _one(task: tuple[int, list[Listed]], do: Callable, complete: Callable, work: Path, asked: str) -> None:
    number, videos = task
    if not work.is_dir():
        raise MachineError(
            f"{socket.gethostname()} does not see {work}: all machines must share the project's folder, under one path"
        )
    if asked != CODE:
        raise MachineError(
            f"{socket.gethostname()} runs another version of this project or of its packages than the one that asks: "
            "start the workers again, in the project's environment"
        )
    note = _note(work, number)
    if read_json(note) is None or not complete(number):
        result = do(number, videos)
        with replacing(note, rivals=True) as partial:
            partial.write_text(json.dumps(result), encoding="utf-8")


def _note(work: Path, number: int) -> Path:
    return _notes(work) / f"{number:05d}.json"


def _notes(work: Path) -> Path:
    return work.with_name(f"{work.name}.notes")
