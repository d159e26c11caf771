"""Inference against the plain network: seconds a video, peak memory, and what it does to the scores.

    python benchmarks/speed/inference.py          # a network and videos of the default dataset's size: some minutes
    python benchmarks/speed/inference.py --full   # at full size too, of the middle crop: half an hour

Each figure comes from a process of its own, in turns, so that a slow minute of the machine meets all. `plain` is
the network as it is trained; `lowered` the one that `lowered.for_inference` makes of it, given every view by itself;
`shared` the same, given the video's distinct frames, as the pipeline does. Each of them in the pinned arithmetic of the
pipeline, and in the processor's own. Then the views of all validation videos, by the trained rows that are there.

Writes benchmarks/results/inference.json and .md, and the table in docs/results.md.
"""

import itertools
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import ARITHMETICS, publish, start, turns
from r2plus1d.config.schema import Runtime, TestedRow
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system import paths
from r2plus1d.system.machine import cores

VARIANTS = "plain", "lowered", "shared"
FRAMES = 300  # of the video, ten seconds as in Kinetics
FULL, SCALED = (34, 64, 256, 340, 1), (10, 8, 64, 86, 3)  # depth, width, height and width of the frames, crops
CLIPS = ((8, 8), (32, 2))
ROUNDS = {SCALED: 3, FULL: 2}
WARM_UP, TIMED = 2, 2  # in each process: the memory of the first two times is new to it


def main(full: bool) -> None:
    figures = {"timings": [], "scores": []}
    for size, clip in itertools.product((SCALED, FULL) if full else (SCALED,), CLIPS):
        task = {"size": size, "clip": clip}
        figures["timings"].append(task | turns(task, VARIANTS, ROUNDS[size], __file__))
        print(table(figures), flush=True)
    # Not before: a process's peak memory counts from that of the one which started it.
    figures["scores"] = [agreement(name) for name in trained_rows()]
    publish("inference", figures, table(figures))


def measure(variant: str, size: list[int], clip: list[int]) -> dict:
    """Of this process: a video's ten clips of each crop; and how far two clips' logits are from the plain network's, by
    these' standard deviation."""
    import torch  # noqa: PLC0415 (not in the process that starts this one)

    from r2plus1d.clips.sampling import test_indices  # noqa: PLC0415
    from r2plus1d.model.lowered import for_inference  # noqa: PLC0415
    from r2plus1d.model.network import build  # noqa: PLC0415
    from r2plus1d.system.device import describe, peak_memory_mib, prepare, seed_everything  # noqa: PLC0415
    from r2plus1d.video.views import three_crop_boxes, to_input  # noqa: PLC0415

    depth, width, h, w, count = size
    cpu = prepare(Runtime(device="cpu", gpus=1, threads=cores(), lowered=True))

    def network() -> torch.nn.Module:
        seed_everything(0)
        return build(depth=depth, width=width).eval()

    model = network() if variant == "plain" else for_inference(network(), cpu)
    distinct, places = np.unique(test_indices(FRAMES, *clip, 10), return_inverse=True)
    video = torch.randint(0, 256, (len(distinct), h, w, 3), dtype=torch.uint8)
    crops = torch.cat([video[:, y0:y1, x0:x1] for x0, y0, x1, y1 in three_crop_boxes(h, w, h)[-count:]])
    indices = torch.cat([torch.from_numpy(places.reshape(10, -1)) + crop * len(distinct) for crop in range(count)])
    views = None if variant == "shared" else crops[indices]

    @torch.inference_mode()
    def forward(clips: slice) -> torch.Tensor:
        if views is None:
            return model.from_frames(crops, indices[clips])
        return model(to_input(views[clips], cpu))

    every, two, seconds = slice(None), slice(2), []
    for _ in range(WARM_UP + TIMED):
        began = time.perf_counter()
        forward(every)
        seconds.append(time.perf_counter() - began)
    timed = statistics.median(seconds[WARM_UP:])
    result = {"seconds": timed, "memory_mib": peak_memory_mib(cpu), "machine": describe(cpu)}
    with torch.inference_mode():
        plain = network()(to_input(crops[indices[two]], cpu))
    return result | {"difference": ((forward(two) - plain).abs().max() / plain.std()).item()}


def trained_rows() -> list[str]:
    """Those of the default dataset that `make repro` trained."""
    names = [path.parent.name for path in sorted(paths.CONFIGS.glob("*/test.json"))]
    return [name for name in names if paths.weights(name).is_file()]


def agreement(name: str) -> dict:
    """The trained network's views of all validation videos, plain and as the pipeline computes them."""
    from r2plus1d.clips.items import TestVideos  # noqa: PLC0415
    from r2plus1d.model import checkpoint  # noqa: PLC0415
    from r2plus1d.model.lowered import Plain, for_inference  # noqa: PLC0415
    from r2plus1d.system.device import prepare  # noqa: PLC0415
    from r2plus1d.system.progress import progress  # noqa: PLC0415
    from r2plus1d.zoo import accuracy, evaluation  # noqa: PLC0415
    from r2plus1d.zoo.rows import open_row  # noqa: PLC0415

    row = open_row(name, TestedRow)
    device = prepare(row.config.runtime)
    model = checkpoint.restore(paths.weights(name))
    models = Plain(model).to(device), for_inference(model, device, row.config.runtime.lowered)
    videos = TestVideos(row.config, row.splits["val"], row.reader)
    same, differences = [], []
    for number in progress(range(len(videos)), len(videos), f"comparing {name}", "videos"):
        video = videos[number]
        inputs = video.crops(row.config), video.places(row.config), device
        plain, fast = (evaluation.logits(network, *inputs).cpu().numpy() for network in models)
        same.append(plain.argmax(1) == fast.argmax(1))
        averaged = [accuracy.average_views(stack, row.config.test.average_clips) for stack in (plain, fast)]
        differences.append(float(np.abs(averaged[0] - averaged[1]).max()))
    return {"row": name, "views": int(np.size(same)), "same_top1": int(np.sum(same)), "score": max(differences)}


def table(figures: dict) -> str:
    columns = ["network", "views", "arithmetic", *(f"{v} (s)" for v in VARIANTS), "lowered", "shared", "memory (MiB)"]
    rows = []
    for entry in figures["timings"]:
        depth, width, h, _, count = entry["size"]
        frames, interval = entry["clip"]
        for own, label in ARITHMETICS.items():
            seconds = [entry[own][variant]["seconds"] for variant in VARIANTS]
            memory = " / ".join(str(round(entry[own][variant]["memory_mib"])) for variant in VARIANTS)
            ratios = [f"{seconds[0] / other:.2f}x" for other in seconds[1:]]
            head = [f"{depth} layers, width {width}", f"{10 * count} of {frames}x{interval}, {h} x {h}", label]
            rows.append([*head, *(f"{s:.3g}" for s in seconds), *ratios, memory])
    machine = figures["timings"][0]["machine"]
    text = f"{markdown_table(columns, rows)}\n\nOf a video of {FRAMES} frames; medians of 3 turns, 2 at full size; "
    text += f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}."
    timings = itertools.product(figures["timings"], ARITHMETICS, VARIANTS)
    difference = max(entry[own][variant]["difference"] for entry, own, variant in timings)
    text += f" Logits differ from the plain network's by {difference:.1e} of their standard deviation at most."
    if scores := figures["scores"]:
        views, same = (sum(score[key] for score in scores) for key in ("views", "same_top1"))
        largest = max(score["score"] for score in scores)
        text += f" Trained rows, all validation videos: {same} of {views} views with the same top-1 as the plain "
        text += f"network; averaged scores differ by {largest:.1e} at most."
    return text


if __name__ == "__main__":
    start(__doc__, main, measure)
