"""Frames in a file each: read in order, and refused where they are no plain JPEGs."""

import numpy as np
import pytest
import simplejpeg

from r2plus1d.system.errors import FrameError
from r2plus1d.video.loose import LooseFrameReader, frame_size

FRAME_NAME = "img_{:05}.jpg"


@pytest.mark.parametrize("first", [0, 1])
def test_loose_frames_are_read_in_the_order_asked_for(tmp_path, first):
    images = [np.full((16, 24, 3), 20 * k, np.uint8) for k in range(5)]
    (tmp_path / "a").mkdir()
    for k, image in enumerate(images, first):
        (tmp_path / "a" / FRAME_NAME.format(k)).write_bytes(simplejpeg.encode_jpeg(image, 95, "RGB"))
    reader = LooseFrameReader(tmp_path, FRAME_NAME)
    found = reader.read("a", np.array([3, 0, 3, 4]))
    assert found[:, 8, 8, 0].tolist() == pytest.approx([60, 0, 60, 80], abs=2)
    with pytest.raises(FrameError, match=FRAME_NAME.format(first + 5)):
        reader.read("a", np.array([5]))
    (tmp_path / "a" / FRAME_NAME.format(first)).write_bytes(b"no picture")
    with pytest.raises(FrameError, match="no JPEG"):
        reader.read("a", np.array([0]))


def announcing(height: int, width: int) -> bytes:
    """A JPEG of a few hundred bytes whose header says another size."""
    jpeg = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(jpeg)


PNG = b"\x89PNG\r\n\x1a\n" + bytes(60)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (announcing(65500, 65500), "65500 x 65500 pixels"),
        (PNG, "no JPEG"),
        (b"GIF89a" + bytes(60), "no JPEG"),
        (b"", "no JPEG"),
    ],
)
def test_frame_that_is_huge_or_no_jpeg_is_refused(tmp_path, image, words):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / FRAME_NAME.format(1)).write_bytes(image)
    with pytest.raises(FrameError, match=words):
        frame_size(folder, FRAME_NAME)
    with pytest.raises(FrameError, match=words):
        LooseFrameReader(tmp_path, FRAME_NAME).read("a", np.array([0]))
