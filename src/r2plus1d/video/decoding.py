"""Decoding video files; with `reading`, which decodes parts of them, all that decodes with PyAV.

Frames are uint8 [H, W, 3] in RGB, upright: turned and mirrored as the file says. Frame numbers count from 0.
All frames of a video have the size of its first: others are scaled to it. FFmpeg gets an open file and nothing else:
whatever the content asks for, it can open no other file and no network connection.
"""

import contextlib
import os
import stat
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from r2plus1d.system.errors import MACHINE, UserError, one_line
from r2plus1d.system.files import sha256
from r2plus1d.video.looks import Spread, look
from r2plus1d.video.stack import MAX_PIXELS

# FFmpeg's names of the containers that such files are, told apart by their content. No playlists, no lists of images.
CONTAINERS = "asf,avi,flv,h264,hevc,m4v,matroska,mov,mpeg,mpegts,mpegvideo,mxf,ogg"
MISSING_FRAMES = 0.1  # share of the announced frames that may be missing before a video counts as cut off
# What one video may cost. Each is far beyond any clip, and none depends on the machine.
MAX_FRAMES = 1_000_000  # nine hours at 30 frames a second
LIMITS = {"max_pixels": str(MAX_PIXELS)}  # FFmpeg's own, before it takes memory for a frame, at the opening too
MAX_ALL_PIXELS = 2**41  # of all frames: a million of 1920 x 1080
LEAST_RATE, MOST_RATE = 0.1, 1000  # frames a second; other figures are no rate
UNEVEN = 0.02  # share of a video's length by which its frames' times may contradict its announced rate
SPACES = {8: "YCgCo", 10: "BT.2020 constant luminance", 14: "ICtCp"}  # ITU-T H.273
EBML = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of a Matroska file: the header, then the segment
MOST_CHUNKS = 10_000  # of an AVI, a gigabyte each
MAX_SHAPE = 32  # long side : short side; a frame of 1 x 5000 would grow to 256 x 1,280,000


class VideoError(UserError):
    """A video that cannot be read; the message says why, without the path."""


def decode(path: Path, wanted: Container[int] | None = None) -> Iterator[np.ndarray | None]:
    """All frames in order; those not `wanted` (None: all are) are decoded but not converted, and come as None.

    Raises VideoError for a file without a video stream, with broken content or beyond the limits above; at the end for
    one without frames, and one that is cut off: frames are missing of those that the container announced. Raises
    OSError where the machine is at fault, such as a failing disk. In this process, where a fault of the decoder ends
    everything: `sandbox.decode` is for files that nobody has decoded yet.
    """
    convert = VideoReformatter()  # one for all frames: a new one costs more than the frame
    with _video_errors(path):
        for number, shown in enumerate(_shown(path)):
            yield upright(shown, convert) if wanted is None or number in wanted else None


class Measured(NamedTuple):
    """What a video that decodes whole is found to be."""

    frames: int
    height: int
    width: int
    rate: float  # frames a second; 0: neither the file nor the times of its frames tell
    looks: str  # of some frames at even distances and of the last one, one after the other: see `video.looks`


def measured(path: Path) -> Iterator[int | Measured]:
    """For each frame how many the file announces (0: it does not); then what was found. Raises as `decode` does."""
    kept, times, count, convert = Spread[Shown](), [], 0, VideoReformatter()
    with _video_errors(path):
        for count, shown in enumerate(_shown(path), 1):
            kept.show(count - 1, shown)
            if shown.frame.time is not None:
                times.append(shown.frame.time)
            yield shown.whole
        looks = "".join(filter(None, (look(upright(shown, convert)) for shown in kept.kept())))
        yield Measured(count, *shown.size, _rate(times, count, shown.announced), looks)


def _rate(times: list[float], count: int, announced: float) -> float:
    """Frames a second, to six digits: what the file says, unless the times of its `count` frames are another matter.
    Those of B-frames are often off by a frame or two. Where they are, or some jump, the usual distance of two."""
    known = LEAST_RATE <= announced <= MOST_RATE
    ordered = np.unique(times)
    span = ordered[-1] - ordered[0] if len(ordered) > 1 else 0.0
    if known and (not span or abs(span * announced - (count - 1)) <= 2 + count * UNEVEN):
        return round(announced, 6)
    found = 1 / float(np.median(np.diff(ordered))) if span else 0.0
    return round(found, 6) if LEAST_RATE <= found <= MOST_RATE else round(announced, 6) if known else 0.0


class Facing(NamedTuple):
    """How a decoded picture becomes the one that is shown: first rows become columns, then it is mirrored."""

    turned: bool  # rows become columns
    down: bool  # upside down
    across: bool  # left to right


_PLAIN = Facing(False, False, False)


def facing_of(frame: av.VideoFrame) -> Facing:
    """By the display matrix, as ffmpeg does; of an angle that is no quarter, the nearest one; of a matrix of zeros, as
    it is.

    The matrix [[a, b], [c, d]] maps a picture's (x, y) to (ax + cy, bx + dy).
    """
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is None:
        return _PLAIN
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5].tolist()  # type: ignore[call-overload]  # a buffer
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Facing(True, b < 0, c < 0)
    return Facing(False, d < 0, a < 0)


class Shown(NamedTuple):
    """A decoded frame, as a player shows it."""

    frame: av.VideoFrame
    facing: Facing
    size: tuple[int, int]  # height and width of all frames of the video, upright
    announced: float  # frames a second, as the file says; 0: it does not
    whole: int  # frames of the video, as the file says; 0: it does not


def _shown(path: Path) -> Iterator[Shown]:
    """All frames in order."""
    count, pixels, size = 0, 0, None
    with opened(path) as (container, stream):
        announced = float(stream.average_rate or 0)
        whole = stream.frames or round((container.duration or 0) / av.time_base * announced)
        packets = _Packets(container, stream)
        for number, frame in enumerate(frame for packet in packets for frame in packet.decode()):
            facing = facing_of(frame)
            if size is None:
                size = turned_size(frame, facing)
                _check_pixels(*size)
                if max(size) > MAX_SHAPE * min(size):
                    raise VideoError(f"frames of {size[1]} x {size[0]} pixels; at most {MAX_SHAPE} : 1 is read")
            pixels += max(frame.width * frame.height, size[0] * size[1])
            if number == MAX_FRAMES or pixels > MAX_ALL_PIXELS:
                raise VideoError(f"too long: more than {number:,} frames of {size[1]} x {size[0]} pixels")
            yield Shown(frame, facing, size, announced, min(max(whole, 0), MAX_FRAMES))
            count = number + 1
        if count == 0:
            raise VideoError("no frames")
        if container.format.name.startswith("matroska") and _is_cut_matroska(path):
            raise VideoError("cut off: the file ends before its content does")
        if count < stream.frames * (1 - MISSING_FRAMES) and not packets.whole(path):
            raise VideoError(f"cut off: {count} of {stream.frames} frames")


@contextlib.contextmanager
def _video_errors(path: Path) -> Iterator[None]:
    """What FFmpeg says, as VideoError; MemoryError, and what a disk or a lack of open files brings, are the machine's
    fault."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, MemoryError):  # FFmpeg has one of its own
            raise
        if isinstance(error, OSError) and error.errno in MACHINE:
            sha256(path)  # which fails alike, where it is not FFmpeg's word for a damaged file
        raise VideoError(one_line(error)) from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would wait for its writer
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise VideoError("not a regular file")
        if not os.fstat(descriptor).st_size:
            raise VideoError("the file is empty")
        options = {"fd": str(descriptor), "protocol_whitelist": "fd", "format_whitelist": CONTAINERS, **LIMITS}
        try:
            container = av.open("fd:", options=options, metadata_errors="replace")  # titles in any encoding
        except av.ArgumentError as error:  # what FFmpeg says of a container that is not in the list
            raise VideoError(f"no valid file in a container that is read ({CONTAINERS})") from error
        with container:
            yield container, _stream(container)
    finally:
        os.close(descriptor)


def _stream(container: av.container.InputContainer) -> av.VideoStream:
    """The one that a person would see: as ffmpeg chooses, the default one, then the largest, then the first."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise VideoError("no video stream")
    stream = max(streams, key=_rank)
    if stream.codec_context is None:
        raise VideoError("no decoder for its video stream")
    _check_pixels(stream.height, stream.width)
    stream.codec_context.options = LIMITS
    stream.thread_type, stream.thread_count = "NONE", 1  # processes, one per core, are what runs in parallel
    return stream


def _rank(stream: av.VideoStream) -> tuple[bool, bool, int]:
    if (context := stream.codec_context) is None:
        return False, False, 0
    return True, bool(stream.disposition & av.stream.Disposition.default), context.height * context.width


class _Packets:
    """All of one stream and the empty one at its end; streams that begin amid the file are passed over.

    For those, PyAV looks behind the end of its list of streams, and by what lies there in memory it ends as it should
    or with an IndexError; by then everything of `stream` has come.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream):
        self._container, self._stream = container, stream
        self._count, self._torn = 0, False

    def __iter__(self) -> Iterator[av.Packet]:
        with contextlib.suppress(IndexError):
            for packet in self._container.demux(self._stream):
                self._count += packet.size > 0
                self._torn |= packet.is_corrupt
                if (
                    packet.size or not packet.buffer_ptr
                ):  # an empty one that is not the end repeats a frame: Theora, AVI
                    yield packet

    def whole(self, path: Path) -> bool:
        """Whether all of the file came, though fewer frames are shown than it announces: an edit list hides some, as
        after a cut without encoding; or an AVI repeats frames by packets without content."""
        if self._torn:
            return False
        if self._count >= self._stream.frames * (1 - MISSING_FRAMES):
            return True
        return self._container.format.name == "avi" and _whole_avi(path)


def _whole_avi(path: Path) -> bool:
    """Whether its chunks, each of which says how long it is, end where the file ends or before."""
    with open(path, "rb") as file:
        end, at = os.fstat(file.fileno()).st_size, 0
        for _ in range(MOST_CHUNKS):
            if at >= end:
                break
            file.seek(at)
            head = file.read(8)
            if head[:4] != b"RIFF" or len(head) < 8:
                return at > 0  # something behind the last one
            at += 8 + int.from_bytes(head[4:], "little")
            at += at % 2
    return at <= end + 1


def _is_cut_matroska(path: Path) -> bool:
    """Whether more than the usual share is missing of the segment that holds all content: it says how long it is, but
    for a recording that was not closed (RFC 8794, 4 to 6, RFC 9559, 4.5)."""
    with open(path, "rb") as file:
        end, at = os.fstat(file.fileno()).st_size, 0
        for kind in EBML:
            file.seek(at)
            head = file.read(12)
            width = 9 - head[4].bit_length() if len(head) == 12 and head[:4] == kind else 9
            if width > 8:
                return False  # not as it must be, which FFmpeg may read all the same
            most = (1 << 7 * width) - 1
            size = int.from_bytes(head[4 : 4 + width], "big") & most
            at += 4 + width + size
        return size != most and at - end > MISSING_FRAMES * size


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise VideoError(f"frames of {width} x {height} pixels; at most {MAX_PIXELS:,} pixels are read")


def turned_size(frame: av.VideoFrame, facing: Facing) -> tuple[int, int]:
    """(height, width) as it is shown"""
    return (frame.width, frame.height) if facing.turned else (frame.height, frame.width)


def upright(shown: Shown, convert: VideoReformatter) -> np.ndarray:
    """RGB pixels of (height, width) `size`. Raises VideoError for colours that FFmpeg cannot convert."""
    turned, down, across = shown.facing
    height, width = reversed(shown.size) if turned else shown.size
    try:
        plane = convert.reformat(shown.frame, width, height, "rgb24", interpolation="BICUBIC", threads=1).planes[0]
    except av.FFmpegError as error:
        name = SPACES.get(int(shown.frame.colorspace), f"matrix {int(shown.frame.colorspace)}")
        raise VideoError(
            f"its colours ({shown.frame.format.name}, {name}) cannot be converted to RGB ({one_line(error)}); write it "
            "with others first, such as: ffmpeg -i IN -vf zscale=matrix=709 OUT.mp4"
        ) from error
    pixels = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]  # PyAV does not say that it is a buffer
    rows = pixels.reshape(height, plane.line_size)
    image = rows[:, : 3 * width].reshape(height, width, 3)
    image = image.swapaxes(0, 1) if turned else image
    return image[:: -1 if down else 1, :: -1 if across else 1]
