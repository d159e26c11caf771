"""Frames straight from video files, decoding no more than they need: with `decoding` all that decodes with PyAV."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from r2plus1d.video.decoding import Shown, VideoError, decode, facing_of, opened, turned_size, upright
from r2plus1d.video.stack import Stack

Change = Callable[[np.ndarray], np.ndarray]  # of a frame
MOST_BYTES = 2**26  # of a file whose packets are kept in memory, 64 MiB: a clip of 10 s takes 1 to 10


class VideoReader:
    """Frames straight from the video files under a folder, the counterpart of `shards.FrameReader`.

    Decodes in this process, whose threads share the work: for videos that were decoded whole before.
    """

    def __init__(self, folder: Path, change: Change | None = None):
        self.folder, self.change = folder, change

    def read(self, path: str, indices: np.ndarray, count: int = 0) -> np.ndarray:
        """uint8 [len(indices), H, W, 3], what `change` makes of each; decodes once, and what must be of a video of
        `count` frames (0: unknown).

        Raises VideoError, with the path, for a video that cannot be read or is too short.
        """
        wanted, places = np.unique(indices, return_inverse=True)
        try:
            frames = _decode_some(self.folder / path, wanted, count, self.change)
            if frames is None:
                frames = _decode_through(self.folder / path, wanted, self.change)
        except VideoError as error:
            raise VideoError(f"{self.folder / path}: {error}, though it could be read before") from error
        if len(frames) < len(wanted):
            missing = wanted[len(frames)]
            raise VideoError(f"{self.folder / path}: frame {missing} is missing, though it could be read before")
        return frames if np.array_equal(indices, wanted) else frames[places]


def _decode_through(path: Path, wanted: np.ndarray, change: Change | None = None) -> np.ndarray:
    """Those frames, of ascending numbers, from the start to the last; fewer where the video ends before."""
    last, stack = int(wanted[-1]), Stack(len(wanted))
    for number, image in enumerate(decode(path, set(wanted.tolist()))):
        if image is not None:
            _place(stack, image, change)
        if number == last:
            break
    return stack.given


def _place(stack: Stack, image: np.ndarray, change: Change | None) -> None:
    changed = image if change is None else change(image)
    stack.place(*changed.shape[:2])[:] = changed


def _decode_some(path: Path, wanted: np.ndarray, count: int, change: Change | None = None) -> np.ndarray | None:
    """The same pixels as `_decode_through`, from those groups of pictures alone that hold a wanted frame, up to its
    last one, without what is neither wanted nor referred to. None where that would not be exact.

    Frames are told by their times, which of a video that is damaged, and decoded all the same, may be another order
    than the one in which the decoder gives them.
    """
    if not 0 <= wanted[0] <= wanted[-1] < count:
        return None
    try:
        with opened(path) as (container, stream):
            packets, times = _packets(container, stream, count, int(wanted[-1]))
            order = np.argsort(times)  # frame number -> packet
            starts = np.flatnonzero([packet.is_keyframe for packet in packets])
            groups, stack = np.searchsorted(starts, order[wanted], side="right") - 1, Stack(len(wanted))
            for group in dict.fromkeys(groups.tolist()):
                places = order[wanted[groups == group]]
                if group and not _forgets(packets[starts[group]], stream.codec_context.extradata or b""):
                    return None
                shown = {times[place] for place in places}
                for image in _decode_group(stream.codec_context, packets[starts[group] : places.max() + 1], shown):
                    _place(stack, image, change)
            return stack.given
    except (_OtherwiseError, av.FFmpegError, IndexError, OSError, ValueError):  # what `decode` then says
        return None


class _OtherwiseError(Exception):
    """A video that must be decoded from its start."""


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, count: int, last: int
) -> tuple[list[av.Packet], list[int]]:
    """Those of a video up to frame `last`, and their times, if each is one of its `count` frames, shown in the order of
    those: h264 in mp4 or mov.

    Raises _OtherwiseError if not, or not surely.
    """
    context = stream.codec_context
    plain = context.name == "h264" and container.format.name.startswith("mov") and stream.frames == count
    if not plain or container.size > MOST_BYTES or (context.extradata or b"")[:1] != b"\1":  # avcC: units with lengths
        raise _OtherwiseError
    packets, times = [], []
    for packet in container.demux(stream):
        if not packet.size:  # the end
            break
        if packet.pts is None or packet.dts is None or packet.is_discard or packet.is_corrupt:
            raise _OtherwiseError
        if packet.has_sidedata("new_extradata") or _brings_sets(packet, context.extradata or b""):
            raise _OtherwiseError  # other parameter sets from here on, which a later group needs
        packets.append(packet)
        times.append(packet.pts)
        if len(times) > last and packet.dts > sorted(times)[last]:  # no later packet is shown before
            break
    unordered = context.has_b_frames and times == [packet.dts for packet in packets]
    if unordered or len(set(times)) <= last or len(set(times)) < len(times) or not packets[0].is_keyframe:
        raise _OtherwiseError
    return packets, times


def _decode_group(context: av.VideoCodecContext, packets: list[av.Packet], shown: set[int]) -> Iterator[np.ndarray]:
    """The frames of the times `shown`; `packets` are from a keyframe to the last of them."""
    convert, size, previous = VideoReformatter(), (context.height, context.width), -math.inf
    mode: Literal["DEFAULT", "NONREF"] | None = None
    for packet in [*packets, None]:
        before, mode = mode, "DEFAULT" if packet is None or packet.pts in shown else "NONREF"
        if mode != before:
            context.skip_frame = mode
        for frame in context.decode(packet):
            if frame.is_corrupt or frame.pts is None or frame.pts <= previous or (frame.height, frame.width) != size:
                raise _OtherwiseError
            previous = frame.pts
            if frame.pts in shown:
                shown.discard(frame.pts)
                facing = facing_of(frame)
                yield upright(Shown(frame, facing, turned_size(frame, facing), 0.0, 0), convert)
    if shown:
        raise _OtherwiseError
    context.flush_buffers()


def _forgets(packet: av.Packet, extradata: bytes) -> bool:
    """Whether no later frame refers to one before this keyframe: whether it is an IDR, a unit of type 5."""
    return next((kind == 5 for kind, _ in _units(packet, extradata) if kind in (1, 5)), False)


def _brings_sets(packet: av.Packet, extradata: bytes) -> bool:
    """Whether parameter sets, units of types 7 and 8, come with it that are not those of the file's header."""
    return any(kind in (7, 8) and unit not in extradata for kind, unit in _units(packet, extradata))


def _units(packet: av.Packet, extradata: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, content) of each unit (ITU-T H.264, 7.4.1). In an mp4 each stands after its length; the type is the last 5
    bits of its first byte."""
    data, width, at = bytes(packet), (extradata[4] & 3) + 1, 0
    while at + width < len(data):
        length = int.from_bytes(data[at : at + width], "big")
        yield data[at + width] & 31, data[at + width : at + width + length]
        at += width + length
