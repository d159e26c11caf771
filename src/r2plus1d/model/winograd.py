"""3 x 3 convolutions with a quarter of the multiplications: F(4 x 4, 3 x 3) of Winograd's minimal filtering.

Shapes: N frames, H x W pixels, C channels in, O channels out. A tile of 6 x 6 pixels, 4 apart from the next one, gives
4 x 4 pixels of the result; its 36 values per channel, transformed, are multiplied with those of the kernel, and the
products transformed back (Lavin and Gray 2016, arXiv 1509.09308, section 4). Results differ from a plain convolution's
by some 1e-6 of their standard deviation, by 1e-4 at most.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

OF_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
OF_KERNEL = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
OF_OUTPUT = [
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
]
EVERYWHERE = 1 * 6 + 1  # of the 36 products, the one that is added to each of the 16 results: there the bias goes
TILES = 512  # at a time: enough for the matrix products, few enough for the caches


def wins(shape_OCHW: torch.Size, frames: int, h: int, w: int) -> bool:
    """Whether a kernel of this shape is faster so than by oneDNN, on so many frames of h x w. With more channels it is
    too, but the transformed kernels are four times the plain ones: so they take 266 MiB of R(2+1)D-34, and would take
    671."""
    channels, few = shape_OCHW[1], frames * h * w < 32 * 4 * 4
    return (
        shape_OCHW[2:] == (3, 3) and not few and 64 <= channels <= 256 and min(h, w) >= (28 if channels < 128 else 14)
    )


class Winograd(nn.Module):
    """ReLU of a 3 x 3 convolution with padding 1: float32 [N, H, W, C] -> [N, H, W, O]."""

    def __init__(self, weight_OCHW: Tensor, bias_O: Tensor):
        super().__init__()
        to_kernel = torch.tensor(OF_KERNEL, dtype=torch.float64)
        kernel = torch.einsum("yi,ocij,xj->yxco", to_kernel, weight_OCHW.detach().double(), to_kernel)
        self.kernel = _fixed(kernel.flatten(0, 1))  # [36, C, O]
        self.bias = _fixed(bias_O)
        self.of_input, self.of_output = (_fixed(_both_ways(matrix)) for matrix in (OF_INPUT, OF_OUTPUT))

    def forward(self, x_NHWC: Tensor) -> Tensor:
        count, h, w, c = x_NHWC.shape
        rows, columns, o = -(-h // 4), -(-w // 4), len(self.bias)
        at_once = min(count, max(1, TILES // (rows * columns)))
        padded = x_NHWC.new_zeros(at_once, 4 * rows + 2, 4 * columns + 2, c)
        result = x_NHWC.new_empty(count, 4 * rows, 4 * columns, o)
        for start in range(0, count, at_once):
            x = x_NHWC[start : start + at_once]
            n = len(x)
            padded[:n, 1 : h + 1, 1 : w + 1] = x
            tiles = padded[:n].unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
            products = _products(_product(self.of_input, tiles).view(36, -1, c), self.kernel)
            products[EVERYWHERE] += self.bias
            y = _product(self.of_output, products.view(36, -1), "relu").view(4, 4, n, rows, columns, o)
            result[start : start + n].view(n, rows, 4, columns, 4, o).copy_(y.permute(2, 3, 0, 4, 1, 5))
        return result[:, :h, :w].contiguous()


def _fixed(x: Tensor) -> nn.Parameter:
    return nn.Parameter(x.float().contiguous(), requires_grad=False)


def _both_ways(matrix: Sequence[Sequence[float]]) -> Tensor:
    """The transform of a tile's rows and then of its columns, as one of its flattened pixels."""
    x = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(x, x)


def _product(a: Tensor, b: Tensor, then: str = "none") -> Tensor:
    """a @ b by oneDNN: [M, K], [K, N] -> [M, N]; two to three times as fast as MKL in its compatible arithmetic."""
    return torch.ops.mkldnn._linear_pointwise(a, b.T, None, then, [], "")


def _products(a: Tensor, b: Tensor) -> Tensor:
    """[36, M, K] @ [36, K, N]."""
    if os.environ.get("MKL_CBWR") != "COMPATIBLE":
        return torch.bmm(a, b)
    return torch.stack([_product(*pair) for pair in zip(a, b, strict=True)])
