"""What a network costs: parameters, and operations for one clip.

Source of the published count (53.18 G at 8 x 256 x 256, 212.70 G at 32 x 256 x 256): MMCV's counter on the published
models, which adds to the convolutions two operations per element of a batch norm that is not synchronised, one per
element of a ReLU and one per element that is pooled.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from r2plus1d.model.network import Block, ConvNorm, Head, Recognizer


@dataclass(frozen=True)
class Cost:
    parameters: int
    macs: int  # multiply-accumulates of the convolutions and the last layer
    published_flops: int  # the published count, in which a multiply-accumulate is one operation


def cost(model: Recognizer, frames: int, height: int, width: int) -> Cost:
    """For one clip [1, 3, frames, height, width]. Works on shapes alone: no weight is read, nothing is computed."""
    model = copy.deepcopy(model).to("meta").eval()
    shortcuts = {block.downsample for block in model.modules() if isinstance(block, Block)}
    macs, rest = [], []

    def count(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv3d):
            macs.append(output.numel() * module.weight[0].numel())
        elif isinstance(module, nn.Linear):
            macs.append(output.numel() * module.in_features)
        elif isinstance(module, nn.BatchNorm3d):  # the inner one, and the ReLU after it
            rest.append((2 + 1) * output.numel())
        elif isinstance(module, ConvNorm) and module not in shortcuts:  # a ReLU follows
            rest.append(output.numel())
        elif isinstance(module, nn.MaxPool2d | Head):
            rest.append(inputs[0].numel())

    for module in model.modules():
        module.register_forward_hook(count)
    model(torch.empty(1, 3, frames, height, width, device="meta"))
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters, sum(macs), sum(macs) + sum(rest))
