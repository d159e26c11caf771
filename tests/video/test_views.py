"""Crops and sizes of frames."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from r2plus1d.video import views


def test_portrait_frames_are_cropped_at_top_bottom_and_middle():
    frames = np.zeros((2, 100, 64, 3), np.uint8)
    frames[..., 0] = np.arange(100)[:, None]
    tops = [views.crop(frames, box)[0, 0, 0, 0] for box in views.three_crop_boxes(*frames.shape[-3:-1], 64)]
    assert tops == [0, 36, 18]


def test_crop_larger_than_the_frame_is_an_error():
    with pytest.raises(ValueError, match="crop of 65 does not fit into frames of 64 x 85"):
        views.center_crop(np.zeros((64, 85, 3), np.uint8), 65)


def test_shrunk_pixels_are_torchvision_s():
    image = np.random.default_rng(0).integers(0, 256, (80, 107, 3), np.uint8)
    peer = functional.resize(torch.from_numpy(image).permute(2, 0, 1), [64, 86], antialias=True)
    np.testing.assert_array_equal(views.shrink(image, (64, 86)), peer.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("size", [(64, 86), (224, 224), (80, 31), (17, 200), (1, 1)])
def test_resized_pixels_follow_the_published_arithmetic(size):
    """The published arithmetic, written out: 11-bit weights, sums along the rows, then down the columns."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 90, 107, 3), np.uint8)[..., 5:85, 7:, :]

    def weights(old: int, new: int) -> tuple[np.ndarray, ...]:
        place = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
        first = np.floor(place)
        indices = [index.astype(int).clip(0, old - 1) for index in (first, first + 1)]
        return *indices, *(np.rint(share * 2048).astype(int) for share in (1 - (place - first), place - first))

    top, bottom, a, b = weights(80, size[0])
    left, right, c, d = weights(100, size[1])
    rows = frames[..., left, :] * c[:, None] + frames[..., right, :] * d[:, None]
    a, b = a[:, None, None], b[:, None, None]
    pixels = ((a * (rows[..., top, :, :] >> 4) >> 16) + (b * (rows[..., bottom, :, :] >> 4) >> 16) + 2) >> 2
    np.testing.assert_array_equal(views.resize(frames, size), pixels)


def test_random_crop_of_a_small_frame_has_a_pixel_at_least():
    boxes = [views.random_resized_crop_box(8, 10, np.random.default_rng(n), (0.001, 0.002)) for n in range(200)]
    assert all(left < right and top < bottom for left, top, right, bottom in boxes)
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes} == {(1, 1)}
