"""A training step on an NVIDIA GPU against the plain one: milliseconds, peak memory, and 120 steps' loss.

    python benchmarks/speed/gpu_training.py                # five minutes
    python benchmarks/speed/gpu_training.py --no-curves    # three; the losses stay those of the results that are there

A step is forward, backward, clipping and SGD, from clips on the GPU, at full size and the rows' videos per GPU:
`plain` in float32 as the original computes it, with cuDNN free to choose; `exact`, `native` and `half` the plain
network as `runtime.arithmetic` has it computed; `lowered` by `model.cuda.training`, in the pipeline's settings, and
`free` the same with cuDNN free to choose. Then the loss over 120 steps on views of 96 generated
videos, plain, plain with another order of the videos (the noise), and lowered.

Writes benchmarks/results/gpu_training.json, .md and .png, and the table in docs/results.md; ends with an error where
the loss is further from the plain one's than 1.5 times that noise.
"""

import copy
import functools
import itertools
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import RESULTS, BenchmarkError, command_line, gpu, milliseconds, publish, settled
from r2plus1d.clips.sampling import train_indices
from r2plus1d.datasets import motion
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system.arithmetic import Arithmetic
from r2plus1d.system.files import read_json, replacing
from r2plus1d.system.pool import spread
from r2plus1d.system.stage import run
from r2plus1d.video import views

PICTURE = RESULTS / "gpu_training.png"
KINDS: dict[str, tuple[bool, Arithmetic]] = {  # whether the networks for GPUs, and what is computed in
    "plain": (False, "exact"),
    "exact": (False, "exact"),
    "native": (False, "native"),
    "half": (False, "half"),
    "lowered": (True, "half"),
    "free": (True, "half"),
}
CLIPS = ((8, 8, 8), (32, 2, 6))  # frames, interval, videos of a step
PIXELS, SHORT_SIDE = 224, 256
CURVE, SMOOTH = 120, 20  # steps; steps of the moving average
EACH = 8  # videos of a class
NOISE = 1.5  # times the noise's own distance is still noise
LR, MOMENTUM, DECAY, NORM = 0.01, 0.9, 1e-4, 40.0


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--no-curves", action="store_true", help="measure the times alone")
    alone = parser.parse_args().no_curves
    before = read_json(RESULTS / "gpu_training.json") if alone else None
    if alone and not before:
        raise BenchmarkError("there are no losses from before: run without --no-curves")
    figures = [measure(*clip) for clip in CLIPS]
    videos = (
        [] if alone else list(spread(video, list(itertools.product(range(len(motion.CLASSES)), range(EACH))), None))
    )
    for number, (entry, clip) in enumerate(zip(figures, CLIPS, strict=True)):
        entry["curves"] = before["figures"][number]["curves"] if before else curves(videos, *clip)
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
    for name in KINDS:
        update = stepping(name, settled(cuda))
        reset_peak_memory(cuda)
        update(clips, labels)
        ms = milliseconds(functools.partial(update, clips, labels))
        print(f"{batch} of {frames}x{interval}, {name}: {ms:.1f} ms", flush=True)
        result[name] = {"ms": ms, "clips_per_second": round(1000 * batch / ms, 1), "memory_mib": peak_memory_mib(cuda)}
        del update
        torch.cuda.empty_cache()
    return result


def stepping(name: str, model):
    """A training step of the network, a function of uint8 clips and labels; sets how free cuDNN is."""
    import torch  # noqa: PLC0415

    from r2plus1d.model.lowered import for_training  # noqa: PLC0415
    from r2plus1d.zoo.update import updates  # noqa: PLC0415

    lowered, arithmetic = KINDS[name]
    gpu(arithmetic, lowered)
    if name in ("plain", "free"):
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    model = model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    network = for_training(model, next(model.parameters()).device, lowered, arithmetic)
    update = updates(network, optimizer, NORM)
    return lambda clips, labels: update([(clips, labels)], len(labels))


def video(place: tuple[int, int]) -> tuple[np.ndarray, int]:
    """uint8 [T, H, W, 3] and label, as they are drawn, not encoded."""
    label, index = place
    planes = motion.render(0, 0, label, index, SHORT_SIDE)
    frames = [cv2.cvtColor(np.ascontiguousarray(p[[0, 2, 1]].transpose(1, 2, 0)), cv2.COLOR_YCrCb2RGB) for p in planes]
    return np.stack(frames), label


def batches(videos: list, frames: int, interval: int, batch: int, seed: int) -> Iterator:
    """Clips and labels of each step, cut by threads while the steps before are computed."""
    import torch  # noqa: PLC0415

    def drawn(step: int) -> tuple:
        rng = np.random.default_rng([seed, step])
        clips, labels = [], []
        for index in rng.choice(len(videos), batch, replace=False):
            content, label = videos[index]
            chosen = content[train_indices(len(content), frames, interval, rng=rng)[0]]
            height, width = chosen.shape[1:3]
            box = views.random_resized_crop_box(height, width, rng, (0.6, 1.0))
            clip = views.resize(np.ascontiguousarray(views.crop(chosen, box)), (PIXELS, PIXELS))
            clips.append(torch.from_numpy(np.ascontiguousarray(clip)))
            labels.append(label)
        return torch.stack(clips), torch.tensor(labels)

    with ThreadPoolExecutor() as threads:
        yield from threads.map(drawn, range(CURVE))


def curves(videos: list, frames: int, interval: int, batch: int) -> dict[str, list[float]]:
    cuda = gpu()
    start = settled(cuda)
    found = {}
    for name, kind, seed in (
        ("plain", "plain", 0),
        ("plain, another order", "plain", 1),
        ("lowered", "lowered", 0),
    ):
        update = stepping(kind, copy.deepcopy(start))
        steps = batches(videos, frames, interval, batch, seed)
        found[name] = [update(clips.to(cuda), labels.to(cuda))["loss"] for clips, labels in steps]
    return found


def smooth(losses: list[float]) -> np.ndarray:
    return np.convolve(losses, np.ones(SMOOTH) / SMOOTH, "valid")


def distance(entry: dict, name: str) -> float:
    """Mean distance of a smoothed curve from the plain one's."""
    return float(np.abs(smooth(entry["curves"][name]) - smooth(entry["curves"]["plain"])).mean())


def table(figures: list[dict]) -> str:
    columns = "clips of a step", "network", "ms a step", "clips/s", "times plain", "memory (MiB)"
    rows = []
    for entry in figures:
        clips = f"{entry['batch']} of {'x'.join(map(str, entry['clip']))}"
        for kind, one in ((kind, entry[kind]) for kind in KINDS if kind in entry):
            times = f"{entry['plain']['ms'] / one['ms']:.2f}x"
            cells = f"{one['ms']:.1f}", str(one["clips_per_second"]), times, str(one["memory_mib"])
            rows.append([clips, kind, *cells])
    machine = figures[0]["machine"]
    own, noise = (
        " and ".join(f"{distance(entry, name):.3f}" for entry in figures)
        for name in ("lowered", "plain, another order")
    )
    note = (
        f"{PIXELS} x {PIXELS}; {machine['device']}, torch {machine['torch']}, CUDA {machine['cuda']}. The loss of "
        f"`lowered` differs by {own} from the plain one's, that of plain training with another order of the videos by "
        f"{noise}: mean distances of the moving means over {SMOOTH} of {CURVE} steps."
    )
    return f"{markdown_table(columns, rows)}\n\n{note}"


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
