"""Inference on an NVIDIA GPU against the plain network: milliseconds a video, peak memory, what it does to the scores.

    python benchmarks/speed/gpu_inference.py     # some minutes

One video's 30 views of 256 x 256 from 300 frames, frames on the GPU, by the full-size network with random weights:
`plain` in float32 as the original computes it, with cuDNN free to choose, its normalisation not counted; `exact`,
`native` and `half` the plain network as `runtime.arithmetic` has it computed; `lowered` by `model.cuda.inference`, in
the pipeline's deterministic settings, eagerly and recorded. These four from uint8 frames. Each kind of clip in a
process of its own, with no compiled kernel from before.

Writes benchmarks/results/gpu_inference.json and .md, and the table in docs/results.md; ends with an error where scores
differ by more than 1e-3, or in a second run at all.
"""

import argparse
import copy
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import BenchmarkError, command_line, gpu, milliseconds, publish, settled
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system.arithmetic import Arithmetic
from r2plus1d.system.stage import run

ARITHMETICS: tuple[Arithmetic, ...] = ("exact", "native", "half")
CLIPS = ((8, 8), (32, 2))
FRAMES, PIXELS, CROPS, VIDEOS = 300, 256, 3, 8
LARGEST = 1e-3  # difference of an averaged score


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    if clip := parser.parse_args().one:
        for found in measure(*clip):
            print(json.dumps(found), flush=True)
        return
    gpu()
    figures: list[dict] = []
    for clip in CLIPS:
        before = figures
        for found in apart(clip):
            figures = [*before, found]
            print(table(figures), flush=True)
            publish("gpu_inference", figures, table(figures))  # what is measured stays, whatever comes
    for entry in figures:
        differ = max(entry[kind]["score_difference"] for kind in (*ARITHMETICS, "lowered"))
        if not (differ <= LARGEST and entry["lowered"]["same_bytes"]):
            raise BenchmarkError(f"clips of {entry['clip']}: the scores are not the plain network's, or not repeatable")


def apart(clip: tuple[int, int]) -> Iterator[dict]:
    """What `measure` yields in a process of its own."""
    command = [sys.executable, __file__, "--one", *map(str, clip)]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TRITON_CACHE_DIR": cache}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            yield from map(json.loads, process.stdout or ())
    if process.returncode:
        raise BenchmarkError(f"clips of {clip} ended with status {process.returncode}")


def measure(frames: int, interval: int) -> Iterator[dict]:
    """The figures without `lowered`, whose kernels take minutes to compile, and then with it."""
    import torch  # noqa: PLC0415 (not in the process that starts this one)

    from r2plus1d.clips.sampling import test_indices  # noqa: PLC0415
    from r2plus1d.model.cuda.inference import Inference  # noqa: PLC0415
    from r2plus1d.model.lowered import for_inference  # noqa: PLC0415
    from r2plus1d.system.device import describe, peak_memory_mib, reset_peak_memory  # noqa: PLC0415
    from r2plus1d.video.views import to_input  # noqa: PLC0415

    cuda = gpu()
    model = settled(cuda)
    distinct, places = np.unique(test_indices(FRAMES, frames, interval, 10), return_inverse=True)
    own = torch.from_numpy(places.reshape(10, frames))
    views = torch.cat([own + crop * len(distinct) for crop in range(CROPS)])
    shape = CROPS * len(distinct), PIXELS, PIXELS, 3
    videos = [torch.randint(0, 256, shape, dtype=torch.uint8, device=cuda) for _ in range(VIDEOS)]
    result: dict[str, Any] = {
        "clip": [frames, interval],
        "machine": describe(cuda),
        "distinct_frames": len(distinct),
    }
    with torch.inference_mode():
        x = to_input(videos[0][views.to(cuda)], cuda).contiguous()
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        reset_peak_memory(cuda)
        result["plain"] = {"ms": milliseconds(functools.partial(model, x)), "memory_mib": peak_memory_mib(cuda)}
        plain = [model(to_input(video[views.to(cuda)], cuda).contiguous()) for video in videos]
        del x
        for arithmetic in ARITHMETICS:
            torch.cuda.empty_cache()
            gpu(arithmetic, lowered=False)
            network = for_inference(model, cuda, arithmetic=arithmetic)
            found = [network.from_frames(video, views) for video in videos]
            reset_peak_memory(cuda)
            ms = milliseconds(functools.partial(network.from_frames, videos[0], views))
            result[arithmetic] = {"ms": ms, "memory_mib": peak_memory_mib(cuda), **beside(found, plain)}
            del network
        result["logit_spread"] = plain[0].std().item()
        yield result
        gpu()
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
        result["lowered"] |= beside(again, plain)
        yield result


def beside(found: list, plain: list) -> dict:
    """How far logits are from the plain network's: of the averaged scores and of the logits the largest difference."""
    pairs = list(zip(found, plain, strict=True))
    scores = max((a.softmax(1).mean(0) - b.softmax(1).mean(0)).abs().max().item() for a, b in pairs)
    return {"score_difference": scores, "logit_difference": max((a - b).abs().max().item() for a, b in pairs)}


def table(figures: list[dict]) -> str:
    columns = "clip", "network", "ms a video", "video/s", "times plain", "memory (MiB)", "scores differ by"
    rows = []
    for entry in figures:
        clip = "x".join(map(str, entry["clip"]))
        for kind in (kind for kind in ("plain", *ARITHMETICS, "lowered") if kind in entry):
            one = entry[kind]
            cells = f"{one['ms']:.2f}", f"{1000 / one['ms']:.1f}", f"{entry['plain']['ms'] / one['ms']:.2f}x"
            differ = "" if kind == "plain" else f"{one['score_difference']:.1e}"
            rows.append([clip, kind, *cells, str(one["memory_mib"]), differ])
    machine = figures[0]["machine"]
    note = (
        f"30 views of a video of {FRAMES} frames, {PIXELS} x {PIXELS}; {machine['device']}, torch {machine['torch']}, "
        f"CUDA {machine['cuda']}."
    )
    if lowered := [entry["lowered"] for entry in figures if "lowered" in entry]:
        eager, first = (" and ".join(f"{one[key]:.4g}" for one in lowered) for key in ("eager_ms", "first_result_s"))
        same = "the same bytes again" if all(one["same_bytes"] for one in lowered) else "NOT the same bytes again"
        note += f" `lowered` not recorded: {eager} ms; its first result, with all that is compiled: {first} s; {same}."
    return f"{markdown_table(columns, rows)}\n\n{note}"


if __name__ == "__main__":
    run(main)
