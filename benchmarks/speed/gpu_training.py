"""A training step on an NVIDIA GPU against the plain one: milliseconds, peak memory, and 200 steps' loss.

    python benchmarks/speed/gpu_training.py     # some minutes

A step is forward, backward, clipping and SGD, from clips on the GPU, at full size and the rows' videos per GPU:
`plain` in float32 as the original computes it, with cuDNN free to choose; `fast` by `model.cuda.training`, likewise
free; `deterministic` the same in the pipeline's settings. Then the loss over 200 steps on views of 96 generated
videos, plain, plain with another order of the videos (the noise), and deterministic.

Writes benchmarks/results/gpu_training.json, .md and .png, and the table in docs/results.md; ends with an error where
the loss is further from the plain one's than 1.5 times that noise.
"""

import copy
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import RESULTS, BenchmarkError, command_line, gpu, milliseconds, publish, settled
from r2plus1d.clips.sampling import train_indices
from r2plus1d.datasets import motion
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system.files import replacing
from r2plus1d.system.pool import spread
from r2plus1d.system.stage import run
from r2plus1d.video import views

PICTURE = RESULTS / "gpu_training.png"
CLIPS = ((8, 8, 8), (32, 2, 6))  # frames, interval, videos of a step
PIXELS, SHORT_SIDE = 224, 256
CURVE, SMOOTH = 200, 20  # steps; steps of the moving average
EACH = 8  # videos of a class
NOISE = 1.5  # times the noise's own distance is still noise
LR, MOMENTUM, DECAY, NORM = 0.01, 0.9, 1e-4, 40.0


def main() -> None:
    command_line(__doc__).parse_args()
    figures = [measure(*clip) for clip in CLIPS]
    videos = list(spread(video, list(itertools.product(range(len(motion.CLASSES)), range(EACH))), None))
    for entry, clip in zip(figures, CLIPS, strict=True):
        entry["curves"] = curves(videos, *clip)
    print(table(figures))
    plot(figures)
    publish("gpu_training", {"figures": figures}, table(figures), f"Loss over {CURVE} steps")
    for entry in figures:
        if not distance(entry, "lowered") <= NOISE * distance(entry, "plain, another order"):
            raise BenchmarkError(f"clips of {entry['clip']}: the loss is further from the plain one's than noise is")


def measure(frames: int, interval: int, batch: int) -> dict:
    import torch  # noqa: PLC0415

    from r2plus1d.system.device import describe, peak_memory_mib, reset_peak_memory  # noqa: PLC0415

    cuda = gpu()
    clips = torch.randint(0, 256, (batch, frames, PIXELS, PIXELS, 3), dtype=torch.uint8, device=cuda)
    labels = torch.randint(0, 400, (batch,), device=cuda)
    result = {"clip": [frames, interval], "batch": batch, "machine": describe(cuda)}
    for name in ("plain", "fast", "deterministic"):
        update = updates(name, settled(cuda))
        reset_peak_memory(cuda)
        update(clips, labels)
        ms = milliseconds(lambda update=update: update(clips, labels))
        result[name] = {"ms": ms, "clips_per_second": round(1000 * batch / ms, 1), "memory_mib": peak_memory_mib(cuda)}
        del update
        torch.cuda.empty_cache()
    return result


def updates(name: str, model):
    """A training step of the network, a function of uint8 clips and labels; sets how free cuDNN is."""
    import torch  # noqa: PLC0415

    from r2plus1d.model.lowered import for_training  # noqa: PLC0415
    from r2plus1d.zoo import update  # noqa: PLC0415

    deterministic = name == "deterministic"
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, not deterministic
    model = model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    network = for_training(model, next(model.parameters()).device, name != "plain")
    update = update.updates(network, optimizer, NORM)
    return lambda clips, labels: update([(clips, labels)], len(labels))


def video(place: tuple[int, int]) -> tuple[np.ndarray, int]:
    """uint8 [T, H, W, 3] and label, as they are drawn, not encoded."""
    label, index = place
    planes = motion.render(0, 0, label, index, SHORT_SIDE)
    frames = [cv2.cvtColor(np.ascontiguousarray(p[[0, 2, 1]].transpose(1, 2, 0)), cv2.COLOR_YCrCb2RGB) for p in planes]
    return np.stack(frames), label


def batches(videos: list, frames: int, interval: int, batch: int, seed: int) -> Iterator:
    import torch  # noqa: PLC0415

    rng = np.random.default_rng(seed)
    for _ in range(CURVE):
        clips, labels = [], []
        for index in rng.choice(len(videos), batch, replace=False):
            content, label = videos[index]
            chosen = content[train_indices(len(content), frames, interval, rng=rng)[0]]
            box = views.random_resized_crop_box(*chosen.shape[1:3], rng, (0.6, 1.0))
            clip = views.resize(np.ascontiguousarray(views.crop(chosen, box)), (PIXELS, PIXELS))
            clips.append(torch.from_numpy(np.ascontiguousarray(clip)))
            labels.append(label)
        yield torch.stack(clips), torch.tensor(labels)


def curves(videos: list, frames: int, interval: int, batch: int) -> dict[str, list[float]]:
    cuda = gpu()
    start = settled(cuda)
    found = {}
    for name, kind, seed in (
        ("plain", "plain", 0),
        ("plain, another order", "plain", 1),
        ("lowered", "deterministic", 0),
    ):
        update = updates(kind, copy.deepcopy(start))
        steps = batches(videos, frames, interval, batch, seed)
        found[name] = [update(clips.to(cuda), labels.to(cuda))["loss"] for clips, labels in steps]
    return found


def smooth(losses: list[float]) -> np.ndarray:
    return np.convolve(losses, np.ones(SMOOTH) / SMOOTH, "valid")


def distance(entry: dict, name: str) -> float:
    """Mean distance of a smoothed curve from the plain one's."""
    return float(np.abs(smooth(entry["curves"][name]) - smooth(entry["curves"]["plain"])).mean())


def table(figures: list[dict]) -> str:
    columns = (
        "clips of a step", "plain (ms)", "fast (ms)", "deterministic (ms)", "fast", "deterministic", "clips/s",
        "memory (MiB)", "loss differs by", "noise",
    )  # fmt: skip
    kinds = "plain", "fast", "deterministic"
    rows = []
    for entry in figures:
        ms = [entry[kind]["ms"] for kind in kinds]
        rows.append(
            [
                f"{entry['batch']} of {'x'.join(map(str, entry['clip']))}",
                *(f"{value:.1f}" for value in ms),
                *(f"{ms[0] / value:.2f}x" for value in ms[1:]),
                *(" / ".join(str(entry[kind][key]) for kind in kinds) for key in ("clips_per_second", "memory_mib")),
                *(f"{distance(entry, name):.3f}" for name in ("lowered", "plain, another order")),
            ]
        )
    machine = figures[0]["machine"]
    note = f"{PIXELS} x {PIXELS}; {machine['device']}, torch {machine['torch']}, CUDA {machine['cuda']}. The loss's "
    note += (
        f"difference: of the moving means over {SMOOTH} of {CURVE} steps, from plain; the noise is plain training's "
    )
    return f"{markdown_table(columns, rows)}\n\n{note}with another order of the videos."


def plot(figures: list[dict]) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(1, len(figures), figsize=(5 * len(figures), 3.5), layout="constrained")
    for axis, entry in zip(axes, figures, strict=True):
        for name, losses in entry["curves"].items():
            axis.plot(range(SMOOTH, CURVE + 1), smooth(losses), label=name)
        axis.set(title="x".join(map(str, entry["clip"])), xlabel="step", ylabel=f"loss, mean of {SMOOTH} steps")
        axis.legend()
    with replacing(PICTURE) as path:
        figure.savefig(path, format="png", dpi=100)


if __name__ == "__main__":
    run(main)
