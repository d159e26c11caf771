"""What the frames of a video look like, in a few bits each: enough to tell clips that were cut from one recording.

A look is the difference hash of a frame: the picture is reduced to 16 rows of 17 blocks, and each bit says whether a
block is brighter than its left neighbour; as many bits more say whether the two differ enough to tell. Whole numbers
throughout, so the same bits on every machine. Frames of nearly the same picture differ in few of the bits that tell in
both, whatever their size, format or codec.
"""

from typing import Generic, TypeVar

import numpy as np

SIDE = 16  # blocks; a row has one more
BITS = SIDE * SIDE
PLAIN = 8  # of 0 to 765, the sum of three channels: neighbours that differ by less tell nothing
LEAST = 112  # bits that must tell, or the frame says nothing: black, faded, a plain title
MOST = 8  # looks of a video

F = TypeVar("F")


class Spread(Generic[F]):
    """Keeps up to MOST of the things that it is shown, at even distances, and always the last one."""

    def __init__(self) -> None:
        self._kept: list[F] = []
        self._last: list[F] = []
        self._step = 1

    def show(self, number: int, thing: F) -> None:
        """In the order of their numbers, from 0."""
        self._last = [thing]
        if number % self._step == 0:
            if len(self._kept) == MOST:
                self._kept, self._step = self._kept[::2], 2 * self._step
            self._kept.append(thing)

    def kept(self) -> list[F]:
        """At most MOST."""
        among = bool(self._kept and self._last) and self._kept[-1] is self._last[0]
        return self._kept if among else [*self._kept[: MOST - 1], *self._last]


def look(frame: np.ndarray) -> str | None:
    """uint8 [H, W, 3] -> 128 hexadecimal digits, first whether each bit tells; None of a frame that is smaller than the
    blocks, or too plain."""
    h, w = frame.shape[:2]
    if h < SIDE or w < SIDE + 1:
        return None
    rows, columns = (np.arange(count + 1) * size // count for count, size in ((SIDE, h), (SIDE + 1, w)))
    lines = np.add.reduceat(frame.reshape(h, -1), 3 * columns[:-1], axis=1, dtype=np.int64)
    sums = np.add.reduceat(lines, rows[:-1], axis=0)
    widths, heights = np.diff(columns), np.diff(rows)[:, None]
    left, right = sums[:, :-1] * widths[1:], sums[:, 1:] * widths[:-1]  # means, times both areas
    tells = np.abs(right - left) >= PLAIN * heights * widths[1:] * widths[:-1]
    if tells.sum() < LEAST:
        return None
    return np.packbits(np.stack([tells, tells & (right > left)])).tobytes().hex()
