"""The columns of the table that are no accuracies: videos per second, memory, and what the network costs.

videos_per_second: one video at a time, all its views in one forward pass: the copy of the ready crops to the device,
their normalisation and the model only (no decoding, no resizing), after warm-up. A frame that several clips share
goes to the device once, and by the rewritten networks in float32 and for GPUs through the first layer once.
memory_mib: the peak of training steps at the row's videos per GPU. Source of the definitions: the published rows.
"""

import copy
import dataclasses
import itertools
import time

import torch

from r2plus1d.clips.items import Reader, TestVideos, TrainClips
from r2plus1d.clips.loader import Schedule, loader, single
from r2plus1d.config.schema import BenchmarkedRow
from r2plus1d.datasets.annotations import Sample
from r2plus1d.model.cost import cost
from r2plus1d.model.lowered import TakesFrames, for_inference, for_training
from r2plus1d.model.network import Recognizer
from r2plus1d.system.device import computed, describe, peak_memory_mib, prepare, reset_peak_memory, synchronize
from r2plus1d.system.progress import progress
from r2plus1d.system.timing import reading
from r2plus1d.zoo.evaluation import logits
from r2plus1d.zoo.update import freeze, lowered, optimizer_for, set_training, updates


def benchmark(
    config: BenchmarkedRow, model: Recognizer, splits: dict[str, list[Sample]], reader: Reader
) -> tuple[dict[str, float], dict[str, str | int | None]]:
    """(figures, what they were measured on). The cost is that of one clip as the test views show it."""
    timed = config.runtime.model_copy(update={"arithmetic": config.inference})
    device = prepare(timed)
    if device.type == "cuda":  # on the CPU a process has one arithmetic
        prepare(config.runtime)
    memory = training_memory(config, model, splits["train"] or splits["val"], reader, device)
    prepare(timed)
    arithmetic = computed(config.inference, device)
    fast = for_inference(model, device, config.runtime.lowered, arithmetic)
    rate, videos = inference_rate(config, fast, splits["val"], reader, device)
    costs = cost(model, config.clip.frames, config.test.crop, config.test.crop)
    figures = {"videos_per_second": float(f"{rate:.4g}"), "memory_mib": memory} | dataclasses.asdict(costs)
    frames, crops = config.clip.frames * config.test.clips, config.test.crops
    measured_on = describe(device) | {"arithmetic": arithmetic, "videos": videos, "frames": f"{frames}x{crops}"}
    return figures, measured_on


def training_memory(
    config: BenchmarkedRow, model: Recognizer, samples: list[Sample], reader: Reader, device: torch.device
) -> int:
    """MiB, of a copy of the network. On the CPU, of the whole process."""
    model = copy.deepcopy(model).to(device)
    freeze(model, config)
    set_training(model, config)
    optimizer = optimizer_for(model, config)
    arithmetic = computed(config.runtime.arithmetic, device, training=True)
    network = for_training(model, device, lowered(config, device), arithmetic)
    update = updates(network, optimizer, config.train.max_grad_norm, model.family)
    size = min(config.train.videos_per_gpu, len(samples))
    schedule = Schedule(len(samples), size, config.seed, 0, config.benchmark.train_steps)
    whole = [batch for batch in schedule if len(batch) == size]  # the rest of an epoch takes less
    batches = reading(loader(TrainClips(config, samples, reader), device, 0, batch_sampler=whole))
    reset_peak_memory(device)
    for clips, labels in itertools.islice(batches, config.benchmark.train_steps):
        update([(clips.to(device), labels.to(device))], len(labels))
    synchronize(device)
    return peak_memory_mib(device)


def inference_rate(
    config: BenchmarkedRow, network: TakesFrames, samples: list[Sample], reader: Reader, device: torch.device
) -> tuple[float, int]:
    """(videos per second, number of videos timed); a list shorter than asked for is gone through once."""
    warmup = min(config.benchmark.warmup_videos, len(samples) - 1)
    count = min(config.benchmark.videos, len(samples) - warmup)
    items = TestVideos(config, samples[: warmup + count], reader)
    videos = reading(loader(items, device, 0, batch_size=1, collate_fn=single))
    seconds = 0.0
    for number, video in enumerate(progress(videos, warmup + count, f"benchmarking {config.row}", "videos")):
        crops, places = video.crops(config), video.places(config)
        synchronize(device)
        began = time.perf_counter()
        logits(network, crops, places, device)
        synchronize(device)
        seconds += time.perf_counter() - began if number >= warmup else 0
    return count / seconds, count
