"""Videos to packed frames, for one short side.

A shard's bytes depend on the list of videos and on the code alone, not on the processes or machines that did the work.
"""

import functools
from pathlib import Path

import numpy as np
import torch

from r2plus1d.system.errors import UserError
from r2plus1d.system.files import replace_folder
from r2plus1d.video import sandbox, shards
from r2plus1d.video.decoding import VideoError
from r2plus1d.video.groups import Listed, Machines, check_content, forget, in_groups
from r2plus1d.video.views import short_side_size, shrink


class ExtractionError(UserError):
    """A video that was readable when it was looked at."""


def extract(
    videos: Path,
    listed: list[Listed],
    counts: dict[str, int],
    short_side: int,
    work: Path,
    out: Path,
    machines: Machines,
) -> None:
    """Packs the frames of the videos below `videos` into the folder `out`, their short side scaled to `short_side`.

    `counts` are the numbers of frames that `probe` found; videos without one are left out. Shards that an interrupted
    run left in `work` are kept: it must differ where the code, the videos or the short side differ. Raises
    ExtractionError for a video of which other frames are found.
    """
    pack = functools.partial(
        _pack, videos=videos.absolute(), counts=counts, short_side=short_side, work=work.absolute()
    )
    there = functools.partial(_there, work=work.absolute())
    rows = in_groups(pack, there, sorted(listed), work, machines, "extracting")
    shards.write_index(work, (row for group in rows for row in group))
    replace_folder(work, out)
    forget(work)


def _pack(number: int, group: list[Listed], videos: Path, counts: dict[str, int], short_side: int, work: Path) -> list:
    torch.set_num_threads(1)
    with shards.ShardWriter(work, number) as writer:
        for video in group:
            if video.path in counts:
                _write(videos / video.path, video, counts[video.path], short_side, writer)
        return writer.rows


def packed(image: np.ndarray, short_side: int) -> np.ndarray:
    """uint8 [H, W, 3], a frame of a video -> as it is read from a shard: made smaller, and through JPEG."""
    return shards.decode(shards.encode(_small(image, short_side)))


def _small(image: np.ndarray, short_side: int) -> np.ndarray:
    height, width, _ = image.shape
    return shrink(image, short_side_size(height, width, short_side))


def _there(number: int, work: Path) -> bool:
    return shards.shard_path(work, number).exists()


def _write(file: Path, video: Listed, count: int, short_side: int, writer: shards.ShardWriter) -> None:
    writer.begin(video.path)
    found = 0
    try:
        check_content(file, video)
        for image in sandbox.decode(file):
            writer.add(_small(image, short_side))
            found += 1
        if found != count:
            raise VideoError(f"{found} frames, and {count} before")
    except VideoError as error:
        raise ExtractionError(
            f"{file}: it was readable, and is not now: {error}; run `R2PLUS1D_AGAIN=1 dvc repro --force probe`"
        ) from error
    writer.end()
