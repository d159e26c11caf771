"""Frames in memory, as they are read; without torch, which the process that decodes does not need."""

import numpy as np

MAX_PIXELS = 2**26  # of a frame that is read: 8192 x 8192, twice 8K; a header may announce any number


class Stack:
    """Images of one size, one after the other, in an array made for `count` of them."""

    def __init__(self, count: int):
        self._count, self._used, self._all = count, 0, np.empty((count, 0, 0, 3), np.uint8)

    def place(self, height: int, width: int) -> np.ndarray:
        """Where the next image goes, uint8 [height, width, 3]. Raises ValueError for another size than the first's."""
        if self._used == 0:
            self._all = np.empty((self._count, height, width, 3), np.uint8)
        if (height, width) != self._all.shape[1:3]:
            raise ValueError(f"{(height, width)} pixels, but the first has {self._all.shape[1:3]}")
        self._used += 1
        return self._all[self._used - 1]

    @property
    def given(self) -> np.ndarray:
        """uint8 [images so far, H, W, 3]"""
        return self._all[: self._used]
