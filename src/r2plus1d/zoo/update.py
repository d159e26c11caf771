"""One update of a row's weights: the seeded network, its optimizer, its learning rate, the step.

Source: the published recipe (see params.yaml, `recipe.train`).
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from r2plus1d.config.schema import RowConfig
from r2plus1d.model.families import FAMILIES, MMACTION, Family
from r2plus1d.model.lowered import MakesSteps, Where
from r2plus1d.model.network import Recognizer, build
from r2plus1d.system.device import seed_everything
from r2plus1d.video.views import to_input

FACTOR = "factor"  # of an optimizer's group: times the rate
MODEL_STREAM = 2  # separates torch's random numbers from those of `clips`


def learning_rate(config: RowConfig, epoch: int) -> float:
    """Up in equal steps while it warms up, then cosine by epoch, from the linearly scaled rate to 0 after the last."""
    warmup = config.train.warmup_epochs
    if epoch < warmup:
        return config.learning_rate * (epoch + 1) / (warmup + 1)
    return config.learning_rate * (1 + math.cos(math.pi * (epoch - warmup) / (config.train.epochs - warmup))) / 2


def build_arguments(config: RowConfig, num_classes: int) -> dict:
    """What `network.build` is called with for this row."""
    rest = {"num_classes": num_classes, "dropout": config.train.dropout, "frames": config.clip.frames}
    return config.model.model_dump() | rest


def build_model(config: RowConfig, num_classes: int) -> Recognizer:
    """The row's network with seeded weights."""
    seed_everything(config.seed, MODEL_STREAM)
    return build(**build_arguments(config, num_classes))


def fixed_stages(model: Recognizer, config: RowConfig) -> list[nn.Module]:
    """Of the stem and the four stages those that `train.freeze` counts from the bottom."""
    count = config.train.freeze
    return model.backbone.stages[: None if count == "all" else count]


def freeze(model: Recognizer, config: RowConfig) -> None:
    """Takes the fixed stages out of the training, if there are any."""
    for stage in fixed_stages(model, config):
        stage.requires_grad_(False)


def lowered(config: RowConfig, device: torch.device) -> Where:
    """`runtime.lowered` for this training: the steps for GPUs train all weights at one rate, from whole batches."""
    train = config.train
    whole = train.freeze == 0 and train.head_lr == 1 and train.accumulate == 1
    return config.runtime.lowered if whole or device.type == "cpu" else False


def set_training(model: Recognizer, config: RowConfig) -> None:
    """Training mode, but for the stages that stay fixed, batch norms' statistics included."""
    model.train()
    for stage in fixed_stages(model, config):
        stage.eval()


def optimizer_for(model: Recognizer, config: RowConfig) -> torch.optim.SGD:
    """For all that is not frozen; `set_rate` sets its rate."""
    train, head = config.train, list(model.cls_head.parameters())
    rest = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    decay = 0.0 if train.weight_decay == "auto" else train.weight_decay  # of a last layer, which is trained otherwise
    groups = [{"params": [*rest, *head], FACTOR: 1.0}]
    if train.head_lr != 1:
        groups = [{"params": rest, FACTOR: 1.0}, {"params": head, FACTOR: train.head_lr}]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=train.momentum, weight_decay=decay)


def set_rate(optimizer: torch.optim.SGD, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group[FACTOR]


def normalised(clips: Tensor, device: torch.device, family: Family) -> Tensor:
    """uint8 clips [N, T, H, W, 3] -> float32 [N, 3, T, H, W] on `device`, as networks of that family take them."""
    return to_input(clips, device, family.mean, family.std).contiguous()


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    labels: Tensor,
    max_norm: float,
    clips: float | None = None,
) -> dict:
    """One update from normalised clips [N, 3, T, H, W]. Returns loss, grad_norm (before clipping) and logits [N, K].

    Where loss or grad_norm is not finite there is no update, which would spoil the weights.

    With several processes, `clips` is the mean of their N. The loss is the sum over this process's clips divided by it,
    so that the mean of the losses, and of the gradients, over the processes is that over all clips, whatever each
    one's N (0 too).
    """
    optimizer.zero_grad()
    part = gradients(model, x, labels, clips or len(labels))
    return finish(model, optimizer, [part], max_norm)


def gradients(model: nn.Module, x: Tensor, labels: Tensor, clips: float) -> tuple[Tensor, Tensor]:
    """Adds those of one part of an update of `clips` clips, as `step` counts them; (its share of the loss, logits)."""
    logits = model(x)
    loss = functional.cross_entropy(logits, labels, reduction="sum") / clips
    loss.backward()
    return loss.detach(), logits.detach()


def finish(
    model: nn.Module, optimizer: torch.optim.Optimizer, parts: list[tuple[Tensor, Tensor]], max_norm: float
) -> dict:
    """The update from the gradients of all parts, as `step` says."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    losses, logits = zip(*parts, strict=True)
    result = {"loss": sum(loss.item() for loss in losses), "grad_norm": norm.item(), "logits": torch.cat(logits)}
    if math.isfinite(result["loss"]) and math.isfinite(result["grad_norm"]):
        optimizer.step()
    return result


Parts = Iterable[tuple[Tensor, Tensor]]


def updates(
    network: nn.Module, optimizer: torch.optim.SGD, max_norm: float, family: Family = FAMILIES[MMACTION]
) -> Callable[[Parts, float], dict]:
    """A function of the parts of an update, uint8 clips [N, T, H, W, 3] and labels on the network's device, and of the
    mean number of clips of a process: an update of `network`, as `step` makes it. A network that `for_training` made
    for a GPU makes its own, from one part.
    """
    if isinstance(network, MakesSteps):
        steps = network.steps(optimizer, max_norm)

        def whole(parts: Parts, _: float) -> dict:
            ((clips, labels),) = parts
            return steps(clips, labels)

        return whole

    def update(parts: Parts, count: float) -> dict:
        optimizer.zero_grad()
        done = [gradients(network, normalised(clips, clips.device, family), labels, count) for clips, labels in parts]
        return finish(network, optimizer, done, max_norm)

    return update
