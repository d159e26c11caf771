"""Videos to packed frames: each video is decoded once, for all the short sides that some row needs.

A shard's bytes depend on the list of videos and on the code alone, not on the processes or machines that did the work.
"""

import contextlib
import functools
import json
import shutil
import socket
from pathlib import Path

import av
import numpy as np
import simplejpeg
import torch

from r2plus1d.system import errors
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import digest, read_json, remove_partials, replace_folder, replacing, sha256
from r2plus1d.system.pool import spread
from r2plus1d.system.progress import progress
from r2plus1d.video import decoding, sandbox, shards, views
from r2plus1d.video.decoding import VideoError
from r2plus1d.video.loose import frame_size
from r2plus1d.video.views import short_side_size, shrink

VIDEOS_PER_SHARD = 64
VERSIONS = [f"{library.__name__} {library.__version__}" for library in (av, np, simplejpeg, torch)]
# What decides the bytes beside the videos, as it was when this process started.
CODE = digest(
    [Path(module) for module in (__file__, sandbox.__file__, shards.__file__, decoding.__file__, views.__file__)],
    *VERSIONS,
)


class ExtractionError(UserError):
    """A machine that cannot take part in the work; the message names it and the way out."""


def extract(
    videos: Path,
    paths: list[str],
    short_sides: dict[str, int],
    work: Path,
    out: Path,
    workers: int | None,
    scheduler: str | None = None,
    digests: dict[str, str] | None = None,
) -> list[tuple[str, str]]:
    """Packs the frames of `paths` (below `videos`) into `out`/<name> for each name and short side in pixels.

    Returns (path, reason) of the videos set aside: unreadable, cut off or without frames. They are never replaced by
    others. `digests` gives the SHA-256 of each video, where files may change after they were listed; those that did are
    set aside too. Shards that an interrupted run left in `work` are kept: it must differ where `CODE` or the videos
    differ.
    `workers` and `scheduler`: see pool.spread. Every machine must see `videos` and `work` under the same path.
    """
    paths = sorted(paths)
    noted = [(path, digests[path] if digests else None) for path in paths]
    parts = [noted[i : i + VIDEOS_PER_SHARD] for i in range(0, len(noted), VIDEOS_PER_SHARD)]
    pack = functools.partial(_pack, videos=videos.absolute(), short_sides=short_sides, work=work.absolute(), code=CODE)
    notes = [_note(work, number) for number in range(len(parts))]
    work.mkdir(parents=True, exist_ok=True)
    remove_partials(work)
    for _ in progress(spread(pack, list(enumerate(parts)), workers, scheduler), len(parts), "extracting", "shards"):
        pass
    for name in short_sides:
        shards.write_index(work / name, (row for note in notes for row in _read(note)["rows"][name]))
    set_aside = [tuple(row) for note in notes for row in _read(note)["set_aside"]]
    remove_partials(work)
    replace_folder(work, out)
    shutil.rmtree(_notes(work), ignore_errors=True)
    return set_aside


def index_loose(
    root: Path, counts: dict[str, int], frame_name: str, short_sides: dict[str, int], work: Path, out: Path
) -> list[tuple[str, str]]:
    """The index alone, for frames in loose files below `root`: their number by path is `counts`, their size stays.

    Returns (path, reason) of those set aside.
    """
    rows, set_aside = [], []
    for path in progress(sorted(counts), len(counts), "indexing", "videos"):
        try:
            rows.append((path, shards.NO_SHARD, 0, counts[path], *frame_size(root / path, frame_name)))
        except errors.FrameError as error:
            set_aside.append((path, str(error)))
    for name in short_sides:
        shards.write_index(work / name, rows)
    replace_folder(work, out)
    return set_aside


def _note(work: Path, number: int) -> Path:
    """Of a finished shard, written last: its lines of the index, and the videos set aside."""
    return _notes(work) / f"shard-{number:05d}.json"


def _notes(work: Path) -> Path:
    return work.with_name(f"{work.name}.notes")


def _read(note: Path) -> dict:
    return json.loads(note.read_text(encoding="utf-8"))


def _pack(
    task: tuple[int, list[tuple[str, str | None]]], videos: Path, short_sides: dict[str, int], work: Path, code: str
) -> None:
    number, noted = task
    if not work.is_dir():
        raise ExtractionError(
            f"{socket.gethostname()} does not see {work}: all machines must share the project's folder, under one path"
        )
    if code != CODE:
        raise ExtractionError(
            f"{socket.gethostname()} runs another version of this project or of its packages than the one that asks: "
            "start the workers again, in the project's environment"
        )
    packed = [shards.shard_path(work / name, number) for name in short_sides]
    if read_json(_note(work, number)) and all(shard.exists() for shard in packed):
        return
    torch.set_num_threads(1)
    set_aside = []
    with contextlib.ExitStack() as stack:
        writers = {
            side: stack.enter_context(shards.ShardWriter(work / name, number)) for name, side in short_sides.items()
        }
        for path, expected in noted:
            for writer in writers.values():
                writer.begin(path)
            try:
                if expected is not None:
                    _check(videos / path, expected)
                _write(videos / path, writers)
            except VideoError as error:
                set_aside.append((path, str(error)))
                for writer in writers.values():
                    writer.drop()
            else:
                for writer in writers.values():
                    writer.end()
        rows = {name: writers[side].rows for name, side in short_sides.items()}
    with replacing(_note(work, number), rivals=True) as partial:
        partial.write_text(json.dumps({"rows": rows, "set_aside": set_aside}), encoding="utf-8")


def _check(path: Path, expected: str) -> None:
    """Reading a video once more costs little beside decoding it."""
    try:
        found = sha256(path)
    except OSError as error:
        raise VideoError(error.strerror or str(error)) from error
    if found != expected:
        raise VideoError("its content is not the one noted in manifest.csv")


def _write(path: Path, writers: dict[int, shards.ShardWriter]) -> None:
    for image in sandbox.decode(path):
        for side, writer in writers.items():
            writer.add(shrink(image, short_side_size(*image.shape[:2], side)))
