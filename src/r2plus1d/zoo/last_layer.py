"""The last layer of a network, trained on the features of videos: minutes where all of the network takes hours.

Shapes: N videos, V views of a training video, C features, K classes.
"""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from r2plus1d.config.schema import RowConfig
from r2plus1d.datasets.annotations import Sample
from r2plus1d.model.network import Recognizer
from r2plus1d.system.device import prepare
from r2plus1d.system.errors import redacted
from r2plus1d.system.progress import progress
from r2plus1d.zoo import accuracy
from r2plus1d.zoo.features import Features, FeaturesError, fingerprint
from r2plus1d.zoo.log import Log

STEPS = 10  # of L-BFGS in an epoch
DECAYS = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)  # that are tried, one after the other
UNTRIED = 0.1  # where no class has a video to spare
FOLDS, TRIAL_STEPS = 5, 30
MOST = 1_000_000_000  # features x classes of the trials, which then take a minute or two


def train(
    config: RowConfig,
    network: Recognizer,
    found: Features,
    splits: dict[str, list[Sample]],
    classes: list[str],
    say: Callable[[str], None],
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
    balanced, decay = config.train.balance == "classes", config.train.weight_decay
    if decay == "auto":
        decay, why = best_decay(found.train, splits["train"], len(classes), balanced)
        say(f"weight decay {decay:g}: {why}")
    x, labels = _views(found.train, splits["train"])
    solver = _Solver(x, labels, len(classes), balanced)
    log, targets = Log(), np.array([sample.label for sample in splits["val"]])
    for epoch in range(config.train.epochs):
        value, norm = solver.solve(decay, STEPS)
        entry = {"mode": "train", "epoch": epoch + 1, "iter": STEPS, "lr": 1.0}  # L-BFGS finds its own way
        entry |= {"weight_decay": decay, "loss": round(value, 5), **_shown(solver(x), labels.numpy())}
        log.add(entry | {"grad_norm": round(norm, 5)})
    shown = _shown(solver(found.val.double()), targets, True)
    log.add({"mode": "val", "epoch": config.train.epochs, "iter": len(targets), "lr": 1.0, **shown})
    weight, bias = solver.layer()
    with torch.no_grad():
        network.cls_head.fc_cls.weight.copy_(weight)
        network.cls_head.fc_cls.bias.copy_(bias)
    return log


def best_decay(features: Tensor, samples: list[Sample], classes: int, balanced: bool) -> tuple[float, str]:
    """Of DECAYS the one with the least cross-entropy of videos that were not trained on, by their views float32
    [N, V, C]; and in words what it was chosen by.

    Each class is cut into FOLDS parts in the order of its paths, since videos whose names are next to each other are
    often of one recording. Of more than MOST allows, one view of evenly chosen videos is looked at; the decay, which
    stands against a mean over the videos, is then less by as much as there are more of them.
    """
    order = sorted(range(len(samples)), key=lambda index: (samples[index].label, samples[index].path))
    if features.numel() * classes > MOST:
        features = features[:, :1]
        most = max(2 * classes, MOST // (features[0].numel() * classes))
        order = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).astype(int))]
    parts: list[list[int]] = [[] for _ in range(FOLDS)]
    for _, own in itertools.groupby(order, key=lambda index: samples[index].label):
        for part, indices in zip(parts, np.array_split(list(own), FOLDS), strict=True):
            part.extend(indices.tolist())
    losses, looked = np.zeros(len(DECAYS)), 0
    for part in progress(parts, FOLDS, "choosing the weight decay", "parts"):
        rest = [index for other in parts if other is not part for index in other]
        known = {samples[index].label for index in rest}
        held_out = [index for index in part if samples[index].label in known]
        if not held_out:
            continue
        looked += len(held_out)
        solver = _Solver(*_views(features[rest], [samples[i] for i in rest]), classes, balanced)
        x, labels = _views(features[held_out], [samples[i] for i in held_out])
        share = _shares(labels, classes, balanced) * len(held_out)
        for number, decay in enumerate(DECAYS):
            solver.solve(decay, TRIAL_STEPS)
            error = functional.cross_entropy(torch.from_numpy(solver(x)), labels, reduction="none")
            losses[number] += float((error * share).sum())
    if not looked:
        return UNTRIED, "no class has a video to spare for a choice"
    best = DECAYS[int(losses.argmin())] * (len(order) / len(samples))
    return best, f"the best of {len(DECAYS)} in a cross-validation over {len(order)} of {len(samples)} training videos"


class _Solver:
    """The last layer, float64, while it is fitted to features [M, C] and labels [M]; it goes on from where it was."""

    def __init__(self, x: Tensor, labels: Tensor, classes: int, balanced: bool):
        self.mean, self.std = x.mean(0), x.std(0, unbiased=False).clamp_min(1e-6)
        self.x, self.labels, self.share = (x - self.mean) / self.std, labels, _shares(labels, classes, balanced)
        self.weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
        self.bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
        self.decay: float | None = None

    def solve(self, decay: float, steps: int) -> tuple[float, float]:
        """Takes so many steps of L-BFGS. The loss, and the norm of its gradient."""
        if decay != self.decay:
            values = [self.weight, self.bias]
            self.solver = torch.optim.LBFGS(values, max_iter=steps, line_search_fn="strong_wolfe")
            self.decay = decay

        def loss() -> Tensor:
            self.solver.zero_grad()
            logits = functional.linear(self.x, self.weight, self.bias)
            error = functional.cross_entropy(logits, self.labels, reduction="none")
            value = (error * self.share).sum() + decay / 2 * self.weight.square().sum()
            value.backward()
            return value

        self.solver.step(loss)
        value = loss().item()
        gradient = [t.grad.flatten() for t in (self.weight, self.bias) if t.grad is not None]
        return value, float(torch.cat(gradient).norm())

    def __call__(self, x: Tensor) -> np.ndarray:
        """Features float64 [M, C] -> logits [M, K]."""
        with torch.no_grad():
            return functional.linear((x - self.mean) / self.std, self.weight, self.bias).numpy()

    def layer(self) -> tuple[Tensor, Tensor]:
        """(weight, bias) for features as they are."""
        with torch.no_grad():
            return self.weight / self.std, self.bias - functional.linear(self.mean / self.std, self.weight)


def _views(features: Tensor, samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """float32 [N, V, C] -> (float64 [N * V, C], the videos' labels, int64 [N * V])"""
    labels = torch.tensor([sample.label for sample in samples])
    return features.flatten(0, 1).double(), labels.repeat_interleave(features.shape[1])


def _shares(labels: Tensor, classes: int, balanced: bool) -> Tensor:
    """How much each sample counts; 1 in sum."""
    if not balanced:
        return torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
    counts = torch.bincount(labels, minlength=classes).double()
    return 1 / counts[labels] / (counts > 0).sum()


def _shown(scores: np.ndarray, labels: np.ndarray, mean: bool = False) -> dict[str, float]:
    found = {f"top{k}_acc": round(accuracy.top_k_accuracy(scores, labels, k), 5) for k in (1, 5)}
    return found | ({"mean_class_accuracy": round(accuracy.mean_class_accuracy(scores, labels), 5)} if mean else {})
