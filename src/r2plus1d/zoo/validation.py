"""The validation view: one clip of each video, centre crop. Not the protocol of the table."""

import numpy as np
import torch
from torch import nn

from r2plus1d.clips.items import Reader, ValClips
from r2plus1d.clips.loader import loader
from r2plus1d.config.schema import RowConfig
from r2plus1d.datasets.annotations import Sample
from r2plus1d.model.families import FAMILIES
from r2plus1d.system import processes
from r2plus1d.system.timing import reading
from r2plus1d.zoo import accuracy
from r2plus1d.zoo.update import normalised


def validate(
    config: RowConfig,
    model: nn.Module,
    samples: list[Sample],
    reader: Reader,
    device: torch.device,
    workers: int | None,
) -> dict[str, float]:
    """Accuracies (0-1) of the validation view: one clip per video, centre crop. Not the protocol of the table."""
    scores, targets = validation_scores(config, model, samples, reader, device, workers)
    return {
        "top1_acc": round(accuracy.top_k_accuracy(scores, targets, 1), 5),
        "top5_acc": round(accuracy.top_k_accuracy(scores, targets, 5), 5),
        "mean_class_accuracy": round(accuracy.mean_class_accuracy(scores, targets), 5),
    }


def validation_scores(
    config: RowConfig,
    model: nn.Module,
    samples: list[Sample],
    reader: Reader,
    device: torch.device,
    workers: int | None,
    static: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(logits float32 [N, K], labels int64 [N]) of the validation view of N videos.

    `static`: of the clip's middle frame, repeated. Several processes share out whole batches, so that each batch is
    computed as in a single one.
    """
    size = config.train.videos_per_gpu
    own = processes.share([range(len(samples))[i : i + size] for i in range(0, len(samples), size)])
    clips, family = ValClips(config, samples, reader, static), FAMILIES[config.model.family]
    model.eval()
    results = []
    with torch.inference_mode():
        for batch, targets in reading(loader(clips, device, workers, batch_sampler=own)):
            results.append((model(normalised(batch, device, family)).cpu().numpy(), targets.numpy()))
    scores, targets = map(np.concatenate, zip(*processes.together(results), strict=True))
    return scores, targets
