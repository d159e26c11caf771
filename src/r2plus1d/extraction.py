"""Videos to packed frames: each video is decoded once, for all the short sides that some row needs."""

import contextlib
import functools
import json
from pathlib import Path

import torch

from r2plus1d import frames
from r2plus1d.files import held, replace_folder, write_json
from r2plus1d.loose import frame_size
from r2plus1d.pool import spread
from r2plus1d.progress import progress
from r2plus1d.video import MISSING_FRAMES, VideoError, announced_frames, decode
from r2plus1d.views import short_side_size, shrink

VIDEOS_PER_SHARD = 64


def extract(
    videos: Path, paths: list[str], short_sides: dict[str, int], work: Path, out: Path, workers: int | None
) -> list[tuple[str, str]]:
    """Packs the frames of `paths` (below `videos`) into `out`/<name> for each name and short side in pixels.

    Returns (path, reason) of the videos set aside: unreadable, cut off or without frames. They are never replaced by
    others. Shards that an interrupted run left in `work` are kept. Which videos share a shard depends on `paths` alone,
    so the bytes do not depend on the number of processes.
    """
    shards = [sorted(paths)[i : i + VIDEOS_PER_SHARD] for i in range(0, len(paths), VIDEOS_PER_SHARD)]
    pack = functools.partial(_pack, videos=videos, short_sides=short_sides, work=work)
    with held(work):
        done = list(progress(spread(pack, list(enumerate(shards)), workers), len(shards), "extracting", "shards"))
        for name in short_sides:
            frames.write_index(work / name, [row for shard in done for row in shard["rows"][name]])
        for note in work.glob("shard-*.json"):
            note.unlink()
        replace_folder(work, out)
    return [(path, reason) for shard in done for path, reason in shard["set_aside"]]


def index_loose(
    root: Path, counts: dict[str, int], frame_name: str, short_sides: dict[str, int], work: Path, out: Path
) -> list[tuple[str, str]]:
    """The index alone, for frames in loose files below `root`: their number by path is `counts`, their size stays.

    Returns (path, reason) of those set aside.
    """
    rows, set_aside = [], []
    for path in progress(sorted(counts), len(counts), "indexing", "videos"):
        try:
            rows.append((path, frames.NO_SHARD, 0, counts[path], *frame_size(root / path, frame_name)))
        except frames.FrameError as error:
            set_aside.append((path, str(error)))
    with held(work):
        for name in short_sides:
            frames.write_index(work / name, rows)
        replace_folder(work, out)
    return set_aside


def _pack(task: tuple[int, list[str]], videos: Path, short_sides: dict[str, int], work: Path) -> dict:
    number, paths = task
    note = work / f"shard-{number:05d}.json"  # written last: where it stands, the shard is whole
    if note.exists():
        return json.loads(note.read_text())
    torch.set_num_threads(1)
    set_aside = []
    with contextlib.ExitStack() as stack:
        writers = {
            side: stack.enter_context(frames.ShardWriter(work / name, number)) for name, side in short_sides.items()
        }
        for path in paths:
            for writer in writers.values():
                writer.begin(path)
            try:
                _write(videos / path, writers)
            except VideoError as error:
                set_aside.append((path, str(error)))
                for writer in writers.values():
                    writer.drop()
            else:
                for writer in writers.values():
                    writer.end()
        rows = {name: writers[side].rows for name, side in short_sides.items()}
    write_json(note, {"rows": rows, "set_aside": set_aside})
    return json.loads(note.read_text())


def _write(path: Path, writers: dict[int, frames.ShardWriter]) -> None:
    count, sizes = 0, {}
    for image in decode(path):
        for side, writer in writers.items():
            size = sizes.setdefault(side, short_side_size(*image.shape[:2], side))
            writer.add(shrink(image, size))
        count += 1
    announced = announced_frames(path)
    if count == 0:
        raise VideoError("no frames")
    if count < announced * (1 - MISSING_FRAMES):
        raise VideoError(f"cut off: {count} of {announced} frames")
