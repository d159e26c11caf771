"""From frames to views: resizing, crops, flips, normalisation.

Frames are uint8 arrays [..., H, W, 3] in RGB; a box is (left, top, right, bottom) in pixels, the last two
excluded. Reproduces the published pipelines to the bit: OpenCV's bilinear resizing, sides rounded half up.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from r2plus1d.video.normalisation import IMAGENET

cv2.setNumThreads(1)  # what runs in parallel are clips
ATTEMPTS = 10  # at a random resized crop, before it falls back to the centred square

Box = tuple[int, int, int, int]
Frames = TypeVar("Frames", np.ndarray, Tensor)


def short_side_size(h: int, w: int, short: int) -> tuple[int, int]:
    """(h, w) after scaling the shorter side to `short` and keeping the shape."""
    factor = short / min(h, w)
    return int(h * factor + 0.5), int(w * factor + 0.5)


def resize(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [..., H, W, 3] -> uint8 [..., h, w, 3] for size (h, w), bilinear, each pixel from four.

    OpenCV's arithmetic for uint8 is in whole numbers: weights of 11 bits, so the same pixels on every machine.
    """
    if frames.shape[-3:-1] == tuple(size):
        return frames
    out = np.empty((*frames.shape[:-3], *size, 3), np.uint8)
    images = zip(frames.reshape(-1, *frames.shape[-3:]), out.reshape(-1, *size, 3), strict=True)
    for image, target in images:
        cv2.resize(image, (size[1], size[0]), dst=target, interpolation=cv2.INTER_LINEAR)
    return out


def resize_short_side(frames: np.ndarray, short: int) -> np.ndarray:
    h, w = frames.shape[-3:-1]
    return resize(frames, short_side_size(h, w, short))


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [h, w, 3] for size (h, w), bilinear with antialiasing: each pixel from all it covers."""
    if image.shape[:2] == tuple(size):
        return image
    batch = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    small = functional.interpolate(batch, tuple(size), mode="bilinear", align_corners=False, antialias=True)
    return small[0].permute(1, 2, 0).numpy()


def crop(frames: Frames, box: Box) -> Frames:
    """A view on the frames, not a copy."""
    left, top, right, bottom = box
    return frames[..., top:bottom, left:right, :]


def center_box(h: int, w: int, size: int) -> Box:
    """Raises ValueError where h x w is smaller than the crop."""
    if min(h, w) < size:
        raise ValueError(f"a crop of {size} does not fit into frames of {h} x {w}")
    left, top = (w - size) // 2, (h - size) // 2
    return left, top, left + size, top + size


def three_crop_boxes(h: int, w: int, size: int) -> list[Box]:
    """Left, right, middle; of tall frames top, bottom, middle. Raises ValueError unless the short side is `size`."""
    if min(h, w) != size:
        raise ValueError(f"three crops of {size} need frames with that short side, not {h} x {w}")
    step = (max(h, w) - size) // 2
    places = (0, 2 * step, step)
    return [(p, 0, p + size, size) if w >= h else (0, p, size, p + size) for p in places]


def crops(frames: Tensor, size: int, count: int) -> Tensor:
    """uint8 [U, H, W, 3] -> uint8 [count * U, size, size, 3]: every frame's first crop, then every frame's second one,
    and so on; one at the centre, or three along the long side. Raises ValueError where they do not fit."""
    h, w = frames.shape[1:3]
    boxes = three_crop_boxes(h, w, size) if count == 3 else [center_box(h, w, size)]
    return torch.cat([crop(frames, box) for box in boxes])


def places(indices: Tensor, distinct: int, count: int) -> Tensor:
    """Of clips, int64 [clips, T], made of `distinct` frames, the views: int64 [count * clips, T], into `crops`; view
    number = crop * clips + clip."""
    return torch.cat([indices + number * distinct for number in range(count)])


def center_crop(frames: np.ndarray, size: int) -> np.ndarray:
    """uint8 [..., H, W, 3] -> [..., size, size, 3], a view on the frames."""
    h, w = frames.shape[-3:-1]
    return crop(frames, center_box(h, w, size))


def random_resized_crop_box(
    h: int, w: int, rng, area: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)
) -> Box:
    """A random box that covers a share `area` of an image of h x w, with a width : height within `ratio`.

    `rng` is a numpy Generator. Ten candidates are drawn at once and the first that fits is placed at random; if none
    fits, the box is the largest centred square.
    """
    ratios = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), size=ATTEMPTS))
    areas = rng.uniform(*area, size=ATTEMPTS) * (h * w)
    widths = np.round(np.sqrt(areas * ratios)).astype(np.int64).clip(1)
    heights = np.round(np.sqrt(areas / ratios)).astype(np.int64).clip(1)
    for box_w, box_h in zip(widths.tolist(), heights.tolist(), strict=True):
        if box_w <= w and box_h <= h:
            left, top = int(rng.integers(0, w - box_w + 1)), int(rng.integers(0, h - box_h + 1))
            return left, top, left + box_w, top + box_h
    side = min(h, w)
    left, top = (w - side) // 2, (h - side) // 2
    return left, top, left + side, top + side


def flip(frames: np.ndarray) -> np.ndarray:
    """uint8 [..., H, W, 3], left and right exchanged: in new memory, since OpenCV is 20 times as fast as a reversed
    array's copy."""
    out = np.empty(frames.shape, np.uint8)
    for image, target in zip(frames.reshape(-1, *frames.shape[-3:]), out.reshape(-1, *frames.shape[-3:]), strict=True):
        cv2.flip(image, 1, dst=target)
    return out


def to_input(
    clips: Tensor, device: torch.device, mean: Sequence[float] = IMAGENET[0], std: Sequence[float] = IMAGENET[1]
) -> Tensor:
    """uint8 [N, T, H, W, 3] -> normalised float32 [N, 3, T, H, W], channels last in memory, on `device`.

    `mean` and `std` of the three channels, from 0 to 255, are those of the network's family."""
    n, t, h, w, _ = clips.shape
    x = clips.to(device, non_blocking=True).reshape(n, t, h, w * 3).float()
    rows = [torch.tensor(v, device=device).repeat(w) for v in (mean, std)]  # long ones, for vector instructions
    return x.sub_(rows[0]).div_(rows[1]).view(n, t, h, w, 3).permute(0, 4, 1, 2, 3)
