"""The R(2+1)D network rewritten for inference on NVIDIA GPUs: half precision, 2-D convolutions over NTHWC memory.

Shapes: N clips, C channels, T frames, H x W pixels, F distinct frames, S planes, K classes. A plane is the activation
of one frame. Clips that share frames share planes, wherever the frames before and after are the same too.
"""

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from r2plus1d import cuda_kernels as kernels
from r2plus1d.model import Block, Conv2plus1d, ConvNorm, Recognizer

GRAPHS = 4  # kept at once; they share their memory
WORTH = 0.88  # of the planes: cuDNN's convolution in time is faster than ours by an eighth


def fits(model: Recognizer) -> bool:
    """Whether every convolution of the network is split into a spatial and a temporal one."""
    return all(isinstance(m.conv, Conv2plus1d) for m in model.modules() if isinstance(m, ConvNorm))


def shared_planes(indices_NT: np.ndarray, taps: list[int]) -> list[np.ndarray]:
    """Which planes each convolution in time reads: int32 [S, taps] into those before it, -1 for zeros.

    `taps` are the sizes of the network's first convolutions in time, one after the other, without strides. The list
    ends where sharing is no longer worth it; its last entry gives every clip planes of its own, clip by clip.
    """
    planes, sources = indices_NT, []
    for count in taps:
        padded = np.pad(planes, ((0, 0), (count // 2,) * 2), constant_values=-1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, count, axis=1).reshape(-1, count)
        keys = np.zeros(len(windows), np.int64)
        for column in windows.T:
            keys = keys * (int(planes.max()) + 2) + column + 1
        _, first, places = np.unique(keys, return_index=True, return_inverse=True)
        if len(first) > WORTH * len(windows) or len(sources) + 1 == len(taps):
            sources.append(windows)
            break
        sources.append(windows[first])
        planes = places.reshape(planes.shape)
    return [np.ascontiguousarray(s, dtype=np.int32) for s in sources]


class Inference(nn.Module):
    """A copy of the network with batch norms folded into the convolutions and biases, ReLU and residual sum inside.

    Where the same numbers of frames and the same clips come again, as they do with videos of the same length, the work
    is recorded as a CUDA graph and replayed.
    """

    def __init__(self, model: Recognizer, dtype: torch.dtype = torch.float16):
        super().__init__()
        backbone = model.backbone
        self.dtype = dtype
        self.stem = _Stem(backbone.conv1, dtype)
        self.blocks = nn.ModuleList(_Block(block, dtype) for block in backbone.layer1)
        self.shared = len(self.blocks)  # the others have strides in time
        for layer in (backbone.layer2, backbone.layer3, backbone.layer4):
            self.blocks.extend(_Block(block, dtype) for block in layer)
        self.last = model.cls_head.fc_cls
        self.seen: OrderedDict[tuple, Recording | None] = OrderedDict()

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """Logits [N, K] of normalised clips."""
        n, _, t = x_NCTHW.shape[:3]
        frames = x_NCTHW.permute(0, 2, 3, 4, 1).flatten(0, 1)
        return self.compute(frames, self.sources(torch.arange(n * t).view(n, t), frames.device), t)

    def from_frames(self, x_FHWC: Tensor, indices_NT: Tensor) -> Tensor:
        """Logits [N, K] of clips that share frames: clip n is the frames `indices_NT[n]` of uint8 `x_FHWC`, which lie
        on the GPU, the indices on the CPU."""
        key = tuple(x_FHWC.shape), tuple(indices_NT.shape), indices_NT.numpy().tobytes()
        if not x_FHWC.is_cuda or key not in self.seen:
            self.seen[key] = None
            result = self.compute(x_FHWC, self.sources(indices_NT, x_FHWC.device), indices_NT.shape[1])
        else:
            recording = self.seen[key] or Recording(self, x_FHWC, indices_NT)
            self.seen[key] = recording
            result = recording(x_FHWC)
        self.seen.move_to_end(key)
        while len(self.seen) > GRAPHS:
            self.seen.popitem(last=False)
        return result

    def sources(self, indices_NT: Tensor, device: torch.device) -> list[Tensor]:
        taps = [self.stem.taps, *(part.taps for block in self.blocks[: self.shared] for part in block.parts)]
        return [torch.from_numpy(s).to(device) for s in shared_planes(indices_NT.numpy(), taps)]

    def compute(self, x_FHWC: Tensor, sources: list[Tensor], frames: int) -> Tensor:
        """From frames, uint8 or normalised, and from which planes are made of which."""
        x = kernels.temporal(self.stem(kernels.pack(x_FHWC, self.dtype)), *self.stem.in_time(), sources[0])
        x, sources = kernels.max_pool(x)[0], sources[1:]
        for block in self.blocks[: self.shared]:
            if sources:
                x, sources = block.of_planes(x, sources, frames)
            else:
                x = block(x if x.dim() == 5 else x.unflatten(0, (-1, frames)))
        x = x if x.dim() == 5 else x.unflatten(0, (-1, frames))
        for block in self.blocks[self.shared :]:
            x = block(x)
        return self.last(x.mean((1, 2, 3), dtype=torch.float32))


class Recording:
    """The work on frames and clips of one form, as a CUDA graph."""

    pool = None

    def __init__(self, model: Inference, x_FHWC: Tensor, indices_NT: Tensor):
        self.frames, sources = x_FHWC.clone(), model.sources(indices_NT, x_FHWC.device)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=Recording.pool):
            self.logits = model.compute(self.frames, sources, indices_NT.shape[1])
        self.sources, Recording.pool = sources, self.graph.pool()

    def __call__(self, x_FHWC: Tensor) -> Tensor:
        self.frames.copy_(x_FHWC)
        self.graph.replay()
        return self.logits.clone()


class _Block(nn.Module):
    def __init__(self, block: Block, dtype: torch.dtype):
        super().__init__()
        parts = [part for part in (block.conv1, block.conv2, block.conv3) if part is not None]
        self.parts = nn.ModuleList(_Split(part, dtype) for part in parts)
        self.downsample = None if block.downsample is None else _Split(block.downsample, dtype)
        if self.downsample is not None:  # its bias comes in with the last part's
            self.parts[-1].bias_t += self.downsample.bias_t
            self.downsample.bias_t = None

    def forward(self, x_NTHWC: Tensor) -> Tensor:
        shortcut = x_NTHWC if self.downsample is None else self.downsample(x_NTHWC, relu=False)
        for part in self.parts[:-1]:
            x_NTHWC = part(x_NTHWC)
        return self.parts[-1](x_NTHWC, shortcut)

    def of_planes(self, x: Tensor, sources: list[Tensor], frames: int) -> tuple[Tensor, list[Tensor]]:
        """[S, H, W, C] and the sources from here on -> what is left of both; [N, T, H, W, C] once none are left."""
        shortcut = x if self.downsample is None else self.downsample(x[:, None], relu=False)[:, 0]
        places = torch.arange(len(x), dtype=torch.int32, device=x.device)  # of the shortcut's planes
        for part in self.parts:
            last = part is self.parts[-1]
            if sources:
                places = places[sources[0][:, part.taps // 2]]
                residual = (shortcut, places) if last else ()
                x, sources = kernels.temporal(part.spatial(x), *part.in_time(), sources[0], *residual), sources[1:]
                x = x if sources else x.unflatten(0, (-1, frames))
            else:
                x = part(x, shortcut[places].unflatten(0, (-1, frames)) if last else None)
        return x, sources


class _Split(nn.Module):
    """A spatial and a temporal convolution with their batch norms; channels in between padded for the tensor cores."""

    def __init__(self, block: ConvNorm, dtype: torch.dtype, multiple: int = 8):
        super().__init__()
        space = fuse_conv_bn_eval(block.conv.conv_s, block.conv.bn_s)
        time = fuse_conv_bn_eval(block.conv.conv_t, block.bn)
        self.stride, self.padding = space.stride[1:], space.padding[1:]
        self.taps, self.step = time.kernel_size[0], time.stride[0]
        more = -space.out_channels % multiple
        weight_s = functional.pad(space.weight.detach().squeeze(2), (0,) * 7 + (more,))
        weight_t = functional.pad(time.weight.detach().squeeze(4), (0,) * 5 + (more,))
        self.register_buffer("weight_s", weight_s.to(dtype, memory_format=torch.channels_last))
        self.register_buffer("bias_s", functional.pad(space.bias.detach(), (0, more)).to(dtype))
        self.register_buffer("weight_t", weight_t.to(dtype, memory_format=torch.channels_last))
        self.register_buffer("bias_t", time.bias.detach().to(dtype))

    def spatial(self, x_SHWC: Tensor) -> Tensor:
        """With its ReLU."""
        x = x_SHWC.permute(0, 3, 1, 2)
        return _convolve(x, self.weight_s, self.bias_s, self.stride, self.padding).permute(0, 2, 3, 1)

    def in_time(self) -> tuple[Tensor, Tensor]:
        """Weight [taps, C, O] and bias [O], as `kernels.temporal` takes them."""
        if not hasattr(self, "weight_time"):
            self.weight_time = self.weight_t.squeeze(3).permute(2, 1, 0).contiguous()
        return self.weight_time, self.bias_t

    def forward(self, x_NTHWC: Tensor, residual_NTHWC: Tensor | None = None, relu: bool = True) -> Tensor:
        """[N, T, H, W, C] -> [N, T', H', W', C']"""
        y = self.spatial(x_NTHWC.flatten(0, 1))
        h, w = y.shape[1:3]
        y = y.reshape(*x_NTHWC.shape[:2], h * w, -1).permute(0, 3, 1, 2)
        residual = None if residual_NTHWC is None else residual_NTHWC.flatten(2, 3).permute(0, 3, 1, 2)
        y = _convolve(y, self.weight_t, self.bias_t, (self.step, 1), (self.taps // 2, 0), residual, relu)
        return y.permute(0, 2, 3, 1).unflatten(2, (h, w))


class _Stem(_Split):
    """Its spatial convolution takes packed frames [F, h, w, 16]."""

    def __init__(self, block: ConvNorm, dtype: torch.dtype):
        super().__init__(block, dtype, multiple=32)
        self.weight_s = kernels.packed_weight(self.weight_s).contiguous()

    def forward(self, x_FHWC: Tensor) -> Tensor:
        return kernels.stem(x_FHWC, self.weight_s, self.bias_s)


def _convolve(x, weight, bias, stride, padding, residual=None, relu=True) -> Tensor:
    """x, weight and residual channels last."""
    if not x.is_cuda:  # what cuDNN's fused convolution computes
        y = torch.conv2d(x, weight, bias, stride, padding)
        y = y if residual is None else y + residual
        return torch.relu(y) if relu else y
    if not relu:
        return torch.conv2d(x, weight, bias, stride, padding)
    options = stride, padding, (1, 1), 1
    if residual is None:
        return torch.ops.aten.cudnn_convolution_relu(x, weight, bias, *options)
    return torch.ops.aten.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, *options)
