"""The last layer of a network, trained on the features of videos: minutes where all of the network takes hours.

Shapes: N videos, V views of a training video, C features, K classes.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from r2plus1d.config.schema import RowConfig
from r2plus1d.datasets.annotations import Sample
from r2plus1d.model.network import Recognizer
from r2plus1d.system.device import prepare
from r2plus1d.system.errors import redacted
from r2plus1d.zoo import accuracy
from r2plus1d.zoo.features import Features, FeaturesError, fingerprint
from r2plus1d.zoo.log import Log

STEPS = 10  # of L-BFGS in an epoch


def train(
    config: RowConfig, network: Recognizer, found: Features, splits: dict[str, list[Sample]], classes: list[str]
) -> Log:
    """Trains the last layer of the network that the row starts from, on its features. The log.

    Logistic regression by L-BFGS from 0, in double precision, on features of mean 0 and variance 1, with
    `train.weight_decay`; `train.epochs` are groups of STEPS steps. The same on every run: nothing is drawn.
    """
    prepare(config.runtime)
    if found.of != fingerprint(network):
        raise FeaturesError(
            f"the features of {config.row} are of other weights than {redacted(str(config.init))} has now; compute "
            f"them again: R2PLUS1D_AGAIN=1 dvc repro --force --single-item features@{config.row}"
        )
    x, mean, std = _scaled(found.train.flatten(0, 1).double())
    labels = torch.tensor([sample.label for sample in splits["train"]]).repeat_interleave(found.train.shape[1])
    weight = torch.zeros(len(classes), x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    share = _shares(labels, len(classes), config.train.balance == "classes")
    solver = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")
    validation, log = (found.val.double() - mean) / std, Log()
    targets = np.array([sample.label for sample in splits["val"]])

    def loss() -> Tensor:
        solver.zero_grad()
        error = functional.cross_entropy(functional.linear(x, weight, bias), labels, reduction="none")
        value = (error * share).sum() + config.train.weight_decay / 2 * weight.square().sum()
        value.backward()
        return value

    for epoch in range(config.train.epochs):
        solver.step(loss)
        value = loss().item()
        with torch.no_grad():
            scores = functional.linear(x, weight, bias).numpy()
            shown = functional.linear(validation, weight, bias).numpy()
        entry = {"mode": "train", "epoch": epoch + 1, "iter": STEPS, "lr": 1.0}  # L-BFGS finds its own way
        norm = float(torch.cat([t.grad.flatten() for t in (weight, bias) if t.grad is not None]).norm())
        log.add(entry | {"loss": round(value, 5), **_shown(scores, labels.numpy()), "grad_norm": round(norm, 5)})
    log.add(
        {"mode": "val", "epoch": config.train.epochs, "iter": len(targets), "lr": 1.0, **_shown(shown, targets, True)}
    )
    with torch.no_grad():
        network.cls_head.fc_cls.weight.copy_(weight / std)
        network.cls_head.fc_cls.bias.copy_(bias - functional.linear(mean / std, weight))
    return log


def _scaled(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """([N, C] of mean 0 and variance 1, mean, standard deviation)"""
    mean, std = x.mean(0), x.std(0, unbiased=False).clamp_min(1e-6)
    return (x - mean) / std, mean, std


def _shares(labels: Tensor, classes: int, balanced: bool) -> Tensor:
    """How much each sample counts; 1 in sum."""
    if not balanced:
        return torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
    counts = torch.bincount(labels, minlength=classes).double()
    return 1 / counts[labels] / (counts > 0).sum()


def _shown(scores: np.ndarray, labels: np.ndarray, mean: bool = False) -> dict[str, float]:
    found = {f"top{k}_acc": round(accuracy.top_k_accuracy(scores, labels, k), 5) for k in (1, 5)}
    return found | ({"mean_class_accuracy": round(accuracy.mean_class_accuracy(scores, labels), 5)} if mean else {})
