"""The time and the disk that one test takes, as of finished weights: with frames that are packed first, and with frames
that are made when a clip is read.

    python benchmarks/speed/storage.py [--videos DIR]

Each figure is the median of turns, each in a process of its own on one core, in the processor time that it and its
decoders took. `packed` extracts all frames of every video, as the stage does, and reads the views from them;
`on_the_fly` reads the same views from the videos. Two minutes. The generated videos are noise in motion, 340x256, 300
frames. The views of both ways are compared: they must be the same.

Writes benchmarks/results/storage.json and .md, and the table in docs/results.md.
"""

import functools
import hashlib
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

import psutil
import torch

from benchmarks.common import BenchmarkError, answer, call, chosen_videos, command_line, publish, turns
from benchmarks.original.mmaction import published_rows
from benchmarks.speed.data_path import generated
from r2plus1d.clips.items import TestVideos
from r2plus1d.config.schema import Runtime
from r2plus1d.datasets.annotations import Sample
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system.device import peak_memory_mib, prepare
from r2plus1d.system.machine import processor
from r2plus1d.system.stage import run
from r2plus1d.video import extraction
from r2plus1d.video.groups import Listed, Machines
from r2plus1d.video.probe import probe
from r2plus1d.video.reading import VideoReader
from r2plus1d.video.shards import FrameReader

WAYS = ("packed", "on_the_fly")
CLIPS = (8, 8), (32, 2)
SHORT_SIDES = 256, 320
ROUNDS = 3
ALONE = Machines(workers=0)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--videos", type=Path, metavar="DIR", help="a folder of videos; default: three generated ones")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storage-") as name:
        files = chosen_videos(options.videos, generated, Path(name))
        figures = [compared(clip, side, files) for clip, side in zip(CLIPS, SHORT_SIDES, strict=True)]
    data = {
        "device": processor(),
        "generated": options.videos is None,
        "videos": [file.name for file in files],
        "clips": figures,
    }
    publish("storage", data, report(data))


def compared(clip: tuple[int, int], short_side: int, files: list[Path]) -> dict:
    """The figures of both ways. Raises BenchmarkError where their views differ."""
    task = {"arithmetic": "exact", "clip": clip, "short_side": short_side, "files": [str(f.absolute()) for f in files]}
    views = set()

    def measured(way: str) -> dict:
        figures = call(task | {"storage": way}, __file__)
        views.add(figures.pop("views"))
        return figures

    found = turns(WAYS, measured, ROUNDS)
    if len(views) > 1:
        raise BenchmarkError(f"clips of {clip[0]}x{clip[1]}: the views of {' and '.join(WAYS)} differ")
    return {"clip": clip, "short_side": short_side, **found}


def measure(arithmetic: str, clip: list[int], short_side: int, files: list[str], storage: str) -> dict:
    """Of this process: for a video the seconds and the bytes on disk, and a hash of all views."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    prepare(Runtime(device="cpu", gpus=1, threads=1, lowered=True, arithmetic="exact"))  # as the stages do
    row = published_rows(None)[1][0]
    shape = {"frames": clip[0], "frame_interval": clip[1]}
    row = row.model_copy(update={"clip": row.clip.model_copy(update=shape)})
    with tempfile.TemporaryDirectory(prefix="storage-") as name:
        folder, size = Path(name), 0
        (folder / "videos").mkdir()
        for number, file in enumerate(files):
            (folder / "videos" / f"{number}.mp4").symlink_to(file)
        listed = [Listed(f"{number}.mp4") for number in range(len(files))]
        counts = {video.path: video.frames for video in probe(folder / "videos", listed, folder / "looking", ALONE)[0]}
        reader: FrameReader | VideoReader
        samples, began = [Sample(path, count, 0) for path, count in counts.items()], spent()
        if storage == "packed":
            packed = folder / "frames"
            extraction.extract(folder / "videos", listed, counts, short_side, folder / "work", packed, ALONE)
            size, reader = sum(file.stat().st_size for file in packed.iterdir()), FrameReader(packed)
        else:
            reader = VideoReader(folder / "videos", functools.partial(extraction.packed, short_side=short_side))
        views, videos = hashlib.sha256(), TestVideos(row, samples, reader)
        for number in range(len(samples)):
            views.update(videos[number].views(row).numpy().data)
        seconds = spent() - began
    memory = peak_memory_mib(torch.device("cpu"))
    return {
        "seconds": seconds / len(samples),
        "memory_mib": memory,
        "bytes": size / len(samples),
        "views": views.hexdigest(),
    }


def spent() -> float:
    """Seconds of processor time of this process and of those that decode for it."""
    own = psutil.Process()
    times = [own.cpu_times(), *(child.cpu_times() for child in own.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def report(data: dict) -> str:
    """Markdown."""
    lines = []
    for entry in data["clips"]:
        packed, made = entry["packed"], entry["on_the_fly"]
        times = [f"{entry[way]['seconds']:.2f}" for way in WAYS]
        name = f"{'x'.join(map(str, entry['clip']))}, {entry['short_side']}p"
        memory = " / ".join(f"{entry[way]['memory_mib']:.0f}" for way in WAYS)
        ratio, size = packed["seconds"] / made["seconds"], packed["bytes"] / 1e6
        lines.append([name, *times, f"{ratio:.2f}x", f"{size:.1f}", memory])
    return "\n".join(
        [
            markdown_table(["views of", "packed (s)", "on the fly (s)", "ratio", "packed (MB)", "memory (MiB)"], lines),
            "",
            "Of a video, for one test: processor seconds of one core until its 30 views are there, and the disk that "
            f"its packed frames take; medians of {ROUNDS} turns, of {', '.join(data['videos'])}; {data['device']}. "
            "Both give the same views, to the bit.",
        ]
    )


if __name__ == "__main__":
    answer(measure)
    run(main)
