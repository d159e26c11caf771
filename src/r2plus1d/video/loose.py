"""Frames as loose JPEG files that another tool wrote, one folder per video; read where they lie, never changed.

Files are numbered from 1 (as MMAction writes them), or from 0 where that file exists: `img_00001.jpg`, ...
"""

from pathlib import Path

import numpy as np

from r2plus1d.system.errors import FrameError
from r2plus1d.video.shards import decode_into, jpeg_size
from r2plus1d.video.stack import Stack


def frame_size(folder: Path, frame_name: str) -> tuple[int, int]:
    """(height, width) of the first frame. Raises FrameError where it is no JPEG."""
    path = _frame(folder, frame_name, _first(folder, frame_name))
    try:
        return jpeg_size(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FrameError(f"{path}: no JPEG ({error})") from error


class LooseFrameReader:
    """The counterpart of `shards.FrameReader` for the folders below `root`."""

    def __init__(self, root: Path, frame_name: str):
        self.root, self.frame_name = root, frame_name

    def read(self, video: str, indices: np.ndarray, count: int = 0) -> np.ndarray:
        """uint8 [len(indices), H, W, 3]; frame 0 is the first; each is decoded once, however often it is asked for.

        Raises FrameError, with the file, for one that is not there, is no JPEG or has another size than the others.
        """
        unique, inverse = np.unique(indices, return_inverse=True)
        first = _first(self.root / video, self.frame_name)
        images = Stack(len(unique))
        for number in unique.tolist():
            path = _frame(self.root / video, self.frame_name, first + number)
            try:
                decode_into(images, path.read_bytes())
            except (OSError, ValueError) as error:
                raise FrameError(
                    f"{path}: {getattr(error, 'strerror', None) or f'no JPEG that fits ({error})'}"
                ) from error
        return images.given if np.array_equal(unique, indices) else images.given[inverse]


def _first(folder: Path, frame_name: str) -> int:
    return 0 if _frame(folder, frame_name, 0).is_file() else 1


def _frame(folder: Path, frame_name: str, number: int) -> Path:
    return folder / frame_name.format(number)
