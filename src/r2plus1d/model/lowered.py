"""The same network, rewritten to run faster; the plain network stays the reference.

Shapes: N clips, C channels, T frames, H x W pixels, F distinct frames, K classes. Activations lie in memory as NTHWC.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from r2plus1d.model import winograd
from r2plus1d.model.families import FAMILIES, MMACTION, Family
from r2plus1d.model.network import Block, Conv2plus1d, ConvNorm, Recognizer
from r2plus1d.system.arithmetic import Arithmetic
from r2plus1d.video.views import to_input

if TYPE_CHECKING:
    from r2plus1d.model.cuda.inference import Inference

PIXELS_AT_ONCE = 2**21  # one clip of 32 x 256 x 256, or four of 8; with more, memory grows and caches help less
PIXELS_AT_ONCE_HALF = 2**22  # two clips of 32 x 256 x 256, or eight of 8: no slower than more, in less memory
HALF = (torch.bfloat16,)  # types that are computed as AMX wants them
MULTIPLE, FROM = 32, 64  # of such channels between two convolutions, where there are so many; AMX takes 32 at a time
POOL_FROM = 2**17  # values of a frame, from which its maxima are taken by rows and columns

Where = bool | Literal["auto"]


class TakesFrames(Protocol):
    """A network of `for_inference`."""

    def from_frames(self, frames_FHWC: Tensor, places: Tensor) -> Tensor: ...


@runtime_checkable
class MakesSteps(Protocol):
    """A network that makes its own training steps, as those for GPUs do."""

    def steps(self, optimizer: torch.optim.SGD, max_norm: float) -> Callable[[Tensor, Tensor], dict]: ...


def for_inference(
    model: Recognizer, device: torch.device, lowered: Where = "auto", arithmetic: Arithmetic = "exact"
) -> "Plain | Lowered | Inference":
    """A copy for inference on `device`, whose methods `forward` and `from_frames` give the plain network's logits, in
    float32.

    `lowered` (runtime.lowered): "auto" rewrites the network where that was measured to be faster and safe, on the CPU
    where torch has oneDNN; true on NVIDIA GPUs too, in `half`; false nowhere. `arithmetic`, as `device.computed` gives
    it: `half` computes in bfloat16 on a CPU and in float16 on a GPU, the others in float32.
    """
    where, own = _where(model, device, lowered, arithmetic), copy.deepcopy(model).eval()
    if where == "cuda":
        from r2plus1d.model.cuda import inference  # noqa: PLC0415 (Triton, not there everywhere)

        return inference.Inference(own).to(device)
    if where == "cpu":
        return Lowered(own, torch.bfloat16 if arithmetic == "half" else torch.float32).to(device)
    plain = _plain(own, device, arithmetic, torch.float16).to(device)
    if isinstance(plain, Fast):  # in training that made `half` slower
        plain.to(memory_format=torch.channels_last_3d)
    return Plain(plain, own.family)


def for_training(
    model: Recognizer, device: torch.device, lowered: Where = "auto", arithmetic: Arithmetic = "exact"
) -> nn.Module:
    """What to train on `device` in one process: a module with the model's own parameters and buffers, so that state,
    checkpoints and optimizer are those of the plain network; that itself where it is not rewritten.

    `lowered`, `arithmetic`: as for inference; `half` is for GPUs alone, in bfloat16, whose range the gradients need.
    """
    where = _where(model, device, lowered, arithmetic)
    if where == "cuda":
        from r2plus1d.model.cuda.training import Training  # noqa: PLC0415 (Triton, not there everywhere)

        return Training(model)
    return Trained(model) if where == "cpu" else _plain(model, device, arithmetic, torch.bfloat16)


def _plain(model: Recognizer, device: torch.device, arithmetic: Arithmetic, half: torch.dtype) -> nn.Module:
    if arithmetic == "half":
        return Fast(model, half if device.type == "cuda" else torch.bfloat16)
    return Fast(model) if arithmetic == "native" and device.type == "cuda" else model


def _where(model: Recognizer, device: torch.device, lowered: Where, arithmetic: Arithmetic) -> str | None:
    if lowered and device.type == "cpu" and torch.backends.mkldnn.is_available():
        return "cpu"
    # The networks for GPUs are made for MMAction's convolutions, all split into a spatial and a temporal one.
    split = all(isinstance(m.conv, Conv2plus1d) for m in model.modules() if isinstance(m, ConvNorm))
    split = split and model.family == FAMILIES[MMACTION]
    split = split and arithmetic == "half" and torch.version.hip is None
    return "cuda" if lowered is True and device.type == "cuda" and split else None


class Fast(nn.Module):
    """The plain network for GPUs: the stem gets its channels last in memory (in inference all weights have theirs so,
    too), and where a `dtype` is given, convolutions and activations are of that, by autocast. Weights, statistics, the
    head and its logits stay in float32."""

    def __init__(self, model: Recognizer, dtype: torch.dtype | None = None):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        x = x_NCTHW.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(x.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            features = self.model.backbone(x)
        return self.model.cls_head(features.float())


class Plain(nn.Module):
    def __init__(self, model: nn.Module, family: Family = FAMILIES[MMACTION]):
        super().__init__()
        self.model, self.family = model, family

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return self.model(x_NCTHW)

    def from_frames(self, x_FHWC: Tensor, indices_NT: Tensor) -> Tensor:
        """Logits [N, K] of clips that share frames: clip n is the frames `indices_NT[n]` of uint8 `x_FHWC`, which lie
        on the device, the indices on the CPU."""
        return self.model(_normalised(x_FHWC, self.family)[indices_NT].transpose(1, 2))


def _normalised(x_FHWC: Tensor, family: Family) -> Tensor:
    """[F, 3, H, W]"""
    return to_input(x_FHWC.unsqueeze(1), x_FHWC.device, family.mean, family.std).squeeze(2)


class Lowered(nn.Module):
    """Batch norms folded into the convolutions; these as two-dimensional ones (in bfloat16 some in three), with bias,
    ReLU and the residual sum inside; few clips at a time. In float32 wide 3 x 3 ones in fewer multiplications, and of
    frames that clips share the stem's spatial convolution once. What that gains: `benchmarks/speed/inference.py`.

    In bfloat16, weights and activations are of that; the means before the last layer, what it gives, and biases of
    float32, but for those of the convolutions that add the residual; and channels between two convolutions are filled
    up with zeros.
    """

    def __init__(self, model: Recognizer, dtype: torch.dtype = torch.float32):
        super().__init__()
        backbone = model.backbone
        self.family, self.dtype = model.family, dtype
        self.stem = _convolutions(backbone.conv1, dtype)
        self.blocks = nn.ModuleList(_LoweredBlock(block, dtype) for block in backbone.blocks)
        self.last = model.cls_head.fc_cls.float()

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        clips = x_NCTHW.permute(0, 2, 3, 4, 1).to(self.dtype)
        parts = clips.tensor_split(self._parts(len(clips), x_NCTHW[0, 0].numel()))
        return torch.cat([self._rest(_all(self.stem, part)) for part in parts])

    def from_frames(self, x_FHWC: Tensor, indices_NT: Tensor) -> Tensor:
        """As `Plain` does."""
        clips, t = indices_NT.shape
        parts = indices_NT.tensor_split(self._parts(clips, t * x_FHWC[0, :, :, 0].numel()))
        x, stem = _normalised(x_FHWC, self.family).permute(0, 2, 3, 1).to(self.dtype), self.stem
        if stem[0].axes == "space" and self.dtype not in HALF:  # there copying its frames costs as much
            x, stem = stem[0](x[None], relu=True)[0], stem[1:]
        return torch.cat([self._rest(_all(stem, x[part])) for part in parts])

    def _rest(self, x_NTHWC: Tensor) -> Tensor:
        """Logits from the stem's activations."""
        x = x_NTHWC
        if self.family.stem_pool:
            x = _pooled(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        for block in self.blocks:
            x = block(x)
        return self.last(x.mean((1, 2, 3), dtype=torch.float32))

    def _parts(self, clips: int, pixels: int) -> int:
        """Into how many parts to divide so many clips of so many pixels each."""
        at_once = PIXELS_AT_ONCE_HALF if self.dtype in HALF else PIXELS_AT_ONCE
        return -(-clips // max(1, at_once // pixels))


class _LoweredBlock(nn.Module):
    def __init__(self, block: Block, dtype: torch.dtype):
        super().__init__()
        self.convolutions = nn.ModuleList(c for part in block.parts for c in _convolutions(part, dtype))
        self.downsample = None if block.downsample is None else _convolutions(block.downsample, dtype)

    def forward(self, x_NTHWC: Tensor) -> Tensor:
        shortcut = x_NTHWC if self.downsample is None else _all(self.downsample, x_NTHWC, relu=False)
        return _all(self.convolutions, x_NTHWC, shortcut)


class _Convolution(nn.Module):
    """[N, T, H, W, C] -> [N, T', H', W', C']; over one axis or the plane, whichever its kernel spans, or over all
    (in bfloat16 also where that is faster).

    oneDNN's fused convolution adds the bias and another tensor, which it overwrites with the result, and cuts off below
    0. It can have channels more than `conv`, of zeros.
    """

    def __init__(self, conv: nn.Conv3d, dtype: torch.dtype, inputs: int = 0, outputs: int = 0):
        super().__init__()
        geometry = list(zip(conv.kernel_size, conv.stride, conv.padding, strict=True))
        in_time, in_space = geometry[0] != (1, 1, 0), geometry[1:] != [(1, 1, 0)] * 2
        self.axes = "all" if in_time and in_space else "time" if in_time else "space"
        if dtype in HALF and _faster_in_three(self.axes, conv.in_channels + inputs):
            self.axes = "all"
        kept = {"all": [0, 1, 2], "time": [0, 1], "space": [1, 2]}[self.axes]
        _, self.stride, self.padding = zip(*(geometry[axis] for axis in kept), strict=True)
        weight = functional.pad(conv.weight.detach(), (0, 0) * 3 + (0, inputs, 0, outputs)).to(dtype)
        weight = {"all": weight, "time": weight[..., 0], "space": weight[:, :, 0]}[self.axes]
        last = torch.channels_last_3d if self.axes == "all" else torch.channels_last
        self.weight = nn.Parameter(weight.contiguous(memory_format=last), requires_grad=False)
        assert conv.bias is not None  # it has the batch norm's
        self.bias = nn.Parameter(functional.pad(conv.bias.detach().float(), (0, outputs)), requires_grad=False)
        self.winograd: winograd.Winograd | None = None  # made where it is needed, since it takes memory
        self.reordered: tuple[tuple, Tensor] | None = None  # for a shape of clips, the weight as oneDNN wants it

    def forward(self, x_NTHWC: Tensor, relu: bool, residual_NTHWC: Tensor | None = None) -> Tensor:
        n, t, h, w, _ = x_NTHWC.shape
        if self.axes == "space" and relu and residual_NTHWC is None and self._in_tiles(n * t, h, w):
            self.winograd = self.winograd or winograd.Winograd(self.weight, self.bias)
            return self.winograd(x_NTHWC.flatten(0, 1)).unflatten(0, (n, t))
        x, residual = self._planes(x_NTHWC), None if residual_NTHWC is None else self._planes(residual_NTHWC)
        weight, options = self._weight(x), (self.padding, self.stride, (1,) * len(self.stride), 1)
        if residual is None:
            after = "relu" if relu else "none"
            y = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *options, after, [], "")
        else:  # torch takes this one's bias in the type of the clips alone
            given = residual, x, weight, self.bias.to(x.dtype), *options
            y = torch.ops.mkldnn._convolution_pointwise_.binary(*given, "add", 1.0, "relu", [], None)
        y = y.movedim(1, -1)
        if self.axes == "all":
            return y
        return y.unflatten(0, (n, t)) if self.axes == "space" else y.unflatten(2, (h, w))

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"reordered": None}  # torch can neither copy nor save that

    def _weight(self, x: Tensor) -> Tensor:
        """In bfloat16 reordered once, for the clips met last; else oneDNN does it at every call, which float32 with its
        longer products hardly feels."""
        if self.weight.dtype not in HALF:
            return self.weight
        if self.reordered is None or self.reordered[0] != x.shape[1:]:
            options = self.padding, self.stride, (1,) * len(self.stride), 1, list(x.shape)
            found = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *options)
            self.reordered = x.shape[1:], found
        return self.reordered[1]

    def _in_tiles(self, frames: int, h: int, w: int) -> bool:
        if self.weight.dtype in HALF:
            return False
        return self.stride == self.padding == (1, 1) and winograd.wins(self.weight.shape, frames, h, w)

    def _planes(self, x_NTHWC: Tensor) -> Tensor:
        """[N * T, C, H, W], [N, C, T, H * W] or [N, C, T, H, W], without a copy."""
        if self.axes != "all":
            x_NTHWC = x_NTHWC.flatten(0, 1) if self.axes == "space" else x_NTHWC.flatten(2, 3)
        return x_NTHWC.movedim(-1, 1)


def _faster_in_three(axes: str, channels: int) -> bool:
    """Whether a convolution of so many input channels, filled up, over the plane or in time is faster as one over all
    three axes. On two cores with AMX (torch 2.11, full size, each layer both ways) it took 0.8 to 1.0 of the time where
    this says so, and elsewhere 1.0 to 1.1 or, over the plane in the stem, six times as long."""
    return channels >= 128 if axes == "space" else FROM <= channels < 160 or channels >= 480


def _convolutions(block: ConvNorm, dtype: torch.dtype) -> nn.ModuleList:
    """A convolution and its batch norm, or the two of each that it is split into."""
    if not isinstance(block.conv, Conv2plus1d):
        return nn.ModuleList([_Convolution(fuse_conv_bn_eval(block.conv, block.bn), dtype)])
    split = block.conv
    space, time = fuse_conv_bn_eval(split.conv_s, split.bn_s), fuse_conv_bn_eval(split.conv_t, block.bn)
    more = -space.out_channels % MULTIPLE if dtype in HALF and space.out_channels >= FROM else 0
    return nn.ModuleList([_Convolution(space, dtype, outputs=more), _Convolution(time, dtype, inputs=more)])


def _all(
    convolutions: nn.ModuleList, x_NTHWC: Tensor, residual_NTHWC: Tensor | None = None, relu: bool = True
) -> Tensor:
    """One after the other, each with a ReLU, but after the last one only where asked for."""
    for number, convolution in enumerate(convolutions, 1):
        last = number == len(convolutions)
        x_NTHWC = convolution(x_NTHWC, relu or not last, residual_NTHWC if last else None)
    return x_NTHWC


def _pooled(x_FHWC: Tensor) -> Tensor:
    """[F, H, W, C] -> [F, H / 2, W / 2, C], rounded up: the largest of the 3 x 3 pixels around every second one."""
    f, h, w, c = x_FHWC.shape
    if h % 2 or w % 2 or h * w * c < POOL_FROM:
        return functional.max_pool2d(x_FHWC.permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)
    # torch's function notes the places of the maxima, eight bytes each. A frame at a time stays in the cache.
    pooled = x_FHWC.new_empty(f, h // 2, w // 2, c)
    for frame, out in zip(x_FHWC, pooled, strict=True):
        rows = torch.maximum(frame[0::2], frame[1::2])
        torch.maximum(rows[1:], frame[1:-1:2], out=rows[1:])
        torch.maximum(rows[:, 0::2], rows[:, 1::2], out=out)
        torch.maximum(out[:, 1:], rows[:, 1:-1:2], out=out[:, 1:])
    return pooled


class Trained(nn.Module):
    """The plain network's training step, with its parameters and buffers: each temporal convolution in two dimensions,
    and the pooling with its channels last in memory. In `eval` it is the plain network.
    What that gains: `benchmarks/speed/training_cpu.py`.
    """

    def __init__(self, model: Recognizer):
        super().__init__()
        self.model = model

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        if not self.training:
            return self.model(x_NCTHW)
        backbone = self.model.backbone
        x = _trained(backbone.conv1, x_NCTHW.contiguous())
        if self.model.family.stem_pool:
            x = _Pool.apply(x.flatten(1, 2)).unflatten(1, x.shape[1:3])
        x = torch.relu_(x)  # it gives the same before and after the pooling, which leaves it a quarter to do
        for block in backbone.blocks:
            x = _trained_block(block, x)
        return self.model.cls_head(x)


def _trained_block(block: Block, x_NCTHW: Tensor) -> Tensor:
    shortcut = x_NCTHW if block.downsample is None else _trained(block.downsample, x_NCTHW)
    *inner, last = block.parts
    for part in inner:
        x_NCTHW = torch.relu_(_trained(part, x_NCTHW))
    return torch.relu_(_trained(last, x_NCTHW) + shortcut)


def _trained(block: ConvNorm, x_NCTHW: Tensor) -> Tensor:
    if not isinstance(block.conv, Conv2plus1d):
        return block.bn(block.conv(x_NCTHW))
    split = block.conv
    x = torch.relu_(split.bn_s(split.conv_s(x_NCTHW)))
    conv, size = split.conv_t, x.shape[3:]
    # [N, C, T, H * W]. With channels last in memory, oneDNN 3's weight gradient of a strided 1 x 1 kernel is wrong.
    y = functional.conv2d(x.flatten(3), conv.weight[..., 0], None, conv.stride[:2], conv.padding[:2])
    return block.bn(y.unflatten(3, size))


class _Pool(torch.autograd.Function):
    """The backbone's pooling of frames, [N, C * T, H, W] -> [N, C * T, H / 2, W / 2]; with channels last in memory,
    which makes it several times as fast, from a copy."""

    WINDOW = [3, 3], [2, 2], [1, 1]  # kernel, stride, padding

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        pooled, places = torch.ops.aten.max_pool2d_with_indices(x, *_Pool.WINDOW)
        ctx.save_for_backward(x, places)
        return pooled.contiguous()

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        x, places = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last)
        of_x = torch.ops.aten.max_pool2d_with_indices_backward(g, x, *_Pool.WINDOW, [1, 1], False, places)
        return of_x.contiguous()
