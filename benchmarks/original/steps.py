"""The training steps that ours and the original take alike; runs in either environment."""

import math
from collections.abc import Callable
from pathlib import Path

import torch

EPOCHS, BATCHES = 5, 3
LR, MAX_NORM = 0.05, 40


def train(network: torch.nn.Module, step: Callable, folder: Path) -> list[tuple[float, float]]:
    """(loss, gradient norm before clipping) of each step, which `step` makes of the optimizer, clips and labels."""
    data = torch.load(folder / "clips.pt", weights_only=True)
    optimizer = torch.optim.SGD(network.train().parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    steps = []
    for epoch in range(EPOCHS):
        optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        for clips, labels in zip(data["clips"], data["labels"], strict=True):
            steps.append(step(optimizer, clips, labels))
    return steps
