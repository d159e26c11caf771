"""The embedded dataset `motion`: short h264 videos of twelve motions, a pure function of the seed.

Every video shows a few pairs of textured shapes over a textured background. The class decides only how one variable of
the state moves; shapes, textures, colours, sizes, places, speeds and camera sway are drawn without looking at it. Each
moving variable has, at any instant, the distribution that it has in the classes where it stands still (positions wrap
around the frame, sizes and distances run in saw-teeth), so that a single frame says nothing about the class.
All motions survive a left-right flip. `fluttering` is `falling`, and `shaking` is `still`, plus a vibration with a
period of 8 frames, which a clip with a frame interval of 8 cannot see.

Shapes: T frames, H x W pixels; colours are Y, Cb, Cr in 0-255. Lengths are in units of H unless they say pixels.
"""

import math

import numpy as np

CLASSES = (
    "bouncing",
    "falling",
    "fluttering",
    "growing",
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
RADIUS = (0.06, 0.15)  # of a shape, drawn evenly in the logarithm
DISTANCE = (0.16, 0.60)  # between the two shapes of a pair
VIBRATION_PERIOD = 8  # frames
SUBPIXEL = 64  # positions and radii are rounded to 1/64 pixel: a last-bit difference of libm's sine cannot show


def render(seed: int, split: int, label: int, index: int, short_side: int) -> np.ndarray:
    """One video: uint8 [T, 3, H, W] in Y, Cb, Cr with H = `short_side` and W = 4/3 H, both even.

    `label` indexes CLASSES; (`seed`, `split`, `label`, `index`) alone decide the content.
    """
    rng = np.random.default_rng([seed, split, label, index])
    height, width = short_side, 2 * round(short_side * ASPECT / 2)
    num_frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    sway = [_sway(rng, num_frames) for _ in range(2)]
    video = _background(rng, num_frames, height, width, sway)
    for _ in range(int(rng.integers(3, 5))):
        for path, radius in _pair(rng, CLASSES[label], num_frames):
            _draw(rng, video, (path + np.stack(sway, axis=1)) * height, radius * height)
    return np.rint(video).astype(np.uint8)


def _sway(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """Displacement of the camera along one axis, [T]: slow and small."""
    amplitude, period, phase = rng.uniform(0, 0.02), rng.uniform(60, 120), rng.uniform(0, 2 * math.pi)
    return _sine(num_frames, amplitude, period, phase)


def _sine(num_frames: int, amplitude: float, period: float, phase: float) -> np.ndarray:
    return np.array([amplitude * math.sin(2 * math.pi * t / period + phase) for t in range(num_frames)])


def _pair(rng: np.random.Generator, name: str, num_frames: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Paths [T, 2] (x, y) and radii [T] of the two shapes of a pair. Every draw is made whatever the class."""
    t = np.arange(num_frames)
    x, y = np.full(num_frames, rng.uniform(0, ASPECT)), np.full(num_frames, rng.uniform(0, 1))
    angle = np.full(num_frames, rng.uniform(0, 2 * math.pi))
    distance = np.full(num_frames, rng.uniform(0, 1))  # 0-1, place within DISTANCE
    sizes = [np.full(num_frames, rng.uniform(0, 1)) for _ in range(2)]  # 0-1, place within RADIUS
    speed = rng.uniform(0.006, 0.012)  # units of H per frame, or share of a saw-tooth
    turn = rng.uniform(0.5, 1.0) * rng.choice([-1, 1]) * 2 * math.pi / 64
    swing = _sine(num_frames, rng.uniform(0.12, 0.2), rng.uniform(36, 56), rng.uniform(0, 2 * math.pi))
    shake = _sine(num_frames, rng.uniform(0.04, 0.07), VIBRATION_PERIOD, rng.uniform(0, 2 * math.pi))
    ramp = t * speed * 1.5

    if name == "rising":
        y = y - t * speed
    elif name in ("falling", "fluttering"):
        y = y + t * speed
    elif name == "growing":
        sizes = [(s + ramp) % 1 for s in sizes]
    elif name == "shrinking":
        sizes = [(s - ramp) % 1 for s in sizes]
    elif name == "parting":
        distance = (distance + ramp) % 1
    elif name == "meeting":
        distance = (distance - ramp) % 1
    elif name == "orbiting":
        angle = angle + t * turn
    elif name == "swinging":
        x = x + swing
    elif name == "bouncing":
        y = y + swing
    if name in ("fluttering", "shaking"):
        x = x + shake

    half = (DISTANCE[0] + distance * (DISTANCE[1] - DISTANCE[0])) / 2
    cos, sin = (np.array([f(a) for a in angle]) for f in (math.cos, math.sin))
    growth = math.log(RADIUS[1] / RADIUS[0])
    radii = [np.array([RADIUS[0] * math.exp(s * growth) for s in size]) for size in sizes]
    return [
        (np.stack([x + side * half * cos, y + side * half * sin], axis=1), radius)
        for side, radius in zip((1, -1), radii, strict=True)
    ]


def _background(rng: np.random.Generator, num_frames: int, height: int, width: int, sway: list) -> np.ndarray:
    """float32 [T, 3, H, W]: coarse and fine random texture that moves with the camera only."""
    image = np.zeros((3, height, width), np.float32)
    image += _colour(rng)[:, None, None]
    for cells, contrast in ((3, 30), (6, 15), (12, 8)):
        grid = rng.uniform(-contrast, contrast, (3, cells, cells)).astype(np.float32)
        grid[1:] *= 0.5
        image += _stretch(_stretch(grid, height, 1), width, 2)
    image = image.clip(16, 235)
    dx, dy = (np.rint(s * height * SUBPIXEL) / SUBPIXEL for s in sway)
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
    return rng.uniform([40, 70, 70], [210, 186, 186]).astype(np.float32)


def _draw(rng: np.random.Generator, video: np.ndarray, path: np.ndarray, radius: np.ndarray) -> None:
    """Paints one shape over the video in place; `path` [T, 2] (x, y) and `radius` [T] in pixels."""
    height, width = video.shape[2:]
    path, radius = (np.rint(a * SUBPIXEL).astype(np.float32) / SUBPIXEL for a in (path, radius))
    first, second = _colour(rng), _colour(rng)
    outline, texture = int(rng.integers(5)), int(rng.integers(4))
    side = 2 * math.ceil(float(radius.max()) + 1) + 1
    corner = np.floor(path).astype(np.int64) - side // 2  # [T, 2], of the patch that holds the shape
    near = corner[:, None, :] + np.arange(side)[None, :, None]  # [T, side, 2], pixel coordinates
    offset = (near - path[:, None, :]).astype(np.float32) / radius[:, None, None]
    u, v = offset[:, None, :, 0], offset[:, :, None, 1]  # -1..1 within the shape, along x and y
    reach = _reach(outline, u, v)
    alpha = ((1 - reach) * radius[:, None, None] + np.float32(0.5)).clip(0, 1)[:, None]  # [T, 1, side, side]
    paint = np.where(_marks(texture, u, v)[:, None], first[:, None, None], second[:, None, None])
    columns, rows = near[:, :, 0] % width, near[:, :, 1] % height
    for t in range(len(video)):
        where = (slice(None), rows[t][:, None], columns[t][None, :])
        video[t][where] += (paint[t] - video[t][where]) * alpha[t]


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
