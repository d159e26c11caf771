"""The R(2+1)D network rewritten for training on NVIDIA GPUs: bfloat16 activations in NTHWC memory, 2-D convolutions.

Shapes: N clips, C channels, T frames, H x W pixels, K classes. Weights, statistics, sums and the update stay in
float32, a weight's gradient is rounded to bfloat16 once; the parameters and buffers are the plain network's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from r2plus1d.model.cuda import kernels
from r2plus1d.model.cuda.batch_norm import NormReLU
from r2plus1d.model.network import Block, Conv2plus1d, ConvNorm, OuterNorm, Recognizer


class Training(nn.Module):
    """The plain network in training mode, computed another way."""

    def __init__(self, model: Recognizer, dtype: torch.dtype = torch.bfloat16):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, clips: Tensor) -> Tensor:
        """uint8 [N, T, H, W, 3] -> logits [N, K]"""
        clip, backbone, head = clips.shape[:2], self.model.backbone, self.model.cls_head
        split = _split(backbone.conv1)
        more = -split.conv_s.out_channels % kernels.STEM_MULTIPLE
        weight = functional.pad(kernels.packed_weight(split.conv_s.weight.squeeze(2)), (0, more)).to(self.dtype)
        x = kernels.Stem.apply(kernels.pack(clips.flatten(0, 1), self.dtype), weight)
        x = self._in_time(_normed(x, split.bn_s).unflatten(0, clip), split.conv_t)
        x = kernels.MaxPool.apply(_normed(x, backbone.conv1.bn).flatten(0, 1)).unflatten(0, clip)
        for block in backbone.blocks:
            x = self._block(block, x)
        return head.fc_cls(head.dropout(x.mean((1, 2, 3), dtype=torch.float32)))

    def steps(self, optimizer: torch.optim.SGD, max_norm: float) -> "Steps":
        return Steps(self, optimizer, max_norm)

    def _block(self, block: Block, x: Tensor) -> Tensor:
        shortcut = x
        if block.downsample is not None:
            shortcut = _normed(self._convolved(block.downsample, x), block.downsample.bn, relu=False)
        for part in block.parts[:-1]:
            x = _normed(self._convolved(part, x), part.bn)
        last = block.parts[-1]
        return _normed(self._convolved(last, x), last.bn, shortcut)

    def _convolved(self, part: ConvNorm, x_NTHWC: Tensor) -> Tensor:
        split = _split(part)
        conv, x = split.conv_s, x_NTHWC.flatten(0, 1).permute(0, 3, 1, 2)
        padded = conv.out_channels + -conv.out_channels % kernels.MULTIPLE
        weight = Rounded.apply(conv.weight.squeeze(2), self.dtype, padded)
        y = _convolve(x, weight, conv.stride[1:], conv.padding[1:]).permute(0, 2, 3, 1)
        return self._in_time(_normed(y, split.bn_s).unflatten(0, x_NTHWC.shape[:2]), split.conv_t)

    def _in_time(self, x_NTHWC: Tensor, conv: nn.Conv3d) -> Tensor:
        plane, x = x_NTHWC.shape[2:4], x_NTHWC.flatten(2, 3).permute(0, 3, 1, 2)
        weight = Rounded.apply(conv.weight.squeeze(4), self.dtype, conv.out_channels, x.shape[1])
        y = _convolve(x, weight, (conv.stride[0], 1), (conv.padding[0], 0))
        return y.permute(0, 2, 3, 1).unflatten(2, plane)


class Rounded(torch.autograd.Function):
    """A weight [O, C, h, w] as [outputs, inputs, h, w] of another type, channels last, with zeros beyond its own."""

    @staticmethod
    def forward(ctx, weight: Tensor, dtype: torch.dtype, outputs: int, inputs: int | None = None) -> Tensor:
        ctx.like = weight
        shape = outputs, inputs or weight.shape[1], *weight.shape[2:]
        fill = torch.empty if shape == weight.shape else torch.zeros
        out = fill(shape, dtype=dtype, device=weight.device)
        out = out.to(memory_format=torch.channels_last) if weight.is_cuda else out
        out[: weight.shape[0], : weight.shape[1]].copy_(weight)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        own = torch.empty_like(ctx.like)
        return own.copy_(grad[: own.shape[0], : own.shape[1]]), None, None, None


def _split(part: ConvNorm) -> Conv2plus1d:
    assert isinstance(part.conv, Conv2plus1d)  # as all are that `lowered` hands over
    return part.conv


def _convolve(x: Tensor, weight: Tensor, stride: tuple, padding: Sequence) -> Tensor:
    """Channels last; on the CPU not, where torch 2.14.1 gets gradients of small 1 x 1 weights wrong that way."""
    return torch.conv2d(x if x.is_cuda else x.contiguous(), weight, None, stride, padding)


def _normed(x: Tensor, norm: nn.BatchNorm3d | OuterNorm, residual: Tensor | None = None, relu: bool = True) -> Tensor:
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    running = norm.running_mean, norm.running_var, norm.momentum, norm.eps
    return NormReLU.apply(x.contiguous(), norm.weight, norm.bias, *running, residual, relu)


@dataclass
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, Tensor]
    outputs: tuple[Tensor, Tensor]  # loss and gradient norm together, logits


class Steps:
    """Training steps whose whole work on the GPU (forward, backward, clipping, SGD) is one CUDA graph a batch size.
    On the CPU, for tests, they are not recorded."""

    def __init__(self, model: Training, optimizer: torch.optim.SGD, max_norm: float):
        self.model, self.optimizer, self.max_norm = model, optimizer, max_norm
        self.parameters: list[Tensor] = list(model.parameters())
        self.lr = torch.zeros((), device=self.parameters[0].device)
        self.momenta: list[Tensor] = []  # that the recordings write to
        self.recordings: dict[tuple, _Recording] = {}
        self.pool: Any = None  # of the recordings' memory, as CUDAGraph.pool gives it

    def __call__(self, clips: Tensor, labels: Tensor) -> dict:
        """One update from uint8 clips [N, T, H, W, 3]. What it gives, and when it leaves the weights: as
        `update.step`."""
        self._renew()
        update = self._replay if self.lr.is_cuda else self.update
        figures, logits = update(clips, labels)
        loss, norm = figures.tolist()
        return {"loss": loss, "grad_norm": norm, "logits": logits.clone()}

    def _replay(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `update`, in memory that the next step overwrites."""
        if clips.shape not in self.recordings:
            self.recordings[clips.shape] = self._record(clips, labels)
        recording = self.recordings[clips.shape]
        for static, new in zip(recording.inputs, (clips, labels), strict=True):
            static.copy_(new, non_blocking=True)
        recording.graph.replay()
        return recording.outputs

    def _renew(self) -> None:
        """Takes the optimizer's learning rate, and its momenta where it has loaded others."""
        self.lr.fill_(self.optimizer.param_groups[0]["lr"])
        for p in self.parameters:
            if self.optimizer.state[p].get("momentum_buffer") is None:
                self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [self.optimizer.state[p]["momentum_buffer"] for p in self.parameters]
        if len(momenta) != len(self.momenta) or any(a is not b for a, b in zip(momenta, self.momenta, strict=True)):
            self.momenta, self.pool = momenta, None
            self.recordings.clear()

    def _record(self, clips: Tensor, labels: Tensor) -> _Recording:
        device = self.lr.device
        inputs = clips.to(device, copy=True), labels.to(device, copy=True)
        random, kept = torch.cuda.get_rng_state(device), [(b, b.clone()) for b in self.model.buffers()]
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self._gradients(*inputs)  # compiles, and chooses algorithms
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as one that pins memory, may go on with CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            outputs = self.update(*inputs)
        self.pool = graph.pool()
        for buffer, before in kept:
            buffer.copy_(before)
        torch.cuda.set_rng_state(random, device)
        return _Recording(graph, inputs, outputs)

    def _gradients(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        logits = self.model(clips)
        loss = functional.cross_entropy(logits, labels)
        return loss.detach(), logits.detach(), list(torch.autograd.grad(loss, self.parameters))

    def update(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(loss and gradient norm before clipping [2], logits [N, K])"""
        loss, logits, gradients = self._gradients(clips, labels)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        divisor = ((norm + 1e-6) / self.max_norm).clamp(min=1)
        figures, group = torch.stack([loss, norm]), self.optimizer.param_groups[0]
        options = {key: group[key] for key in ("weight_decay", "momentum", "dampening", "nesterov", "maximize")}
        skip = (~figures.isfinite().all()).float()
        with torch.no_grad():
            torch._fused_sgd_(
                self.parameters, gradients, self.momenta, lr=self.lr, **options, is_first_step=False,
                grad_scale=divisor, found_inf=skip,
            )  # fmt: skip
        return figures, logits
