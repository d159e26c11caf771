"""The embedded dataset `motion`: short h264 videos of twelve motions, a pure function of two seeds.

One seed is that of the training and validation videos, the other that of the test videos.

Every video shows a field of shapes over a textured background, on a frame that wraps around. The class decides only how
the shapes move; outlines, textures, colours, background, sizes, places, speeds and camera sway are drawn without
looking at it. A single frame says little: places are uniform whatever the motion, and sizes, which run in a saw-tooth
where they change, have in every class the distribution of that saw-tooth.

All motions survive a left-right flip. `fluttering` is `falling`, and `shaking` is `still`, plus a vibration with a
period of 8 frames, which a clip with a frame interval of 8 cannot see.

Shapes: T frames, H x W pixels; colours are Y, Cb, Cr in 0-255. Lengths are in units of H unless they say pixels.
"""

import functools
import math
from pathlib import Path

import numpy as np

from r2plus1d.config.schema import MotionSource
from r2plus1d.datasets.encode import write_h264
from r2plus1d.datasets.manifest import Entry, entry
from r2plus1d.system.pool import spread
from r2plus1d.system.progress import progress

CLASSES = (
    "falling",
    "fluttering",
    "growing",
    "hopping",
    "meeting",
    "orbiting",
    "parting",
    "rising",
    "shaking",
    "shrinking",
    "still",
    "swinging",
)
FPS = 25
ASPECT = 4 / 3
FRAMES = (80, 96)  # fewest and most frames of a video
SHAPES = (24, 30)  # fewest and most
RADIUS = (0.045, 0.08)  # of a shape at the middle of the saw-tooth, drawn evenly in the logarithm
SPEED = (0.010, 0.014)  # of rising, falling, parting and meeting, per frame
CYCLE = (52, 68)  # frames of the saw-tooth in which shapes part, meet, grow or shrink
GROWTH = (0.018, 0.024)  # of the logarithm of the radius, per frame
STAY = (8, 16)  # frames between two hops
SWING = (0.16, 0.22)  # half the width of swinging and orbiting
SWING_PERIOD = (44, 60)  # frames
VIBRATION = (0.05, 0.08)  # half the width of shaking and fluttering
VIBRATION_PERIOD = 8  # frames
SWAY = 0.005  # most movement of the camera to each side
SUBPIXEL = 64  # positions and radii are rounded to 1/64 pixel: a last-bit difference of libm's sine cannot show


def render(seed: int, split: int, label: int, index: int, short_side: int) -> np.ndarray:
    """One video: uint8 [T, 3, H, W] in Y, Cb, Cr with H = `short_side` and W = 4/3 H, both even.

    `label` indexes CLASSES; (`seed`, `split`, `label`, `index`) alone decide the content.
    """
    rng = np.random.default_rng([seed, split, label, index])
    height, width = short_side, 2 * round(short_side * ASPECT / 2)
    num_frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    sway = np.stack([_sway(rng, num_frames) for _ in range(2)], axis=1)
    video = _background(rng, num_frames, height, width, sway)
    field = _Field(rng, num_frames)
    for _ in range(int(rng.integers(SHAPES[0], SHAPES[1] + 1))):
        path, radius = field.shape(rng, CLASSES[label])
        _draw(rng, video, (path + sway) * height, radius * height)
    return np.rint(video).astype(np.uint8)


class _Field:
    """What all shapes of a video share, drawn whatever the class."""

    def __init__(self, rng: np.random.Generator, num_frames: int):
        self.t = np.arange(num_frames)
        cycle, phase, self.frozen = int(rng.integers(CYCLE[0], CYCLE[1] + 1)), rng.uniform(), rng.uniform(-0.5, 0.5)
        self.cycle = cycle
        self.tooth = cycle * ((self.t / cycle + phase) % 1 - 0.5)  # [T], from -cycle / 2 to cycle / 2, again and again
        self.speed, self.growth = rng.uniform(*SPEED), rng.uniform(*GROWTH)
        self.centre = rng.uniform(0.4, 0.6) * ASPECT  # that parting flees and meeting seeks
        amplitude, period, phase = rng.uniform(*SWING), rng.uniform(*SWING_PERIOD), rng.uniform(0, 2 * math.pi)
        self.swing = _sine(self.t, amplitude, period, phase)
        self.lift = _sine(self.t, amplitude, period, phase + rng.choice([-1, 1]) * math.pi / 2)
        self.shake = _sine(self.t, rng.uniform(*VIBRATION), VIBRATION_PERIOD, rng.uniform(0, 2 * math.pi))

    def shape(self, rng: np.random.Generator, name: str) -> tuple[np.ndarray, np.ndarray]:
        """One shape's path [T, 2] in (x, y) and radius [T]."""
        places = rng.uniform([0, 0], [ASPECT, 1], (len(self.t), 2))
        stays = rng.integers(STAY[0], STAY[1] + 1, len(self.t))
        size = math.log(RADIUS[0]) + rng.uniform() * math.log(RADIUS[1] / RADIUS[0])
        if name == "hopping":
            path = places[np.searchsorted(np.cumsum(stays) - int(rng.integers(STAY[0])), self.t, side="right")]
        else:
            path = np.tile(places[0], (len(self.t), 1))
        outwards = 1 if (places[0, 0] - self.centre) % ASPECT < ASPECT / 2 else -1
        age = np.full(len(self.t), self.frozen * self.cycle)
        if name == "rising":
            path[:, 1] -= self.speed * self.t
        elif name in ("falling", "fluttering"):
            path[:, 1] += self.speed * self.t
        elif name == "parting":
            path[:, 0] += outwards * self.speed * self.tooth
        elif name == "meeting":
            path[:, 0] -= outwards * self.speed * self.tooth
        elif name == "growing":
            age = self.tooth
        elif name == "shrinking":
            age = -self.tooth
        elif name == "swinging":
            path[:, 0] += self.swing
        elif name == "orbiting":
            path += np.stack([self.swing, self.lift], axis=1)
        if name in ("fluttering", "shaking"):
            path[:, 0] += self.shake
        return path, np.array([math.exp(size + self.growth * a) for a in age.tolist()])


def _sway(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """Displacement of the camera along one axis, [T]: slow and small."""
    return _sine(np.arange(num_frames), rng.uniform(0, SWAY), rng.uniform(60, 120), rng.uniform(0, 2 * math.pi))


def _sine(t: np.ndarray, amplitude: float, period: float, phase: float) -> np.ndarray:
    return np.array([amplitude * math.sin(2 * math.pi * frame / period + phase) for frame in t.tolist()])


def _background(rng: np.random.Generator, num_frames: int, height: int, width: int, sway: np.ndarray) -> np.ndarray:
    """float32 [T, 3, H, W]: coarse and fine random texture that moves with the camera only."""
    image = np.zeros((3, height, width), np.float32)
    image += rng.uniform([30, 116, 116], [65, 140, 140]).astype(np.float32)[:, None, None]
    for cells, contrast in ((3, 6), (6, 4), (12, 2)):
        grid = rng.uniform(-contrast, contrast, (3, cells, cells)).astype(np.float32)
        grid[1:] *= 0.5
        image += _stretch(_stretch(grid, height, 1), width, 2)
    image = image.clip(16, 235)
    dx, dy = (np.rint(s * height * SUBPIXEL) / SUBPIXEL for s in sway.T)
    video = np.empty((num_frames, 3, height, width), np.float32)
    for t in range(num_frames):
        video[t] = _shift(_shift(image, dx[t], 2), dy[t], 1)
    return video


def _stretch(grid: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Linear interpolation of a periodic grid to `size` pixels along an axis."""
    cells = grid.shape[axis]
    at = np.arange(size, dtype=np.float32) * np.float32(cells) / np.float32(size)
    low = at.astype(np.int64)
    weight = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
    return grid.take(low, axis) * (1 - weight) + grid.take((low + 1) % cells, axis) * weight


def _shift(image: np.ndarray, pixels: float, axis: int) -> np.ndarray:
    whole = math.floor(pixels)
    part = np.float32(pixels - whole)
    moved = np.roll(image, whole, axis)
    return moved if part == 0 else moved * (1 - part) + np.roll(moved, 1, axis) * part


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Of a shape: lighter than any background."""
    return rng.uniform([180, 100, 100], [235, 156, 156]).astype(np.float32)


def _draw(rng: np.random.Generator, video: np.ndarray, path: np.ndarray, radius: np.ndarray) -> None:
    """Paints one shape over the video in place; `path` [T, 2] (x, y) and `radius` [T] in pixels."""
    height, width = video.shape[2:]
    path, radius = (np.rint(a * SUBPIXEL).astype(np.float32) / SUBPIXEL for a in (path, radius))
    first = _colour(rng)
    second = first - np.array([rng.uniform(20, 60), 0, 0], np.float32)
    outline, texture = int(rng.integers(5)), int(rng.integers(4))
    side = 2 * math.ceil(float(radius.max()) + 1) + 1
    corner = np.floor(path).astype(np.int64) - side // 2  # [T, 2], of the patch that holds the shape
    near = corner[:, None, :] + np.arange(side)[None, :, None]  # [T, side, 2], pixel coordinates
    offset = (near - path[:, None, :]).astype(np.float32) / radius[:, None, None]
    u, v = offset[:, None, :, 0], offset[:, :, None, 1]  # -1..1 within the shape, along x and y
    alpha = ((1 - _reach(outline, u, v)) * radius[:, None, None] + np.float32(0.5)).clip(0, 1)[
        :, None
    ]  # [T, 1, side, side]
    paint = np.where(_marks(texture, u, v)[:, None], first[:, None, None], second[:, None, None])
    for t, (left, top) in enumerate(corner.tolist()):
        for rows, own_rows in _wrapped(top % height, side, height):
            for columns, own_columns in _wrapped(left % width, side, width):
                area, own = video[t, :, rows, columns], (t, slice(None), own_rows, own_columns)
                change = paint[own] - area
                change *= alpha[own]
                area += change


@functools.cache
def _wrapped(start: int, length: int, size: int) -> tuple[tuple[slice, slice], ...]:
    """Where a patch lies on an axis that wraps around, in one piece or two: (of the axis, of the patch)."""
    first = min(length, size - start)
    piece = slice(start, start + first), slice(0, first)
    return (piece,) if first == length else (piece, (slice(0, length - first), slice(first, length)))


def _reach(outline: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far a point lies on the way from the centre (0) to the outline (1): disc, square, diamond, plus, triangle."""
    if outline == 0:
        return np.sqrt(u * u + v * v)
    au, av = np.abs(u), np.abs(v)
    if outline == 1:
        return np.maximum(au, av) * np.float32(1.15)
    if outline == 2:
        return (au + av) * np.float32(0.85)
    if outline == 3:
        return np.maximum(np.maximum(au, av), np.minimum(au, av) * np.float32(2.5))
    return np.maximum(v, au * np.float32(1.6) - v * np.float32(0.8)) * np.float32(1.2) + np.float32(0.1)


def _marks(texture: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where a texture shows its first colour: plain, bars, stripes, checks."""
    if texture == 0:
        return np.broadcast_to(np.array(True), np.broadcast_shapes(u.shape, v.shape))
    columns, rows = (np.floor(a * np.float32(2.5)).astype(np.int64) & 1 for a in (u, v))
    if texture == 1:
        return np.broadcast_to(columns == 1, np.broadcast_shapes(u.shape, v.shape))
    if texture == 2:
        return np.broadcast_to(rows == 1, np.broadcast_shapes(u.shape, v.shape))
    return columns != rows


def generate(source: MotionSource, work: Path, workers: int | None) -> list[Entry]:
    counts = {"train": source.train_videos, "val": source.val_videos, "test": source.test_videos}
    tasks = [
        (split, label, index)
        for split, count in counts.items()
        for label in range(len(CLASSES))
        for index in range(count)
    ]
    make = functools.partial(_generate_one, source=source, work=work)
    return sorted(progress(spread(make, tasks, workers), len(tasks), "generating", "videos"))


def _generate_one(task: tuple[str, int, int], source: MotionSource, work: Path) -> Entry:
    split, label, index = task
    name = CLASSES[label]
    path = work / split / name / f"{name}_{index:03d}.mp4"
    if not path.exists():
        seed = source.test_seed if split == "test" else source.seed
        planes = render(seed, ("train", "val", "test").index(split), label, index, source.short_side)
        write_h264(path, planes, FPS)
    return entry(path, work, name, split)
