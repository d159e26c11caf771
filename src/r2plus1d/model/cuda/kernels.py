"""Triton kernels for what cuDNN has no fast form of: the stem, pooling, and convolutions in time of shared planes.

Shapes: S planes (frames of clips), P pixels, H x W pixels, C and O channels, last in memory. Every kernel adds in an
order that the shapes alone decide, and hands on what is not a number: tl.maximum would not.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from r2plus1d.video.normalisation import IMAGENET

MULTIPLE, STEM_MULTIPLE = 8, 32  # that channels are padded to, for the tensor cores; the stem's are widest in memory
PACKED = 16  # channels of a block of 2 x 2 pixels: 12 and 4 of zeros, for the tensor cores
ROW = 4 * PACKED  # numbers under one row of the 4 x 4 window, side by side in memory


# ---- The stem: with 2 x 2 pixels as one block of 16 channels, 7 x 7 with stride 2 becomes 4 x 4 with stride 1. ----


def pack(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 [S, H, W, 3] (normalised on the way) or normalised floats -> [S, h, w, 16].

    The padding of the 7 x 7 convolution is inside: h = ceil(H / 2) + 3, w likewise.
    """
    s, height, width, _ = frames.shape
    h, w = -(-height // 2) + 3, -(-width // 2) + 3
    y = torch.empty(s, h, w, PACKED, dtype=dtype, device=frames.device)
    block = min(128, triton.next_power_of_2(w))
    grid = s * h, triton.cdiv(w, block)
    normalise = frames.dtype == torch.uint8
    _pack[grid](frames, y, height, width, h, w, *frames.stride(), *IMAGENET[0], *IMAGENET[1], normalise, block)
    return y


@triton.jit
def _pack(x, y, H, W, h, w, at_s, at_h, at_w, at_c, m0, m1, m2, s0, s1, s2, NORMALISE: tl.constexpr, B: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    plane, block_y = row // h, (row % h).to(tl.int32)
    block_x = tl.program_id(1) * B + tl.arange(0, B)
    k = tl.arange(0, 16)
    c, place = k % 3, k // 3
    pixel_y = (2 * (block_y - 2) + place // 2)[None, :]
    pixel_x = 2 * (block_x[:, None] - 2) + (place % 2)[None, :]
    inside = (k < 12)[None, :] & (pixel_y >= 0) & (pixel_y < H) & (pixel_x >= 0) & (pixel_x < W)
    at = plane * at_s + pixel_y * at_h + pixel_x * at_w + (c * at_c)[None, :]
    value = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    if NORMALISE:
        mean = tl.where(c == 0, m0, tl.where(c == 1, m1, m2))
        std = tl.where(c == 0, s0, tl.where(c == 1, s1, s2))
        value = tl.where(inside, (value - mean[None, :]) / std[None, :], 0.0)
    to = (row * w + block_x[:, None]) * 16 + k[None, :]
    tl.store(y + to, value.to(y.dtype.element_ty), mask=(block_x < w)[:, None])


def packed_weight(weight: Tensor) -> Tensor:
    """[O, 3, 7, 7] -> [4, 64, O]: the 4 x 4 window over blocks, row by row."""
    o = weight.shape[0]
    w = functional.pad(weight, (1, 0, 1, 0)).view(o, 3, 4, 2, 4, 2)  # the window begins a pixel early
    w = functional.pad(w.permute(2, 4, 3, 5, 1, 0).reshape(4, 4, 12, o), (0, 0, 0, PACKED - 12))
    return w.reshape(4, ROW, o)


def stem(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution of what `pack` gives with `packed_weight`: -> [S, H', W', O]; with a bias, and then a ReLU."""
    s, h, w, _ = x.shape
    o = weight.shape[2]
    y = torch.empty(s, h - 3, w - 3, o, dtype=x.dtype, device=x.device)
    rows, (first, second) = 128, _halves(o)
    grid = s * (h - 3), triton.cdiv(w - 3, rows), triton.cdiv(o, first + second)
    _stem[grid](x, weight, weight if bias is None else bias, y, h, w, o, bias is not None, rows, first, second)
    return y


def _halves(o: int) -> tuple[int, int]:
    """Two powers of two that hold `o` channels with little waste."""
    first = 64 if o > 64 else triton.next_power_of_2(max(o, 16))
    return first, min(64, triton.next_power_of_2(max(o - first, 16)))


@triton.jit
def _stem(x, weight, bias, y, h, w, O, BIAS: tl.constexpr, BM: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    plane, out_y, wide = row // (h - 3), row % (h - 3), w - 3
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    k = tl.arange(0, 64)
    first = tl.program_id(2) * (B1 + B2) + tl.arange(0, B1)
    second = tl.program_id(2) * (B1 + B2) + B1 + tl.arange(0, B2)
    total1, total2 = tl.zeros((BM, B1), tl.float32), tl.zeros((BM, B2), tl.float32)
    for j in range(4):
        window = x + ((plane * h + out_y + j) * w + m[:, None]) * 16 + k[None, :]
        a = tl.load(window, mask=(m < wide)[:, None], other=0.0)
        at = weight + (j * 64 + k)[:, None] * O
        total1 = tl.dot(a, tl.load(at + first[None, :], mask=(first < O)[None, :], other=0.0), total1)
        total2 = tl.dot(a, tl.load(at + second[None, :], mask=(second < O)[None, :], other=0.0), total2)
    if BIAS:
        total1 += tl.load(bias + first, mask=first < O, other=0.0).to(tl.float32)[None, :]
        total2 += tl.load(bias + second, mask=second < O, other=0.0).to(tl.float32)[None, :]
        total1, total2 = tl.where(total1 < 0, 0.0, total1), tl.where(total2 < 0, 0.0, total2)
    to = y + (row * wide + m[:, None]) * O
    tl.store(to + first[None, :], total1.to(y.dtype.element_ty), mask=(m < wide)[:, None] & (first < O)[None, :])
    tl.store(to + second[None, :], total2.to(y.dtype.element_ty), mask=(m < wide)[:, None] & (second < O)[None, :])


class Stem(torch.autograd.Function):
    """`stem` without a bias, with a gradient for the weight, which is added up in one order."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return stem(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        s, h, w, _ = x.shape
        grad, o = grad.contiguous(), grad.shape[-1]
        columns = min(128, triton.next_power_of_2(max(o, 16)))
        parts = min(66, s * (h - 3))
        sums = torch.empty(parts, 4, ROW, o, dtype=torch.float32, device=x.device)
        grid = parts, 4, triton.cdiv(o, columns)
        rows = triton.cdiv(s * (h - 3), parts)
        _stem_backward[grid](x, grad, sums, s * (h - 3), rows, h, w, o, 64, columns, num_warps=8)
        return None, sums.sum(0)


@triton.jit
def _stem_backward(x, grad, sums, ROWS, EACH, h, w, O, BK: tl.constexpr, BN: tl.constexpr):
    part, j = tl.program_id(0), tl.program_id(1)
    column, k, wide = tl.program_id(2) * BN + tl.arange(0, BN), tl.arange(0, 64), w - 3
    total = tl.zeros((64, BN), tl.float32)
    blocks = tl.cdiv(wide, BK)
    for step in range(0, EACH * blocks):
        row = part.to(tl.int64) * EACH + step // blocks
        m = step % blocks * BK + tl.arange(0, BK)
        here = (m < wide) & (row < ROWS)
        window = x + ((row // (h - 3) * h + row % (h - 3) + j) * w + m[None, :]) * 16 + k[:, None]
        a = tl.load(window, mask=here[None, :], other=0.0)
        at = (row * wide + m[:, None]) * O + column[None, :]
        g = tl.load(grad + at, mask=here[:, None] & (column < O)[None, :], other=0.0)
        total = tl.dot(a, g, total)
    to = sums + ((part * 4 + j) * 64 + k[:, None]) * O + column[None, :]
    tl.store(to, total, mask=(column < O)[None, :])


# ---- 3 x 3 max pooling with stride 2 ----


class MaxPool(torch.autograd.Function):
    """[S, H, W, C] -> [S, ceil(H / 2), ceil(W / 2), C]; the backward pass adds in one order."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y, ctx.places = max_pool(x, places=True)
        ctx.shape = x.shape
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        s, h, w, c = ctx.shape
        grad = grad.contiguous()
        out = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device)
        grid, tile = _pool_tiles(s, h, w, c)
        _max_pool_backward[grid](grad, ctx.places, out, h, w, *grad.shape[1:3], c, *tile)
        return out


def max_pool(x: Tensor, places: bool = False) -> tuple[Tensor, Tensor | None]:
    """[S, H, W, C] -> the pooled [S, ceil(H / 2), ceil(W / 2), C], and where in its window each value stood."""
    s, h, w, c = x.shape
    shape = s, -(-h // 2), -(-w // 2), c
    y = torch.empty(shape, dtype=x.dtype, device=x.device)
    at = torch.empty(shape, dtype=torch.int8, device=x.device) if places else None
    grid, tile = _pool_tiles(*shape)
    _max_pool[grid](x, y, y if at is None else at, h, w, *shape[1:3], c, places, *tile)
    return y, at


def _pool_tiles(s: int, h: int, w: int, c: int) -> tuple[tuple, tuple[int, int]]:
    columns = min(64, triton.next_power_of_2(c))
    across = min(2048 // columns, triton.next_power_of_2(w))
    return (s * h, triton.cdiv(w, across), triton.cdiv(c, columns)), (across, columns)


@triton.jit
def _max_pool(x, y, places, H, W, h, w, C, KEEP: tl.constexpr, B: tl.constexpr, BC: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    plane, out_y = row // h, (row % h).to(tl.int32)
    out_x = tl.program_id(1) * B + tl.arange(0, B)
    c = tl.program_id(2) * BC + tl.arange(0, BC)
    best = tl.full((B, BC), float("-inf"), tl.float32)
    at = tl.zeros((B, BC), tl.int32)
    for ky in tl.static_range(3):
        for kx in tl.static_range(3):
            in_y, in_x = 2 * out_y - 1 + ky, 2 * out_x - 1 + kx
            inside = ((in_y >= 0) & (in_y < H) & (in_x >= 0) & (in_x < W))[:, None] & (c < C)[None, :]
            from_ = ((plane * H + in_y) * W + in_x[:, None]) * C + c[None, :]
            value = tl.load(x + from_, mask=inside, other=float("-inf")).to(tl.float32)
            more = (value > best) | (value != value)  # noqa: PLR0124 (not a number)
            if KEEP:
                at = tl.where(more, ky * 3 + kx, at)
            best = tl.where(more, value, best)
    to = (row * w + out_x[:, None]) * C + c[None, :]
    inside = (out_x < w)[:, None] & (c < C)[None, :]
    tl.store(y + to, best.to(y.dtype.element_ty), mask=inside)
    if KEEP:
        tl.store(places + to, at.to(tl.int8), mask=inside)


@triton.jit
def _max_pool_backward(grad, places, out, H, W, h, w, C, B: tl.constexpr, BC: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    plane, in_y = row // H, (row % H).to(tl.int32)
    in_x = tl.program_id(1) * B + tl.arange(0, B)
    c = tl.program_id(2) * BC + tl.arange(0, BC)
    total = tl.zeros((B, BC), tl.float32)
    for a in tl.static_range(2):  # an odd pixel lies in two windows along an axis, an even one in one
        for b in tl.static_range(2):
            out_y, out_x = in_y // 2 + a, in_x // 2 + b
            ky, kx = in_y + 1 - 2 * out_y, in_x + 1 - 2 * out_x
            covered = ((ky >= 0) & (kx >= 0) & (out_y < h) & (out_x < w) & (in_x < W))[:, None] & (c < C)[None, :]
            from_ = ((plane * h + out_y) * w + out_x[:, None]) * C + c[None, :]
            own = tl.load(places + from_, mask=covered, other=-1).to(tl.int32) == (ky * 3 + kx)[:, None]
            total += tl.where(own, tl.load(grad + from_, mask=covered, other=0.0).to(tl.float32), 0.0)
    to = (row * W + in_x[:, None]) * C + c[None, :]
    tl.store(out + to, total.to(out.dtype.element_ty), mask=(in_x < W)[:, None] & (c < C)[None, :])


# ---- The temporal convolution of planes that stand in a table: clips that share frames share their planes. ----


def temporal(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    sources: Tensor,
    residual: tuple[Tensor, Tensor] | None = None,
    relu: bool = True,
) -> Tensor:
    """The convolution in time of planes [S, H, W, C] -> [S', H, W, O].

    Plane s of the result is made of the planes `sources[s]` (int32 [S', taps], -1: zeros) with `weight`
    [taps, C, O], the `bias` [O] and, of a residual (planes [S'', H, W, O], int32 [S']), the plane that stands there.
    """
    (count, taps), (_, h, w, c), o = sources.shape, x.shape, weight.shape[2]
    y = torch.empty(count, h, w, o, dtype=x.dtype, device=x.device)
    rows, columns, depth, options = _tile(h * w, c, o)
    grid = count * triton.cdiv(h * w, rows), triton.cdiv(o, columns)
    shape, tile = (count, h * w, c, o, taps, residual is not None, relu), (rows, columns, depth)
    _temporal[grid](x, weight, bias, y, sources, *(residual or (x, sources)), *shape, *tile, **options)
    return y


def _tile(p: int, c: int, o: int) -> tuple[int, int, int, dict]:
    """Rows, columns and depth of a tile, and how it is computed: the fastest of those tried on an H100."""
    rows = 128 if p > 64 else 64
    columns = min(64, triton.next_power_of_2(max(o, 16)))
    depth = 64 if c % 64 == 0 else 32
    return rows, columns, depth, {"num_warps": 4, "num_stages": 4 if depth == 32 else 3}


@triton.jit
def _temporal(
    x, weight, bias, y, sources, residual, places, S, P,
    C: tl.constexpr, O: tl.constexpr, TAPS: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    s, block = tl.program_id(0) % S, tl.program_id(0) // S  # neighbours in time run together, and share the cache
    rows = block * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for tap in tl.static_range(TAPS):
        source = tl.load(sources + s * TAPS + tap)
        plane = x + source.to(tl.int64) * P * C
        here = (rows < P) & (source >= 0)
        for first in range(0, C, BK):
            k = first + tl.arange(0, BK)
            from_, at = plane + rows[:, None] * C + k[None, :], weight + (tap * C + k)[:, None] * O + columns[None, :]
            if C % BK == 0 and O % BN == 0:
                a, b = tl.load(from_, mask=here[:, None], other=0.0), tl.load(at)
            else:
                a = tl.load(from_, mask=here[:, None] & (k < C)[None, :], other=0.0)
                b = tl.load(at, mask=(k < C)[:, None] & (columns < O)[None, :], other=0.0)
            total = tl.dot(a, b, total)
    total += tl.load(bias + columns, mask=columns < O, other=0.0).to(tl.float32)[None, :]
    inside = (rows < P)[:, None] & (columns < O)[None, :]
    at = rows[:, None] * O + columns[None, :]
    if RESIDUAL:
        plane = residual + tl.load(places + s).to(tl.int64) * P * O
        total += tl.load(plane + at, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        total = tl.where(total < 0, 0.0, total)
    tl.store(y + s.to(tl.int64) * P * O + at, total.to(y.dtype.element_ty), mask=inside)
