"""The R(2+1)D network rewritten for inference on NVIDIA GPUs: half precision, 2-D convolutions over NHWC memory.

Shapes: N clips, C channels, T frames, H x W pixels, F distinct frames, S planes, K classes. A plane is the activation
of one frame. Clips that share frames share planes, wherever the frames before and after are the same too.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from r2plus1d.model.cuda import kernels
from r2plus1d.model.network import Block, Conv2plus1d, ConvNorm, Recognizer

RECORDINGS = 8  # at most, of the forms that come twice first; they share their memory
MET = 1000  # forms of frames and clips that are remembered


class Inference(nn.Module):
    """A copy of a network in evaluation; batch norms folded into the convolutions, biases, ReLU, residual sum inside.

    Where frames and clips of the same form come again, as they do with videos of the same length, the work is recorded
    as a CUDA graph and replayed.
    """

    def __init__(self, model: Recognizer, dtype: torch.dtype = torch.float16):
        super().__init__()
        backbone = model.backbone
        self.dtype = dtype
        self.stem = _Stem(backbone.conv1, dtype)
        self.blocks: Any = nn.ModuleList(_Block(block, dtype) for block in backbone.blocks)
        self.last = copy.deepcopy(model.cls_head.fc_cls)
        self.met: OrderedDict[tuple, None] = OrderedDict()
        self.recordings: dict[tuple, _Recording] = {}

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """Logits [N, K] of normalised clips."""
        n, _, t = x_NCTHW.shape[:3]
        frames = x_NCTHW.permute(0, 2, 3, 4, 1).flatten(0, 1)
        return self.compute(frames, self.tables(torch.arange(n * t).view(n, t), frames.device))

    def from_frames(self, x_FHWC: Tensor, indices_NT: Tensor) -> Tensor:
        """As `lowered.Plain` does."""
        key = tuple(x_FHWC.shape), tuple(indices_NT.shape), indices_NT.numpy().tobytes()
        if key in self.recordings:
            return self.recordings[key](x_FHWC)
        tables = self.tables(indices_NT, x_FHWC.device)
        if key not in self.met or len(self.recordings) == RECORDINGS or not x_FHWC.is_cuda:
            self.met[key] = None
            if len(self.met) > MET:
                self.met.popitem(last=False)
            return self.compute(x_FHWC, tables)
        pool = next(iter(self.recordings.values())).graph.pool() if self.recordings else None
        self.recordings[key] = _Recording(self, x_FHWC, tables, pool)
        return self.recordings[key](x_FHWC)

    def tables(self, indices_NT: Tensor, device: torch.device) -> list[Tensor]:
        """Which planes each convolution in time reads, block by block; in one transfer."""
        planes = _Planes(indices_NT.numpy())
        tables = [planes.convolve(self.stem.taps, 1), *(t for block in self.blocks for t in block.tables(planes))]
        tables.append(planes.numbers)
        flat = torch.from_numpy(np.concatenate([t.ravel() for t in tables]).astype(np.int32)).to(device)
        return [t.view(s.shape) for t, s in zip(flat.split([t.size for t in tables]), tables, strict=True)]

    def compute(self, x_FHWC: Tensor, tables: list[Tensor]) -> Tensor:
        """From frames, uint8 or normalised."""
        table = iter(tables)
        x = kernels.max_pool(self.stem(kernels.pack(x_FHWC, self.dtype), next(table)))[0]
        for block in self.blocks:
            x = block(x, table)
        means = x.mean((1, 2), dtype=torch.float32)
        return self.last(means[next(table)].mean(1))


class _Planes:
    """The planes that clips consist of, followed through the network."""

    def __init__(self, indices_NT: np.ndarray):
        self.numbers = indices_NT  # [N, T], of the planes
        self.first: np.ndarray = np.zeros(0)  # where each plane stands first, in `numbers` flattened

    def convolve(self, taps: int, stride: int) -> np.ndarray:
        """The planes that each distinct plane after a convolution in time is made of: [S, taps], -1 for zeros."""
        padded = np.pad(self.numbers, ((0, 0), (taps // 2,) * 2), constant_values=-1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=1)[:, ::stride]
        keys = np.zeros(windows.shape[:2], np.int64)
        for tap in range(taps):
            keys = keys * (int(self.numbers.max()) + 2) + windows[..., tap] + 1
        _, self.first, places = np.unique(keys, return_index=True, return_inverse=True)
        self.numbers = places.reshape(keys.shape)
        return windows.reshape(-1, taps)[self.first]


class _Recording:
    """The work on frames and clips of one form, as a CUDA graph."""

    def __init__(self, model: Inference, x_FHWC: Tensor, tables: list[Tensor], pool: Any):
        self.frames, self.tables = x_FHWC.clone(), tables
        self.graph = torch.cuda.CUDAGraph()
        # Other threads, such as one that pins memory, may go on with CUDA meanwhile.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.logits = model.compute(self.frames, tables)

    def __call__(self, x_FHWC: Tensor) -> Tensor:
        self.frames.copy_(x_FHWC)
        self.graph.replay()
        return self.logits.clone()


class _Block(nn.Module):
    def __init__(self, block: Block, dtype: torch.dtype):
        super().__init__()
        self.parts: Any = nn.ModuleList(_Split(part, dtype) for part in block.parts)
        self.downsample = None if block.downsample is None else _Split(block.downsample, dtype)

    def tables(self, planes: _Planes) -> Iterator[np.ndarray]:
        """As `forward` reads them."""
        shortcut = _Planes(planes.numbers)
        if self.downsample is not None:
            yield shortcut.convolve(self.downsample.taps, self.downsample.step)
        for part in self.parts:
            yield planes.convolve(part.taps, part.step)
        yield shortcut.numbers.ravel()[planes.first]

    def forward(self, x_SHWC: Tensor, table: Iterator[Tensor]) -> Tensor:
        shortcut = x_SHWC if self.downsample is None else self.downsample(x_SHWC, next(table), relu=False)
        for part in self.parts[:-1]:
            x_SHWC = part(x_SHWC, next(table))
        return self.parts[-1](x_SHWC, next(table), (shortcut, next(table)))


class _Split(nn.Module):
    """A spatial and a temporal convolution with their batch norms."""

    weight_s: Tensor
    bias_s: Tensor
    weight_t: Tensor
    bias_t: Tensor

    def __init__(self, block: ConvNorm, dtype: torch.dtype, multiple: int = kernels.MULTIPLE):
        super().__init__()
        split = block.conv
        assert isinstance(split, Conv2plus1d)  # as all are that `lowered` hands over
        space, time = fuse_conv_bn_eval(split.conv_s, split.bn_s), fuse_conv_bn_eval(split.conv_t, block.bn)
        assert space.bias is not None  # they have the batch norms'
        assert time.bias is not None
        self.stride = space.stride[1:]
        self.padding: Sequence = space.padding[1:]
        self.taps, self.step = time.kernel_size[0], time.stride[0]
        more = -space.out_channels % multiple  # zeros
        weight_s = functional.pad(space.weight.detach().squeeze(2), (0,) * 7 + (more,))
        weight_t = functional.pad(time.weight.detach().flatten(2).permute(2, 1, 0), (0, 0, 0, more))
        self.register_buffer("weight_s", weight_s.to(dtype, memory_format=torch.channels_last))
        self.register_buffer("bias_s", functional.pad(space.bias.detach(), (0, more)).to(dtype))
        self.register_buffer("weight_t", weight_t.to(dtype).contiguous())
        self.register_buffer("bias_t", time.bias.detach().to(dtype))

    def forward(self, x_SHWC: Tensor, sources: Tensor, residual: tuple | None = None, relu: bool = True) -> Tensor:
        """[S, H, W, C] -> [S', H', W', C']"""
        return kernels.temporal(self.spatial(x_SHWC), self.weight_t, self.bias_t, sources, residual, relu)

    def spatial(self, x_SHWC: Tensor) -> Tensor:
        """With its ReLU."""
        arguments = x_SHWC.permute(0, 3, 1, 2), self.weight_s, self.bias_s, self.stride, self.padding
        if x_SHWC.is_cuda:
            y = torch.ops.aten.cudnn_convolution_relu(*arguments, (1, 1), 1)
        else:  # the same, for tests
            y = torch.conv2d(*arguments).relu()
        return y.permute(0, 2, 3, 1).contiguous()


class _Stem(_Split):
    """Takes packed frames [F, h, w, 16]."""

    def __init__(self, block: ConvNorm, dtype: torch.dtype):
        super().__init__(block, dtype, multiple=kernels.STEM_MULTIPLE)
        self.weight_s = kernels.packed_weight(self.weight_s).contiguous()

    def spatial(self, x_SHWC: Tensor) -> Tensor:
        return kernels.stem(x_SHWC, self.weight_s, self.bias_s)
