"""Features of videos, computed once, and the last layer trained on them: fine-tuning for those without a GPU.

Shapes: N videos, V views of a training video, C features, K classes. A feature is what the last layer takes: the mean
of the last stage over frames and pixels.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional

from r2plus1d.clips.items import Clips, Reader, TrainClips, ValClips
from r2plus1d.clips.loader import loader
from r2plus1d.config.schema import RowConfig
from r2plus1d.datasets.annotations import Sample
from r2plus1d.model.lowered import for_inference
from r2plus1d.model.network import Recognizer
from r2plus1d.system.device import computed, prepare
from r2plus1d.system.errors import UserError, redacted
from r2plus1d.system.files import write_bytes
from r2plus1d.system.progress import progress, saved
from r2plus1d.system.timing import reading
from r2plus1d.zoo import accuracy
from r2plus1d.zoo.log import Log
from r2plus1d.zoo.update import normalised
from r2plus1d.zoo.weights import starting_network

FILE = "features.safetensors"
ITEMS: dict[str, type[Clips]] = {"train": TrainClips, "val": ValClips}
PART = 256  # videos, after which an interrupted run goes on
STEPS = 10  # of L-BFGS in an epoch


class FeaturesError(UserError):
    """Features that cannot be computed or read, or nothing to train on."""


@dataclass(frozen=True)
class Features:
    train: Tensor  # float32 [N, V, C], of the training view: V random clips, crops and flips of each video
    val: Tensor  # float32 [N, C], of the validation view
    of: str  # SHA-256 of the network that computed them, without its last layer


def features(
    config: RowConfig,
    splits: dict[str, list[Sample]],
    reader: Reader,
    classes: list[str],
    work: Path,
    workers: int | None,
) -> Features:
    """The features of all videos, by the network that the row starts from. What is done stays in `work` until the end.

    Raises FeaturesError where there is nothing to train on, and the errors of the weights.
    """
    if not splits["train"]:
        raise FeaturesError(f"{config.row}: there are no training videos; give the row a checkpoint in params.yaml")
    device = prepare(config.runtime)
    network = starting_network(config, classes, lambda text: print(text, flush=True)).eval()
    bare = copy.deepcopy(network)
    bare.cls_head.fc_cls = nn.Identity()  # type: ignore[assignment]
    arithmetic = computed(config.runtime.arithmetic, device)
    fast = for_inference(bare, device, config.runtime.lowered, arithmetic)
    views = {"train": config.train.views, "val": 1}
    parts = {
        (split, first): work / f"{split}_{first:07}.safetensors"
        for split in ITEMS
        for first in range(0, len(splits[split]), PART)
    }

    def compute() -> Iterator[int]:
        """Writes the parts that are not there, and gives the number of clips as it goes on."""
        for (split, first), file in parts.items():
            videos = range(first, min(first + PART, len(splits[split])))
            if file.is_file():
                yield len(videos) * views[split]
                continue
            items = [(view, video) if split == "train" else video for video in videos for view in range(views[split])]
            size, made = config.train.videos_per_gpu, []
            batches = [items[i : i + size] for i in range(0, len(items), size)]
            clips = ITEMS[split](config, splits[split], reader)
            for batch, labels in reading(loader(clips, device, workers, batch_sampler=batches)):
                with torch.inference_mode():
                    made.append(fast(normalised(batch, device, network.family)).cpu())
                yield len(labels)
            whole = torch.cat(made).reshape(len(videos), views[split], -1).contiguous()
            write_bytes(file, save_tensors({"features": whole}))
            saved(f"the features of {split} videos {videos.start} to {videos.stop} of {config.row} are in {work}")

    total = sum(len(splits[split]) * views[split] for split in ITEMS)
    for _ in progress(compute(), total, f"features of {config.row}", "clips", measure=int):
        pass
    found = {key: load_file(file)["features"] for key, file in parts.items()}
    train, val = (torch.cat([found[key] for key in found if key[0] == split]) for split in ITEMS)
    return Features(train, val[:, 0], fingerprint(network))


def fingerprint(network: Recognizer) -> str:
    """SHA-256 of all weights but the last layer's."""
    whole = hashlib.sha256()
    for name, tensor in network.backbone.state_dict().items():
        whole.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()


def save(found: Features, folder: Path) -> None:
    write_bytes(folder / FILE, save_tensors({"train": found.train, "val": found.val}, metadata={"of": found.of}))


def read(folder: Path) -> Features:
    """Raises FeaturesError."""
    try:
        with safe_open(folder / FILE, "pt") as file:
            return Features(file.get_tensor("train"), file.get_tensor("val"), (file.metadata() or {}).get("of", ""))
    except Exception as error:  # safetensors has its own
        raise FeaturesError(f"{folder / FILE}: {error}; run `dvc repro` to compute the features") from error


def train_last_layer(
    config: RowConfig,
    found: Features,
    splits: dict[str, list[Sample]],
    classes: list[str],
    say: Callable[[str], None],
) -> tuple[Recognizer, Log]:
    """The network that the row starts from, with a last layer trained on the features; and the log.

    Logistic regression by L-BFGS from 0, in double precision, on features of mean 0 and variance 1, with
    `train.weight_decay`; `train.epochs` are groups of STEPS steps. The same on every run: nothing is drawn.
    """
    prepare(config.runtime)
    network = starting_network(config, classes, say).eval()
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
    return network, log


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
