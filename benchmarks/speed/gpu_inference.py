"""Inference on an NVIDIA GPU against the plain network: milliseconds a video, peak memory, what it does to the scores.

    python benchmarks/speed/gpu_inference.py     # two minutes

One video's 30 views of 256 x 256 from 300 frames, frames on the GPU, by the full-size network with random weights:
`plain` in float32 as the original computes it, with cuDNN free to choose; `lowered` by `model.cuda.inference`, from
uint8 frames, in the pipeline's deterministic settings, eagerly and recorded. The plain network's normalisation is not
counted. Each kind of clip in a process of its own, with no compiled kernel from before.

Writes benchmarks/results/gpu_inference.json and .md, and the table in docs/results.md; ends with an error where scores
differ by more than 1e-3, or in a second run at all.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import BenchmarkError, command_line, gpu, milliseconds, publish, settled
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system.stage import run

CLIPS = ((8, 8), (32, 2))
FRAMES, PIXELS, CROPS, VIDEOS = 300, 256, 3, 8
LARGEST = 1e-3  # difference of an averaged score


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    if clip := parser.parse_args().one:
        print(json.dumps(measure(*clip)))
        return
    gpu()
    figures = [apart(clip) for clip in CLIPS]
    print(table(figures))
    publish("gpu_inference", figures, table(figures))
    for entry in figures:
        if not (entry["score_difference"] <= LARGEST and entry["lowered"]["same_bytes"]):
            raise BenchmarkError(f"clips of {entry['clip']}: the scores are not the plain network's, or not repeatable")


def apart(clip: tuple[int, int]) -> dict:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--one", *map(str, clip)]
        environment = {**os.environ, "TRITON_CACHE_DIR": cache}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"clips of {clip} ended with status {done.returncode}")
    return json.loads(done.stdout)


def measure(frames: int, interval: int) -> dict:
    import torch  # noqa: PLC0415 (not in the process that starts this one)

    from r2plus1d.clips.sampling import test_indices  # noqa: PLC0415
    from r2plus1d.model.cuda.inference import Inference  # noqa: PLC0415
    from r2plus1d.system.device import describe, peak_memory_mib, reset_peak_memory  # noqa: PLC0415
    from r2plus1d.video.views import to_input  # noqa: PLC0415

    cuda = gpu()
    model = settled(cuda)
    distinct, places = np.unique(test_indices(FRAMES, frames, interval, 10), return_inverse=True)
    own = torch.from_numpy(places.reshape(10, frames))
    views = torch.cat([own + crop * len(distinct) for crop in range(CROPS)])
    shape = CROPS * len(distinct), PIXELS, PIXELS, 3
    videos = [torch.randint(0, 256, shape, dtype=torch.uint8, device=cuda) for _ in range(VIDEOS)]
    result = {"clip": [frames, interval], "machine": describe(cuda), "distinct_frames": len(distinct)}
    with torch.inference_mode():
        x = to_input(videos[0][views.to(cuda)], cuda).contiguous()
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        reset_peak_memory(cuda)
        result["plain"] = {"ms": milliseconds(lambda x=x: model(x)), "memory_mib": peak_memory_mib(cuda)}
        plain = [model(to_input(video[views.to(cuda)], cuda).contiguous()) for video in videos]
        del x
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.cuda.empty_cache()
        began = time.perf_counter()
        fast = Inference(copy.deepcopy(model)).to(cuda)
        first = fast.from_frames(videos[0], views)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        reset_peak_memory(cuda)
        tables = fast.tables(views, cuda)
        eager = milliseconds(lambda: fast.compute(videos[0], tables))
        again = [fast.from_frames(video, views) for video in videos]
        recorded = milliseconds(lambda: fast.from_frames(videos[0], views))
        result["lowered"] = {
            "ms": recorded,
            "eager_ms": eager,
            "memory_mib": peak_memory_mib(cuda),
            "first_result_s": round(seconds, 2),
            "same_bytes": bool(torch.equal(first, again[0])),
        }
    pairs = list(zip(again, plain, strict=True))
    result["score_difference"] = max((a.softmax(1).mean(0) - b.softmax(1).mean(0)).abs().max().item() for a, b in pairs)
    result["logit_difference"] = max((a - b).abs().max().item() for a, b in pairs)
    result["logit_spread"] = plain[0].std().item()
    result["ratio"] = round(result["plain"]["ms"] / recorded, 2)
    return result


def table(figures: list[dict]) -> str:
    columns = (
        "clip", "plain (ms)", "lowered (ms)", "eagerly (ms)", "ratio", "video/s", "memory (MiB)", "first result (s)",
        "scores differ by", "same bytes again",
    )  # fmt: skip
    rows = []
    for entry in figures:
        plain, lowered = entry["plain"], entry["lowered"]
        rows.append(
            [
                "x".join(map(str, entry["clip"])),
                *(f"{ms:.2f}" for ms in (plain["ms"], lowered["ms"], lowered["eager_ms"])),
                f"{entry['ratio']}x",
                f"{1000 / plain['ms']:.1f} / {1000 / lowered['ms']:.1f}",
                f"{plain['memory_mib']} / {lowered['memory_mib']}",
                str(lowered["first_result_s"]),
                f"{entry['score_difference']:.1e}",
                "yes" if lowered["same_bytes"] else "no",
            ]
        )
    machine = figures[0]["machine"]
    note = (
        f"30 views of a video of {FRAMES} frames, {PIXELS} x {PIXELS}; {machine['device']}, torch {machine['torch']}, "
    )
    return f"{markdown_table(columns, rows)}\n\n{note}CUDA {machine['cuda']}. Two figures: plain / lowered."


if __name__ == "__main__":
    run(main)
