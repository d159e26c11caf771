"""Clips per second and core against the original, MMAction2 0.24.1: from packed frames and from videos, for training
and for the test's 30 views.

    python benchmarks/speed/data_path.py [--videos DIR]

Makes the original's environment at its first run (see original/mmaction.py). Each figure is the median of turns, ours
and the original's one after the other, each in a process of its own on one processor core, in the processor time that
it took; from the same seeds both read the same frames, crops and flips. Ten minutes. The generated videos are noise in
motion, 340x256, 300 frames, in h264 as x264 encodes by itself.

How many cores feed a GPU follows from benchmarks/results/gpu_training.json, where that is: the rates of its training
steps. With --report, nothing is measured, and that file read again.

Writes benchmarks/results/data_path.json and .md, and the table in docs/results.md.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import RESULTS, chosen_videos, command_line, publish
from benchmarks.original import environment
from benchmarks.original.mmaction import CPU, Inputs, gather, our_versions, published_rows, seeded_twice
from r2plus1d.clips.items import TestVideos, TrainClips, training_clip
from r2plus1d.config.schema import Runtime
from r2plus1d.datasets.annotations import parse
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system import device
from r2plus1d.system.files import read_json
from r2plus1d.system.stage import run
from r2plus1d.video.views import to_input

OUT = RESULTS / "data_path.json"
GPU = RESULTS / "gpu_training.json"
CELLS = list(itertools.product(("training", "test"), ("frames", "video"), ((8, 8), (32, 2))))
VIEWS = 30  # of a video, in the test
BATCH = 8
SEEDS = 16  # training clips of each video
ROUNDS = 3


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--videos", type=Path, metavar="DIR", help="a folder of videos; default: three generated ones")
    environment.ask(parser)
    parser.add_argument("--report", action="store_true", help="only write the table, with the GPU's rates")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(json.loads(options.one))))
        return
    if options.report:
        finish(json.loads(OUT.read_text()))
        return
    python = environment.ready(options)
    with tempfile.TemporaryDirectory(prefix="data-") as name:
        folder = Path(name)
        files = chosen_videos(options.videos, generated, folder)
        inputs = gather(files, folder, {"256p": 256})
        cells = [measure(*cell, inputs, python) for cell in CELLS]
    figures = {
        "device": device.describe(CPU)["device"],
        "versions": {"ours": our_versions() | {"opencv": cv2.__version__}, "original": cells[0].pop("versions")},
        "generated": options.videos is None,
        "videos": inputs.described,
        "cells": [{key: value for key, value in cell.items() if key != "versions"} for cell in cells],
    }
    finish(figures)


def finish(figures: dict) -> None:
    figures["feeding"] = feeding(figures["cells"])
    publish("data_path", figures, report(figures))


def generated(folder: Path) -> list[Path]:
    """Three videos of smoothed noise that moves, faster in each; the encoder's own settings but one thread."""
    files = []
    for speed in (1, 3, 6):
        noise = np.random.default_rng(speed).integers(0, 256, (256 + 300, 340 + 300 * speed, 3), np.uint8)
        field = cv2.GaussianBlur(noise, (0, 0), 3) // 2 + cv2.GaussianBlur(noise, (0, 0), 12) // 2
        files.append(folder / f"noise_{speed}.mp4")
        with av.open(str(files[-1]), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
            stream.codec_context.thread_count = 1
            for n in range(300):
                image = np.ascontiguousarray(field[n : n + 256, n * speed : n * speed + 340])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            container.mux(stream.encode(None))
    return files


def measure(use: str, source: str, clip: tuple[int, int], inputs: Inputs, python: Path) -> dict:
    """Medians over the rounds of the clips or views per second, of all videos and of each."""
    job = {"what": "clips", "use": use, "input": source, "clip": clip, "seeds": SEEDS if use == "training" else 1}
    job |= {"list": str(inputs.folder / f"{source}.txt"), "core": sorted(os.sched_getaffinity(0))[-1]}
    loose = str(inputs.folder / ("loose/256p" if source == "frames" else "videos"))
    own = job | {"folder": str(inputs.folder)}
    command, theirs = [sys.executable, __file__, "--one"], [python, "-W", "ignore", environment.THEIRS / "data.py"]
    sides: dict[str, list] = {
        "ours": [*command, json.dumps(own | {"normalise": False})],
        "normalised": [*command, json.dumps(own | {"normalise": True})],
        "original": [*theirs, json.dumps(job | {"prefix": loose})],
    }
    rounds = [{side: environment.called(command, side) for side, command in sides.items()} for _ in range(ROUNDS)]
    count = SEEDS if use == "training" else VIEWS
    found = {"use": use, "input": source, "clip": clip, "versions": rounds[0]["original"]["versions"]}
    for side in sides:
        seconds = np.array([turn[side]["seconds"] for turn in rounds])  # [rounds, videos]
        found[side] = {
            "clips_per_second": statistics.median(count * seconds.shape[1] / seconds.sum(1)),
            "by_video": np.median(count / seconds, axis=0).tolist(),
        }
    found["ratio"] = found["ours"]["clips_per_second"] / found["original"]["clips_per_second"]
    print(f"{use}, {source}, {clip[0]}x{clip[1]}: {found['ratio']:.2f}x", flush=True)
    return found


def ours(job: dict) -> dict:
    """Seconds of each video, in this process: up to the batch of uint8 that the device gets, or `normalise`d here."""
    os.sched_setaffinity(0, {job["core"]})
    device.prepare(Runtime(device="cpu", gpus=1, threads=1, lowered=True, arithmetic="exact"))  # as the stages do
    samples = parse((Path(job["folder"]) / "frames.txt").read_text(), "frames.txt")
    row = published_rows(None)[1][0]
    length, interval = job["clip"]
    clip = row.clip.model_copy(update={"input": job["input"], "frames": length, "frame_interval": interval})
    row = row.model_copy(update={"clip": clip, "resolution": "256p"})
    reader = Inputs(Path(job["folder"]), samples, []).reader(row)

    def training(number: int) -> None:
        clips = TrainClips(row, samples, reader)
        for first in range(0, job["seeds"], BATCH):
            drawn = (training_clip(row, samples[number], reader, seeded_twice(first + n)) for n in range(BATCH))
            batch, _ = clips.collate([(torch.from_numpy(clip), 0) for clip in drawn])
            if job["normalise"]:
                to_input(batch, CPU)

    def test(number: int) -> None:
        video = TestVideos(row, samples, reader)[number]
        crops = video.crops(row)
        if job["normalise"]:
            to_input(crops[video.places(row)], CPU)

    read = {"training": training, "test": test}[job["use"]]
    read(0)
    seconds = []
    for number in range(len(samples)):
        began = time.process_time()
        read(number)
        seconds.append(time.process_time() - began)
    return {"seconds": seconds}


def feeding(cells: list[dict]) -> list[dict]:
    """The cores that read as many clips as a GPU trains on: of each of its measured clips and input."""
    measured = (read_json(GPU) or {}).get("figures", [])
    rates = {tuple(entry["clip"]): entry["native"]["clips_per_second"] for entry in measured}
    return [
        {
            "input": cell["input"],
            "clip": cell["clip"],
            "gpu_clips_per_second": rates[tuple(cell["clip"])],
            "cores": rates[tuple(cell["clip"])] / cell["ours"]["clips_per_second"],
        }
        for cell in cells
        if cell["use"] == "training" and tuple(cell["clip"]) in rates
    ]


COLUMNS = (
    "use",
    "input",
    "clip",
    "ours",
    "ours, normalised on the CPU",
    "original",
    "ratio",
    "least and most of a video",
)


def report(figures: dict) -> str:
    """Markdown."""
    rows = []
    for cell in figures["cells"]:
        each = [a / b for a, b in zip(cell["ours"]["by_video"], cell["original"]["by_video"], strict=True)]
        speeds = [cell[side]["clips_per_second"] for side in ("ours", "normalised", "original")]
        rates = [f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}" for speed in speeds]
        names = [
            cell["use"],
            {"frames": "packed frames", "video": "videos"}[cell["input"]],
            "x".join(map(str, cell["clip"])),
        ]
        rows.append([*names, *rates, f"{cell['ratio']:.2f}x", f"{min(each):.2f}x to {max(each):.2f}x"])
    ours, original = (
        ", ".join(f"{k} {v}" for k, v in figures["versions"][side].items()) for side in ("ours", "original")
    )
    videos = [f"{v['name']} ({v['width']}x{v['height']}, {v['frames']} frames)" for v in figures["videos"]]
    lines = [
        markdown_table(list(COLUMNS), rows),
        "",
        "Clips (in the test: views) per second of one core's time, over all videos; medians of "
        f"{ROUNDS} turns; {figures['device']}. Ours is everything up to the uint8 batch that the device gets and "
        "normalises; the original's is its pipeline as published, up to the float32 clip. Where ours reads packed "
        "frames, the original reads the same JPEG files, loose.",
        "",
        f"{'Generated videos' if figures['generated'] else 'Videos'}: {', '.join(videos)}. Ours: {ours}. "
        f"Original: {original}.",
    ]
    for entry in figures["feeding"]:
        kind = {"frames": "packed frames", "video": "videos"}[entry["input"]]
        lines += [
            "",
            f"- {entry['cores']:.1f} cores feed the {entry['gpu_clips_per_second']:.0f} clips per second that one GPU "
            f"trains on (`benchmarks/results/gpu_training.json`), of {'x'.join(map(str, entry['clip']))} from {kind}.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
