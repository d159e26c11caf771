"""The R(2+1)D network, whose every convolution is split into a spatial and a temporal one, and its relatives.

Shapes: N clips, C channels, T frames, H x W pixels. Parameter names are those of the published MMAction checkpoints.
Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018, section 3,
with the choices of a family (see `families`): how the stem ends, how shortcuts and widths are split, the epsilons.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from r2plus1d.model.families import FAMILIES, MMACTION, Family, View

# Residual blocks in the four stages. Depth 10 is not in the paper: one block a stage, for scaled-down runs.
BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def split_width(in_channels: int, out_channels: int, area: int) -> int:
    """Channels between (1, k, k) and (3, 1, 1) convolutions, for the parameters of a 3 x k x k one; area is k * k."""
    return 3 * in_channels * out_channels * area // (in_channels * area + 3 * out_channels)


class Conv2plus1d(nn.Module):
    """(1, k, k) convolution, batch norm, ReLU, then (k, 1, 1) convolution: [N, in, T, H, W] -> [N, out, T', H', W'].

    The width in between gives a k x k x k kernel's number of parameters at k = 3, and the 3 stays for other kernels;
    or it is `mid`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple,
        stride: tuple,
        padding: tuple,
        *,
        mid: int | None = None,
        family: Family = FAMILIES[MMACTION],
    ):
        super().__init__()
        time, height, width = kernel
        mid = mid or split_width(in_channels, out_channels, height * width)
        spatial, temporal = (1, *stride[1:]), (stride[0], 1, 1)
        self.conv_s = nn.Conv3d(in_channels, mid, (1, height, width), spatial, (0, *padding[1:]), bias=False)
        self.bn_s = nn.BatchNorm3d(mid, family.inner_eps, family.momentum)
        self.conv_t = nn.Conv3d(mid, out_channels, (time, 1, 1), temporal, (padding[0], 0, 0), bias=False)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return self.conv_t(torch.relu_(self.bn_s(self.conv_s(x_NCTHW))))


class ClipConv(nn.Conv3d):
    """(frames, k, k) convolution over a whole clip: [N, in, frames, H, W] -> [N, out, 1, H', W']."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple, stride: tuple, padding: tuple, *, frames: int
    ):
        super().__init__(in_channels, out_channels, (frames, *kernel[1:]), stride, (0, *padding[1:]), bias=False)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        if x_NCTHW.shape[2] != self.kernel_size[0]:
            raise ValueError(f"built for clips of {self.kernel_size[0]} frames, not of {x_NCTHW.shape[2]}")
        return super().forward(x_NCTHW)


def frame_conv(in_channels: int, out_channels: int, kernel: tuple, stride: tuple, padding: tuple) -> nn.Conv3d:
    """(1, k, k) convolution, frame by frame; leaves the number of frames as it is."""
    spatial = (1, *kernel[1:]), (1, *stride[1:]), (0, *padding[1:])
    return nn.Conv3d(in_channels, out_channels, *spatial, bias=False)


full_conv = partial(nn.Conv3d, bias=False)
Conv = Callable[..., Conv2plus1d | nn.Conv3d]

# The convolution of the stem (group 1) and of the four residual stages (groups 2 to 5): section 3 of the paper.
CONVS: dict[str, tuple[Conv, ...]] = {
    "r2plus1d": (Conv2plus1d,) * 5,
    "r3d": (full_conv,) * 5,
    "r2d": (ClipConv, *(frame_conv,) * 4),  # the stem joins all frames, given to `build`; then there is one
    "f_r2d": (frame_conv,) * 5,
    **{f"mc{x}": (*(full_conv,) * (x - 1), *(frame_conv,) * (6 - x)) for x in (2, 3, 4, 5)},
    **{f"rmc{x}": (*(frame_conv,) * (x - 1), *(full_conv,) * (6 - x)) for x in (2, 3, 4, 5)},
}


class SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    backward = forward  # every process's loss depends on the sum


class OuterNorm(nn.SyncBatchNorm):
    """Batch norm whose training statistics are those of all processes of the default group, where there are several.

    torch's own does that on GPUs only; this one on the CPU as well.
    """

    running_mean: Tensor  # all of which torch leaves out where a norm has no such statistics
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, channels: int, family: Family = FAMILIES[MMACTION]):
        super().__init__(channels, family.outer_eps, family.momentum)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        if x_NCTHW.is_cuda:
            return super().forward(x_NCTHW)
        grouped = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        if not (self.training and grouped):
            return nn.BatchNorm3d.forward(self, x_NCTHW)
        shape, dims, total = (1, -1, 1, 1, 1), (0, 2, 3, 4), SumOverProcesses.apply
        count = total(torch.tensor(float(x_NCTHW[:, 0].numel())))
        mean = total(x_NCTHW.sum(dims)) / count
        centred = x_NCTHW - mean.view(shape)
        var = total(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        bias = self.bias * 1  # of one value a channel, the gradient would be the block's own, which its two norms share
        return centred * scale.view(shape) + bias.view(shape)


class ConvNorm(nn.Module):
    """A convolution with its outer batch norm; no activation."""

    def __init__(
        self,
        family: Family,
        conv: Conv,
        in_channels: int,
        out_channels: int,
        kernel: tuple,
        stride: tuple,
        mid: int | None = None,
    ):
        super().__init__()
        split = {"mid": mid, "family": family} if conv is Conv2plus1d else {}
        self.conv = conv(in_channels, out_channels, kernel, stride, tuple(k // 2 for k in kernel), **split)
        self.bn = OuterNorm(out_channels, family)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return self.bn(self.conv(x_NCTHW))


class Block(nn.Module):
    """Residual block: two 3x3x3 convolutions, or 1x1x1, 3x3x3 and 1x1x1 with a four times wider output.

    Each is of the form that `conv` says, those of 1x1x1 too, and in the published rows the shortcut. With r2plus1d
    that gives a network of 1x1x1 convolutions more parameters than r3d (53.3 to 47.0 million at depth 50); the paper
    has no such network.
    """

    def __init__(self, family: Family, conv: Conv, in_channels: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        layer = partial(ConvNorm, family)
        one, three, step, unit = (1, 1, 1), (3, 3, 3), (stride,) * 3, (1, 1, 1)
        self.out_channels = 4 * width if bottleneck else width
        if bottleneck:
            self.conv1 = layer(conv, in_channels, width, one, unit)
            self.conv2 = layer(conv, width, width, three, step)
            self.conv3: ConvNorm | None = layer(conv, width, self.out_channels, one, unit)
        else:
            mid = split_width(in_channels, width, 9) if family.mid_of_block else None
            self.conv1 = layer(conv, in_channels, width, three, step)
            self.conv2 = layer(conv, width, width, three, unit, mid)
            self.conv3 = None
        changes_shape = stride != 1 or in_channels != self.out_channels
        shortcut = full_conv if conv is Conv2plus1d and not family.split_shortcut else conv
        self.downsample = layer(shortcut, in_channels, self.out_channels, one, step) if changes_shape else None

    @property
    def parts(self) -> list[ConvNorm]:
        """The convolutions other than the shortcut, in order."""
        return [part for part in (self.conv1, self.conv2, self.conv3) if part is not None]

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        shortcut = x_NCTHW if self.downsample is None else self.downsample(x_NCTHW)
        y = self.conv2(torch.relu_(self.conv1(x_NCTHW)))
        if self.conv3 is not None:
            y = self.conv3(torch.relu_(y))
        return torch.relu_(y + shortcut)


class Stem(ConvNorm):
    """3x7x7 convolution with spatial stride 2, batch norm, ReLU: [N, 3, T, H, W] -> [N, width, T, H/2, W/2]."""

    def __init__(self, family: Family, conv: Conv, width: int):
        mid = None if family.stem_mid is None else max(1, family.stem_mid * width // 64)
        super().__init__(family, conv, 3, width, (3, 7, 7), (1, 2, 2), mid)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return torch.relu_(super().forward(x_NCTHW))


class Backbone(nn.Module):
    """[N, 3, T, H, W] -> features [N, C, T', H', W'], with C = 8 * width (32 * width with bottlenecks).

    H' = H/32, or H/16 in a family without pooling after the stem; W' likewise.
    T' = T/8 where the last three stages convolve in time; a stage that does not leaves T as it is. `convs` are those
    of the stem and of the four stages.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, family: Family, depth: int, width: int, convs: tuple[Conv, ...]):
        super().__init__()
        self.conv1 = Stem(family, convs[0], width)
        # (1, 3, 3) max pooling is two-dimensional, frame by frame: MaxPool3d's backward is not deterministic on CUDA.
        self.maxpool = nn.MaxPool2d(3, 2, 1) if family.stem_pool else None
        channels = width
        for stage, blocks in enumerate(BLOCKS[depth]):
            layer = nn.Sequential()
            for b in range(blocks):
                stride = 2 if stage > 0 and b == 0 else 1
                block = Block(family, convs[stage + 1], channels, width << stage, stride, bottleneck=depth >= 50)
                layer.append(block)
                channels = block.out_channels
            self.add_module(f"layer{stage + 1}", layer)
        self.out_channels = channels

    @property
    def blocks(self) -> list[Block]:
        """Of the four stages, in order."""
        return [module for module in self.modules() if isinstance(module, Block)]

    @property
    def stages(self) -> list[nn.Module]:
        """The stem and the four stages, from the bottom."""
        return [self.conv1, self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        x = self.pool(self.conv1(x_NCTHW))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def pool(self, x_NCTHW: Tensor) -> Tensor:
        if self.maxpool is None:
            return x_NCTHW
        n, c, t = x_NCTHW.shape[:3]
        pooled = self.maxpool(x_NCTHW.flatten(1, 2))
        return pooled.view(n, c, t, *pooled.shape[2:])


class Head(nn.Module):
    """Global average, dropout, linear: [N, C, T, H, W] -> logits [N, num_classes]."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(in_channels, num_classes)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return self.fc_cls(self.dropout(x_NCTHW.mean((2, 3, 4))))


class Recognizer(nn.Module):
    """Normalised float clips [N, 3, T, H, W] -> logits [N, num_classes].

    `family` says how to normalise them, `view` how the network is to be shown a video, and `classes` are the names of
    the classes in the order of the logits, where they are known. `arguments` are those of `build`.
    """

    def __init__(self, family: Family, backbone: Backbone, head: Head, arguments: dict[str, Any]):
        super().__init__()
        self.family = family
        self.backbone = backbone
        self.cls_head = head
        self.arguments = arguments
        self.view: View = family.view
        self.classes: list[str] | None = None

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return self.cls_head(self.backbone(x_NCTHW))


def build(
    depth: int = 34,
    num_classes: int = 400,
    width: int = 64,
    conv: str = "r2plus1d",
    dropout: float = 0.5,
    frames: int = 8,
    family: str = MMACTION,
) -> Recognizer:
    """The network with fresh weights, drawn from torch's global generator; on the meta device nothing is drawn.

    `width` is the number of channels after the stem (64 as published); `dropout` is the probability before the last
    layer; `frames` is the length of the clips, which shapes the stem of `r2d` and nothing else; `family` is one of
    `families.FAMILIES`. Raises ValueError for an unknown depth, convolution or family.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth {depth} is not one of {', '.join(map(str, BLOCKS))}")
    if conv not in CONVS:
        raise ValueError(f"conv '{conv}' is not one of {', '.join(CONVS)}")
    if family not in FAMILIES:
        raise ValueError(f"family '{family}' is not one of {', '.join(FAMILIES)}")
    kind = FAMILIES[family]
    convs = tuple(partial(c, frames=frames) if c is ClipConv else c for c in CONVS[conv])
    backbone = Backbone(kind, depth, width, convs)
    arguments = {"depth": depth, "num_classes": num_classes, "width": width, "conv": conv, "dropout": dropout}
    arguments |= {"frames": frames, "family": family}
    model = Recognizer(kind, backbone, Head(backbone.out_channels, num_classes, dropout), arguments)
    if model.cls_head.fc_cls.weight.is_meta:  # torch would load its compiler, for seconds, to draw nothing
        return model
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(model.cls_head.fc_cls.weight, std=0.01)
    nn.init.zeros_(model.cls_head.fc_cls.bias)
    return model
