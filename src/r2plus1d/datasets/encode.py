"""Writing generated videos: h264 in mp4, the same bytes on every machine."""

from pathlib import Path

import av
import numpy as np

from r2plus1d.system.files import replacing


def write_h264(path: Path, video: np.ndarray, fps: int) -> None:
    """Writes uint8 [T, 3, H, W] in Y, Cb, Cr as h264 in mp4: the same bytes on every machine.

    One thread and a constant quantiser, without x264's frame-level float decisions, which vary with both.
    """
    height, width = video.shape[2:]
    with replacing(path, rivals=True) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {
            "preset": "veryfast",
            "tune": "fastdecode",
            "x264-params": "threads=1:qp=28:mbtree=0:aq-mode=0:rc-lookahead=0:keyint=32:scenecut=0",
        }
        for planes in video:
            frame = av.VideoFrame.from_ndarray(_subsampled(planes), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _subsampled(planes: np.ndarray) -> np.ndarray:
    """[3, H, W] -> the yuv420p layout [H * 3 / 2, W]: each 2 x 2 block's mean colour, rounded half up."""
    y, *chroma = planes
    sums = (c.astype(np.uint16) for c in chroma)
    halves = [((s[::2, ::2] + s[1::2, ::2] + s[::2, 1::2] + s[1::2, 1::2] + 2) >> 2).astype(np.uint8) for s in sums]
    return np.concatenate([y.ravel(), *(h.ravel() for h in halves)]).reshape(-1, y.shape[1])
