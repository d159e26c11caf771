"""Frames per second and core of the extraction, against the original's (MMAction2 0.24.1 with OpenCV) and the ffmpeg
program at equal quality.

    python benchmarks/speed/extraction.py [--videos DIR]

Ours is `extract`, as the stage calls it: decoding, resizing to the short side, JPEG and packing, with the decoder in a
process of its own; without the stage before it, `probe`, which decodes every video once for all rows. The original is
its own tool, build_rawframes.py, into loose files. ffmpeg writes loose JPEG files too, with the lowest quantiser whose
frames are no nearer to the decoded ones than ours (PSNR). It is the program on PATH, or that of the wheel
imageio-ffmpeg, installed into the original's environment (see original/mmaction.py). Medians of turns, on one core and
on two with as many processes. Then the peak memory for a video and for one 30 times as long. Some minutes.

Writes benchmarks/results/extraction.json and .md, and the table in docs/results.md.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import BenchmarkError, chosen_videos, command_line, publish
from benchmarks.original import environment
from benchmarks.original.mmaction import CPU, our_versions
from benchmarks.speed.data_path import generated
from r2plus1d.config.schema import Runtime
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system import device
from r2plus1d.system.machine import cores
from r2plus1d.system.stage import run
from r2plus1d.video import decoding, sandbox, views
from r2plus1d.video.extraction import extract
from r2plus1d.video.groups import Listed, Machines
from r2plus1d.video.probe import probe

FFMPEG = "imageio-ffmpeg==0.8.1"
SHORT_SIDE = 256
SIDES = {"ours": "ours", "original": "the original, OpenCV", "ffmpeg": "ffmpeg"}
QUANTISERS = range(1, 8)
ROUNDS = 5
LOOPS = 30  # of a video, one after the other, make the long one
EVERY = 10  # frames, of which one is compared


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--videos", type=Path, metavar="DIR", help="a folder of videos; default: three generated ones")
    environment.ask(parser)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(**json.loads(options.one))))
        return
    python = environment.ready(options)
    program = ffmpeg_program(python)
    with tempfile.TemporaryDirectory(prefix="extraction-") as name:
        folder = Path(name)
        files = chosen_videos(options.videos, generated, folder)
        qualities = measure_quality(files, folder, python, program)
        quantiser = next(q for q in QUANTISERS if qualities[f"ffmpeg {q}"]["psnr"] <= qualities["ours"]["psnr"])
        counts = sorted({1, min(2, cores())})
        speeds = {n: measure_speed(files, n, python, [program, quantiser]) for n in counts}
        frames = sum(quality["frames"] for quality in qualities["ours"]["videos"])
        memory = [peak_memory(files[0], folder, loops) for loops in (1, LOOPS)]
        figures = {
            "device": device.describe(CPU)["device"],
            "versions": {
                "ours": our_versions(),
                "ffmpeg": version(program),
                "original": speeds[1].pop("versions"),
            },
            "generated": options.videos is None,
            "videos": qualities["ours"]["videos"],
            "short_side": SHORT_SIDE,
            "quantiser": quantiser,
            "quality": {side: {k: found[k] for k in ("psnr", "bytes")} for side, found in qualities.items()},
            "frames_per_second": {n: {side: n * frames / speed[side] for side in SIDES} for n, speed in speeds.items()},
            "memory": memory,
        }
    publish("extraction", figures, report(figures))


def ffmpeg_program(python: Path) -> str:
    if found := shutil.which("ffmpeg"):
        return found
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", FFMPEG], check=True)
    code = "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def version(program: str) -> str:
    said = subprocess.run([program, "-version"], check=True, capture_output=True, text=True).stdout
    return said.split()[2]


# ---- The three extractions: seconds of all videos, frames left in `out` ----


def ours(videos: list[str], out: str, core: int) -> dict:
    """In this process and the one that decodes, once to warm up and once timed; and their peak memory in MiB."""
    os.sched_setaffinity(0, {core})
    device.prepare(Runtime(device="cpu", gpus=1, threads=1, lowered=True, arithmetic="exact"))
    folder, names = Path(out, "videos"), [Path(name).name for name in videos]
    folder.mkdir()
    for name, path in zip(names, videos, strict=True):
        (folder / name).symlink_to(path)
    listed, work, alone = [Listed(name) for name in names], Path(out, "work"), Machines(workers=0)
    readable, _, unreadable = probe(folder, listed, Path(out, "looking"), alone)
    if unreadable:
        raise BenchmarkError(f"{unreadable[0].path}: {unreadable[0].reason}")
    counts = {video.path: video.frames for video in readable}
    for _ in range(2):
        began = time.perf_counter()
        extract(folder, listed, counts, SHORT_SIDE, work, Path(out, "packed"), alone)
        seconds = time.perf_counter() - began
    memory = {"extraction": peak("self"), "decoder": peak(sandbox._own.process._popen.pid)}
    return {"seconds": seconds, "memory_mib": memory}


def peak(process: int | str) -> int:
    """Of a process that runs, in MiB (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)


def our_process(videos: list[str], out: str, core: int) -> dict:
    job = json.dumps({"videos": videos, "out": out, "core": core})
    return environment.called([sys.executable, __file__, "--one", job], "ours")


def original(videos: list[str], out: str, core: int, python: Path) -> dict:
    job = {"what": "extraction", "videos": videos, "out": out, "short_side": SHORT_SIDE, "core": core}
    command = [python, "-W", "ignore", environment.THEIRS / "data.py", json.dumps(job)]
    found = environment.called(command, "original")
    return {"seconds": sum(found["seconds"]), "versions": found["versions"]}


def ffmpeg(videos: list[str], out: str, core: int, program: str, quantiser: int) -> dict:
    """A process for each video, as the program is used."""
    before, began = os.sched_getaffinity(0), time.perf_counter()
    os.sched_setaffinity(0, {core})  # of this thread, and of what it starts
    for path in videos:
        folder = Path(out, Path(path).stem)
        folder.mkdir()
        quality = ["-q:v", str(quantiser), "-qmin", "1"]
        scale = f"scale=w='if(gt(iw,ih),-2,{SHORT_SIDE})':h='if(gt(iw,ih),{SHORT_SIDE},-2)'"
        source = [program, "-nostdin", "-v", "error", "-threads", "1", "-i", path, "-an"]
        filters = ["-vf", scale, "-threads", "1", "-filter_threads", "1"]
        subprocess.run([*source, *filters, *quality, str(folder / "img_%05d.jpg")], check=True)
    os.sched_setaffinity(0, before)
    return {"seconds": time.perf_counter() - began}


# ---- What is measured ----


def measure_speed(files: list[Path], processes: int, python: Path, options: list) -> dict:
    """Median seconds of one process for all videos, with so many processes at once, each on a core of its own."""
    own = sorted(os.sched_getaffinity(0))[-processes:]
    paths = [str(file.resolve()) for file in files]
    sides = {"ours": (our_process,), "original": (original, python), "ffmpeg": (ffmpeg, *options)}
    rounds: dict[str, list[float]] = {side: [] for side in sides}
    versions = None
    for _ in range(ROUNDS):
        for side, (function, *more) in sides.items():
            with tempfile.TemporaryDirectory() as out, ThreadPoolExecutor(processes) as threads:
                folders = [Path(out, str(core)) for core in own]
                for folder in folders:
                    folder.mkdir()
                tasks = [threads.submit(function, paths, str(f), c, *more) for f, c in zip(folders, own, strict=True)]
                done = [task.result() for task in tasks]
            versions = done[0].get("versions", versions)
            rounds[side].append(statistics.mean(one["seconds"] for one in done))
    found = {side: statistics.median(seconds) for side, seconds in rounds.items()}
    print(f"{processes}: {found}", flush=True)
    return found | {"versions": versions}


def measure_quality(files: list[Path], folder: Path, python: Path, program: str) -> dict[str, dict]:
    """PSNR in dB over all videos' compared frames, and bytes of all frames, by what wrote them."""
    core, paths = sorted(os.sched_getaffinity(0))[-1], [str(file.resolve()) for file in files]
    outs = {name: folder / name for name in ("ours", "original", *(f"ffmpeg {q}" for q in QUANTISERS))}
    for out in outs.values():
        out.mkdir()
    our_process(paths, str(outs["ours"]), core)
    for shard in outs["ours"].glob("packed/*.tar"):
        shutil.unpack_archive(shard, outs["ours"], filter="data")
    original(paths, str(outs["original"]), core, python)
    for q in QUANTISERS:
        ffmpeg(paths, str(outs[f"ffmpeg {q}"]), core, program, q)
    found: dict[str, dict] = {name: {"errors": [], "bytes": 0, "videos": []} for name in outs}
    for file in files:
        images = [image for image in decoding.decode(file) if image is not None]  # all are
        height, width = images[0].shape[:2]
        size = views.short_side_size(height, width, SHORT_SIDE)
        for name, out in outs.items():
            jpegs = sorted((out / (file.name if name == "ours" else file.stem)).iterdir())
            if len(jpegs) != len(images):
                raise BenchmarkError(f"{name}: {len(jpegs)} frames of {file.name}, which has {len(images)}")
            for image, jpeg in list(zip(images, jpegs, strict=True))[::EVERY]:
                written = cv2.imread(str(jpeg), cv2.IMREAD_COLOR_RGB)
                if written is None:
                    raise BenchmarkError(f"{name}: {jpeg.name} of {file.name} is no picture")
                found[name]["errors"].append(float(np.square(written.astype(float) - views.shrink(image, size)).mean()))
            found[name]["bytes"] += sum(jpeg.stat().st_size for jpeg in jpegs)
            about = {"name": file.name, "width": size[1], "height": size[0], "frames": len(images)}
            found[name]["videos"].append(about)
    for quality in found.values():
        quality["psnr"] = 10 * float(np.log10(255**2 / np.mean(quality.pop("errors"))))
    return found


def peak_memory(file: Path, folder: Path, loops: int) -> dict:
    """For the packets of a video, so many times one after the other: {"frames", "extraction", "decoder"} in MiB."""
    out = folder / f"memory {loops}"
    out.mkdir()
    long, frames = out / f"{loops}.mp4", 0
    with av.open(str(long), "w") as target:
        stream = None
        for loop in range(loops):
            with av.open(str(file)) as source:
                given = source.streams.video[0]
                stream = stream or target.add_stream_from_template(given)
                shift = loop * (given.duration or 0)
                for packet in source.demux(given):
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        packet.stream = stream
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        target.mux(packet)
                        frames += 1
    return {"frames": frames, **our_process([str(long)], str(out), sorted(os.sched_getaffinity(0))[-1])["memory_mib"]}


# ---- The report ----


def report(figures: dict) -> str:
    """Markdown."""
    rows = []
    for n, speeds in figures["frames_per_second"].items():
        for side, label in SIDES.items():
            quality = figures["quality"][f"ffmpeg {figures['quantiser']}" if side == "ffmpeg" else side]
            name = f"{label} -q:v {figures['quantiser']}" if side == "ffmpeg" else label
            ratio = f"{speeds['ours'] / speeds[side]:.2f}x"
            numbers = [f"{speeds[side]:.0f}", ratio, f"{quality['psnr']:.2f}", f"{quality['bytes'] / 1e6:.1f}"]
            rows.append([n, name, *numbers])
    videos = [f"{v['name']} ({v['width']}x{v['height']}, {v['frames']} frames)" for v in figures["videos"]]
    memory = "; ".join(
        f"{entry['frames']:,} frames: {entry['extraction']} MiB, and {entry['decoder']} of the process that decodes"
        for entry in figures["memory"]
    )
    versions = figures["versions"]
    ours, original = (", ".join(f"{k} {v}" for k, v in versions[side].items()) for side in ("ours", "original"))
    return "\n".join(
        [
            markdown_table(["cores", "extraction", "frames/s", "ours is", "PSNR (dB)", "size (MB)"], rows),
            "",
            f"Frames at short side {figures['short_side']}, as JPEG; PSNR against the decoded frames. Medians of "
            f"{ROUNDS} turns; {figures['device']}. Peak memory of ours, for a video of {memory}; importing the package "
            "with torch takes most of the first.",
            "",
            f"{'Generated videos' if figures['generated'] else 'Videos'}: {', '.join(videos)}. Ours: {ours}. "
            f"Original: {original}. ffmpeg {versions['ffmpeg']}.",
        ]
    )


if __name__ == "__main__":
    run(main)
