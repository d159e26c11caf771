"""Batch norm with the ReLU and the residual sum inside, forward and backward, as Triton kernels.

Shapes: M rows (all positions), C channels, last in memory. Sums are made in an order that the shapes alone decide.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 64  # channels of a tile
PROGRAMS = 1024  # that share the rows of a sum


class NormReLU(torch.autograd.Function):
    """relu(batch_norm(x) + residual) of x [..., C] with statistics over all positions; updates the running ones.

    x may have more channels than the norm, all zeros: they stay zeros. In one pass over x each: the statistics, the
    result, the sums of the backward pass, the gradient.
    """

    @staticmethod
    def forward(ctx, x: Tensor, gamma, beta, running_mean, running_var, momentum, eps, residual, relu) -> Tensor:
        c, real = x.shape[-1], gamma.numel()
        m = x.numel() // c
        if m < 2:
            raise ValueError(f"statistics need more than one value for each channel, not {list(x.shape)}")
        grid, rows = _splits(m, c)
        sums = torch.empty(2, grid[0], c, dtype=torch.float32, device=x.device)
        _sums[grid](x, sums, running_mean, m, c, real, rows, BM=64, BC=COLUMNS)
        saved = torch.empty(4, c, dtype=torch.float32, device=x.device)  # mean, 1 / std, scale, shift
        own = grid[0], triton.next_power_of_2(grid[0])
        arguments = sums, saved, gamma, beta, running_mean, running_var, m, c, real, momentum, eps
        _statistics[(triton.cdiv(c, 16),)](*arguments, *own, BC=16)
        y = torch.empty_like(x)
        _normalise[_tiles(m, c)](
            x, x if residual is None else residual, y, saved, m, c, residual is not None, relu, BM=64, BC=COLUMNS
        )
        ctx.save_for_backward(x, y if residual is not None else None, saved)
        ctx.relu, ctx.residual, ctx.real = relu, residual is not None, real
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, y, saved = ctx.saved_tensors
        grad = grad.contiguous()
        c = x.shape[-1]
        m = x.numel() // c
        grid, rows = _splits(m, c)
        sums = torch.empty(2, grid[0], c, dtype=torch.float32, device=x.device)
        passed = torch.empty_like(x) if ctx.residual and ctx.relu else grad
        flags = ctx.relu, ctx.residual
        _gradient_sums[grid](grad, x, x if y is None else y, passed, saved, sums, m, c, rows, *flags, BM=64, BC=COLUMNS)
        totals = torch.empty(2, c, dtype=torch.float32, device=x.device)
        own = grid[0], triton.next_power_of_2(grid[0])
        _totals[(triton.cdiv(c, 16),)](sums, totals, c, *own, BC=16)
        out = torch.empty_like(x)
        mask = ctx.relu and not ctx.residual
        _gradient[_tiles(m, c)](passed, x, out, saved, totals, m, c, mask, BM=64, BC=COLUMNS)
        g_beta, g_gamma = totals[0, : ctx.real], totals[1, : ctx.real]
        return out, g_gamma, g_beta, None, None, None, None, passed if ctx.residual else None, None


def _splits(m: int, c: int) -> tuple[tuple[int, int], int]:
    """(grid, rows of one program), from the shape alone."""
    across = triton.cdiv(c, COLUMNS)
    rows = 64 * triton.cdiv(triton.cdiv(m, 64), max(1, PROGRAMS // across))
    return (triton.cdiv(m, rows), across), rows


def _tiles(m: int, c: int) -> tuple[int, int]:
    return triton.cdiv(m, 64), triton.cdiv(c, COLUMNS)


@triton.jit
def _sums(x, sums, running_mean, M, C, REAL, ROWS, BM: tl.constexpr, BC: tl.constexpr):
    """Of the distances from the running mean, and of their squares: a mean far from 0 costs no digits."""
    split, c = tl.program_id(0), tl.program_id(1) * BC + tl.arange(0, BC)
    start = tl.load(running_mean + c, mask=c < REAL, other=0.0)[None, :]
    total, squares = tl.zeros((BM, BC), tl.float32), tl.zeros((BM, BC), tl.float32)
    for first in range(0, ROWS, BM):
        row = split.to(tl.int64) * ROWS + first + tl.arange(0, BM)
        inside = (row < M)[:, None] & (c < C)[None, :]
        value = tl.load(x + row[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value - start, 0.0)
        total += value
        squares += value * value
    tl.store(sums + split * C + c, tl.sum(total, 0), mask=c < C)
    tl.store(sums + (tl.num_programs(0) + split) * C + c, tl.sum(squares, 0), mask=c < C)


@triton.jit
def _statistics(
    sums, saved, gamma, beta, running_mean, running_var, M, C, REAL, momentum, eps,
    SPLITS, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    c, s = tl.program_id(0) * BC + tl.arange(0, BC), tl.arange(0, BS)
    inside, real = (s < SPLITS)[:, None] & (c < C)[None, :], c < REAL
    at = s[:, None] * C + c[None, :]
    start = tl.load(running_mean + c, mask=real, other=0.0)
    mean = tl.sum(tl.load(sums + at, mask=inside, other=0.0), 0) / M
    square = tl.sum(tl.load(sums + SPLITS * C + at, mask=inside, other=0.0), 0) / M
    var = square - mean * mean
    var = tl.where(var < 0, 0.0, var)
    mean += start
    inverse = 1.0 / tl.sqrt(var + eps)
    scale = inverse * tl.load(gamma + c, mask=real, other=0.0)
    shift = tl.load(beta + c, mask=real, other=0.0) - mean * scale
    tl.store(saved + c, mean, mask=c < C)
    tl.store(saved + C + c, inverse, mask=c < C)
    tl.store(saved + 2 * C + c, scale, mask=c < C)
    tl.store(saved + 3 * C + c, shift, mask=c < C)
    old_var = tl.load(running_var + c, mask=real, other=0.0)
    unbiased = var * (M / (M - 1.0))
    tl.store(running_mean + c, start + momentum * (mean - start), mask=real)
    tl.store(running_var + c, old_var + momentum * (unbiased - old_var), mask=real)


@triton.jit
def _normalise(
    x, residual, y, saved, M, C, RESIDUAL: tl.constexpr, RELU: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    at, inside = row[:, None] * C + c[None, :], (row < M)[:, None] & (c < C)[None, :]
    scale = tl.load(saved + 2 * C + c, mask=c < C, other=0.0)[None, :]
    shift = tl.load(saved + 3 * C + c, mask=c < C, other=0.0)[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * scale + shift
    if RESIDUAL:
        value += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        value = tl.where(value < 0, 0.0, value)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gradient_sums(
    grad, x, y, passed, saved, sums, M, C, ROWS,
    RELU: tl.constexpr, RESIDUAL: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    split, c = tl.program_id(0), tl.program_id(1) * BC + tl.arange(0, BC)
    mean = tl.load(saved + c, mask=c < C, other=0.0)[None, :]
    inverse = tl.load(saved + C + c, mask=c < C, other=0.0)[None, :]
    scale = tl.load(saved + 2 * C + c, mask=c < C, other=0.0)[None, :]
    shift = tl.load(saved + 3 * C + c, mask=c < C, other=0.0)[None, :]
    total, product = tl.zeros((BM, BC), tl.float32), tl.zeros((BM, BC), tl.float32)
    for first in range(0, ROWS, BM):
        row = split.to(tl.int64) * ROWS + first + tl.arange(0, BM)
        at, inside = row[:, None] * C + c[None, :], (row < M)[:, None] & (c < C)[None, :]
        g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            if RESIDUAL:
                g = tl.where(tl.load(y + at, mask=inside, other=0.0).to(tl.float32) > 0, g, 0.0)
                tl.store(passed + at, g.to(passed.dtype.element_ty), mask=inside)
            else:
                g = tl.where(value * scale + shift > 0, g, 0.0)
        total += g
        product += tl.where(inside, g * (value - mean) * inverse, 0.0)
    tl.store(sums + split * C + c, tl.sum(total, 0), mask=c < C)
    tl.store(sums + (tl.num_programs(0) + split) * C + c, tl.sum(product, 0), mask=c < C)


@triton.jit
def _totals(sums, totals, C, SPLITS, BS: tl.constexpr, BC: tl.constexpr):
    c, s = tl.program_id(0) * BC + tl.arange(0, BC), tl.arange(0, BS)
    inside = (s < SPLITS)[:, None] & (c < C)[None, :]
    at = s[:, None] * C + c[None, :]
    tl.store(totals + c, tl.sum(tl.load(sums + at, mask=inside, other=0.0), 0), mask=c < C)
    tl.store(totals + C + c, tl.sum(tl.load(sums + SPLITS * C + at, mask=inside, other=0.0), 0), mask=c < C)


@triton.jit
def _gradient(passed, x, out, saved, totals, M, C, MASK: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    at, inside = row[:, None] * C + c[None, :], (row < M)[:, None] & (c < C)[None, :]
    mean = tl.load(saved + c, mask=c < C, other=0.0)[None, :]
    inverse = tl.load(saved + C + c, mask=c < C, other=0.0)[None, :]
    scale = tl.load(saved + 2 * C + c, mask=c < C, other=0.0)[None, :]
    g_beta = tl.load(totals + c, mask=c < C, other=0.0)[None, :] / M
    g_gamma = tl.load(totals + C + c, mask=c < C, other=0.0)[None, :] / M
    g = tl.load(passed + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if MASK:
        shift = tl.load(saved + 3 * C + c, mask=c < C, other=0.0)[None, :]
        g = tl.where(value * scale + shift > 0, g, 0.0)
    g = scale * (g - g_beta - (value - mean) * inverse * g_gamma)
    tl.store(out + at, g.to(out.dtype.element_ty), mask=inside)
