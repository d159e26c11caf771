"""Packed JPEG frames: many videos in one tar, with an index; the only module that knows the format.

A folder holds, for one short side:
  shard-00000.tar   `<video>/img_00001.jpg`, ...: plain tar, readable with standard tools
  shard-00000.npy   int64 [frames, 2]: where each of the shard's JPEG files begins in the tar, and its length, in bytes
  index.csv         one line per video: video, shard, first (row of the .npy), frames, height, width
Frame k of a video (k from 0) is row first + k. Videos stand in sorted order, so the bytes depend on nothing else.
"""

import contextlib
import csv
import os
import shutil
import tarfile
import tokenize
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import simplejpeg

from r2plus1d.system.errors import MACHINE, FrameError, one_line
from r2plus1d.system.files import replace_folder, replacing
from r2plus1d.video.stack import MAX_PIXELS, Stack

QUALITY = 95
MOST_BYTES = 1 << 28  # of its JPEG
NO_SHARD = -1  # in the index of frames that are not packed
COLUMNS = ("video", "shard", "first", "frames", "height", "width")
LEAST = {"shard": NO_SHARD, "first": 0, "frames": 1, "height": 1, "width": 1}


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """(height, width). Raises ValueError for what is no JPEG, and for one with more than MAX_PIXELS."""
    height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels; {MAX_PIXELS} are read at most")
    return height, width


def decode_into(stack: Stack, jpeg: bytes) -> None:
    """The next image of the stack. Raises ValueError as `jpeg_size` does, and for another size than the first one's."""
    simplejpeg.decode_jpeg(jpeg, "RGB", buffer=stack.place(*jpeg_size(jpeg)))


def decode(jpeg: bytes) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a JPEG that `encode` wrote."""
    return simplejpeg.decode_jpeg(jpeg, "RGB")


def encode(image: np.ndarray) -> bytes:
    """uint8 RGB [H, W, 3] -> JPEG at quality 95 with halved chroma."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), QUALITY, "RGB", "420")


class ShardWriter:
    """Writes shard-<number>.tar and .npy; both appear under their names when the block ends without an error.

    Frames go straight to the file, so memory does not grow with a video's length.
    """

    def __init__(self, folder: Path, number: int):
        self.path = shard_path(folder, number)
        self.number = number
        self.spans: list[tuple[int, int]] = []
        self.rows: list[tuple] = []

    def __enter__(self) -> "ShardWriter":
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(open(stack.enter_context(replacing(self.path, rivals=True)), "wb"))
            self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)
            stack.push(self._close)
            self._stack = stack.pop_all()
        return self

    def begin(self, video: str) -> None:
        self._video, self._first, self._start = video, len(self.spans), self._tar.offset
        self._size: tuple[int, ...] | None = None
        self._plain = self._described(1, 0)

    def add(self, image: np.ndarray) -> None:
        """The next frame, uint8 RGB [H, W, 3]."""
        self._size = image.shape[:2]
        jpeg = encode(image)
        header = self._header(len(self.spans) - self._first + 1, len(jpeg))
        self._file.write(b"".join((header, jpeg, bytes(-len(jpeg) % tarfile.BLOCKSIZE))))
        self.spans.append((self._tar.offset + len(header), len(jpeg)))
        self._tar.offset += len(header) + -(-len(jpeg) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE

    def _described(self, number: int, size: int) -> bytes:
        """What stands before a frame of so many bytes in the tar."""
        member = tarfile.TarInfo(f"{self._video}/img_{number:05d}.jpg")
        member.size = size
        return member.tobuf(self._tar.format, self._tar.encoding, self._tar.errors)

    def _header(self, number: int, size: int) -> bytes:
        """The same in a tenth of the time, from that of the video's first frame. Its fields are the name (100 bytes),
        the length (octal, at 124) and the sum of all bytes (octal, at 148, itself taken as blanks)."""
        if number > 99999 or len(self._plain) != tarfile.BLOCKSIZE:  # a name that is longer, or stands elsewhere
            return self._described(number, size)
        header, end = bytearray(self._plain), len(self._plain[:100].rstrip(b"\0")) - len(".jpg")
        header[end - 5 : end], header[124:135], header[148:156] = b"%05d" % number, b"%011o" % size, b" " * 8
        header[148:155] = b"%06o\0" % sum(header)
        return bytes(header)

    def end(self) -> None:
        assert self._size is not None  # no video is without frames
        self.rows.append((self._video, self.number, self._first, len(self.spans) - self._first, *self._size))

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    def _close(self, error: type | None, *_: object) -> None:
        if error is None:
            self._tar.close()
            with replacing(self.path.with_suffix(".npy"), rivals=True) as partial, open(partial, "wb") as file:
                np.save(file, np.array(self.spans, np.int64).reshape(-1, 2))


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.tar"


def write_index(folder: Path, rows: Iterable[Sequence]) -> None:
    """Closes a folder of shards; `rows` are those of all its ShardWriters, in order. They are not kept in memory."""
    with replacing(folder / "index.csv") as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def told(folder: Path) -> list[Path]:
    """The small files that tell one folder of packed frames from another: the index, and the places of all frames,
    since another picture has another length."""
    return [folder / "index.csv", *sorted(folder.glob("*.npy"))]


def nothing_packed(out: Path) -> None:
    """The folder of a row that reads videos, or loose frames, where they lie: an index without a video."""
    shutil.rmtree(out, ignore_errors=True)
    write_index(out, ())


def take_over(packed: Path, out: Path) -> None:
    """The frames that are packed already for another row: the same files under another name, without a copy where the
    file system has hard links."""
    work = unfinished(out)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for file in sorted(packed.iterdir()):
        try:
            os.link(file, work / file.name, follow_symlinks=False)  # DVC's own links into its cache too
        except OSError:
            shutil.copyfile(file, work / file.name)
    replace_folder(work, out)


def unfinished(out: Path) -> Path:
    """What `take_over` leaves where it is killed."""
    return out.with_name(f".{out.name}.part")


def read_index(folder: Path) -> pd.DataFrame:
    """The index with the video as key. Raises FrameError where there is none, or not one that `write_index` wrote."""
    path = folder / "index.csv"
    if not path.is_file():
        raise FrameError(f"{path} is missing; run `dvc repro extract_frames`")
    try:
        index = pd.read_csv(path, dtype=dict.fromkeys(LEAST, np.int64) | {"video": str}, keep_default_na=False)
        wrong = tuple(index.columns) != COLUMNS or (index[list(LEAST)] < pd.Series(LEAST)).any(axis=None)
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise FrameError(f"{path}: damaged ({one_line(error, 200)}); run `dvc repro extract_frames`") from error
    if wrong or not index["video"].is_unique:
        raise FrameError(
            f"{path}: damaged (not the columns, numbers and names expected); run `dvc repro extract_frames`"
        )
    return index.set_index("video")


class FrameReader:
    """Reads frames from a folder of shards; the counterpart of `reading.VideoReader`.

    Opens a shard for each call alone, which costs a thirtieth of the decoding: thousands of shards kept open would
    exceed what a process may open. So it can be handed to any number of processes and threads.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        index = read_index(folder).sort_index()
        self._videos = np.array([video.encode() for video in index.index], np.bytes_)
        self._places = index[["shard", "first", "frames"]].to_numpy(np.int64)

    def read(self, video: str, indices: np.ndarray, count: int = 0) -> np.ndarray:
        """uint8 [len(indices), H, W, 3]; each frame is read and decoded once, however often it is asked for.

        Raises FrameError, with the file, where the video or a frame is not there.
        """
        shard, first, frames = self._place(video)
        unique, inverse = np.unique(indices, return_inverse=True)
        if unique[0] < 0 or unique[-1] >= frames:
            raise FrameError(f"{self.folder}: {video!r} has frames 0 to {frames - 1}, not {unique[0]} to {unique[-1]}")
        path, images = shard_path(self.folder, shard), Stack(len(unique))
        try:
            places = np.lib.format.open_memmap(path.with_suffix(".npy"), mode="r")
            if places.dtype != np.int64 or places.ndim != 2 or places.shape[1] != 2:
                raise ValueError(f"{places.dtype} {list(places.shape)} in its .npy")
            with open(path, "rb") as file:
                for offset, length in places[first + unique].tolist():
                    if offset < 0 or not 0 < length <= MOST_BYTES:
                        raise ValueError(f"{length} bytes at byte {offset}, says its .npy")
                    file.seek(offset)
                    _add(images, file.read(length), path, offset, video)
        except (OSError, ValueError, LookupError, OverflowError, tokenize.TokenError) as error:  # of numpy's header too
            if isinstance(error, OSError) and error.errno in MACHINE:
                raise
            raise FrameError(f"{path}: {error}; run `dvc repro extract_frames`") from error
        return images.given if np.array_equal(unique, indices) else images.given[inverse]

    def _place(self, video: str) -> list[int]:
        """[shard, row of the video's first frame in the shard's .npy, number of frames]"""
        name = video.encode()
        number = np.searchsorted(self._videos, name)
        if number == len(self._videos) or self._videos[number] != name:
            raise FrameError(f"{self.folder / 'index.csv'}: no frames of {video!r}; run `dvc repro extract_frames`")
        return self._places[number].tolist()


def _add(images: Stack, jpeg: bytes, path: Path, offset: int, video: str) -> None:
    try:
        decode_into(images, jpeg)
    except ValueError as error:
        raise FrameError(f"{path}: no JPEG at byte {offset} that could be of {video!r}: {error}") from error
