"""Reading and writing video files; the only module that knows PyAV.

Frames are uint8 [H, W, 3] in RGB, upright: rotation metadata is applied. Frame numbers count decoded frames from 0.
"""

from collections.abc import Container, Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from r2plus1d.errors import UserError
from r2plus1d.files import replacing

VIDEO_SUFFIXES = {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
VIDEO_SUFFIXES |= {".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
MISSING_FRAMES = 0.1  # share of the announced frames that may be missing before a video counts as cut off


class VideoError(UserError):
    """A video that cannot be read; the message says why, without the path."""


def decode(path: Path, wanted: Container[int] | None = None) -> Iterator[np.ndarray | None]:
    """All frames in order; those not `wanted` (None: all are) are decoded but not converted, and come as None.

    Raises VideoError for a file without a video stream or with broken content.
    """
    convert = VideoReformatter()  # one for all frames: a new one costs more than the frame
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(_stream(container))):
                yield _upright(frame, convert) if wanted is None or number in wanted else None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(_reason(error)) from error


def announced_frames(path: Path) -> int:
    """The number of frames that the container promises, 0 where it says nothing."""
    try:
        with av.open(str(path)) as container:
            return _stream(container).frames
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(_reason(error)) from error


class VideoReader:
    """Frames straight from the video files under a folder, the counterpart of `frames.FrameReader`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, path: str, indices: np.ndarray) -> np.ndarray:
        """uint8 [len(indices), H, W, 3]; decodes once, up to the last frame wanted.

        Raises VideoError, with the path, for a video that cannot be read or is too short.
        """
        wanted = set(indices.tolist())
        last, found = max(wanted), {}
        try:
            for number, frame in enumerate(decode(self.folder / path, wanted)):
                if frame is not None:
                    found[number] = frame
                if number == last:
                    break
        except VideoError as error:
            raise VideoError(f"{self.folder / path}: {error}") from error
        if missing := wanted - found.keys():
            raise VideoError(f"{self.folder / path}: frame {min(missing)} is missing; run extract_frames again")
        return np.stack([found[i] for i in indices.tolist()])


def write_h264(path: Path, video: np.ndarray, fps: int) -> None:
    """Writes uint8 [T, 3, H, W] in Y, Cb, Cr as h264 in mp4: the same bytes on every machine.

    One thread and a constant quantiser, without x264's frame-level float decisions, which vary with both.
    """
    height, width = video.shape[2:]
    with replacing(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {
            "preset": "veryfast",
            "x264-params": "threads=1:qp=28:mbtree=0:aq-mode=0:rc-lookahead=0:keyint=32:scenecut=0",
        }
        for planes in video:
            frame = av.VideoFrame.from_ndarray(_subsampled(planes), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _stream(container: av.container.InputContainer) -> av.VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise VideoError("no video stream")
    stream = streams[0]
    stream.thread_type = "NONE"  # processes, one per core, are what runs in parallel
    return stream


def _upright(frame: av.VideoFrame, convert: VideoReformatter) -> np.ndarray:
    """RGB pixels; `frame.rotation` counts anticlockwise degrees, as numpy's rot90 counts quarter turns."""
    image = convert.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return np.rot90(image, round(frame.rotation / 90) % 4) if frame.rotation else image


def _subsampled(planes: np.ndarray) -> np.ndarray:
    """[3, H, W] -> the yuv420p layout [H * 3 / 2, W]: each 2 x 2 block's mean colour, rounded half up."""
    y, *chroma = planes
    sums = (c.astype(np.uint16) for c in chroma)
    halves = [((s[::2, ::2] + s[1::2, ::2] + s[::2, 1::2] + s[1::2, 1::2] + 2) >> 2).astype(np.uint8) for s in sums]
    return np.concatenate([y.ravel(), *(h.ravel() for h in halves)]).reshape(-1, y.shape[1])


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
