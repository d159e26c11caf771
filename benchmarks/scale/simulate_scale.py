"""What every step costs as a dataset grows: the real stages and the real DVC on 12,500 to 100,000 tiny videos.

    python benchmarks/scale/simulate_scale.py [VIDEOS ...]

Makes the videos (different files with the same two frames) and their lists, runs the stages up to `build_lists` on
them, opens a row, and lets DVC hash the results: what depends on the number of videos has its full size, what depends
on their length (decoding, JPEG) is next to nothing. What DVC takes by file and by byte is measured apart. Some 2 GB of
disk below TMPDIR; ten minutes on two cores.

Writes benchmarks/results/scale.json and .md, and the table in docs/results.md.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import ROOT, BenchmarkError, command_line, publish
from r2plus1d.clips import items, loader
from r2plus1d.config import files
from r2plus1d.config.schema import RowConfig
from r2plus1d.datasets import annotations
from r2plus1d.datasets.encode import write_h264
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system.files import write_text
from r2plus1d.system.machine import cores
from r2plus1d.system.progress import progress
from r2plus1d.system.stage import run
from r2plus1d.video import groups
from r2plus1d.zoo import rows

SIZES = [12_500, 25_000, 50_000, 100_000]
KINETICS = 240_436 + 19_796  # videos
CLASSES = 400
VAL_EVERY = 13  # of so many videos one is for validation, as in Kinetics-400
ROWS = "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_256p", "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_320p"  # two short sides
CLIPS = 1000  # read from the row
HASHED = 1 << 30  # bytes
# A small process starts the command: a child's peak counts from the size of the process that forks it.
LAUNCHER = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
with open(sys.argv[1], "w") as file:
    json.dump({"seconds": round(time.perf_counter() - began, 2), "mib": round(peak / 1024)}, file)
sys.exit(code)
"""


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, metavar="VIDEOS")
    measured = []
    for size in parser.parse_args().sizes:
        with tempfile.TemporaryDirectory() as folder:
            measured.append({"videos": size, "cores": cores(), **measure(Path(folder), size)})
        print(json.dumps(measured[-1]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        figures = {"sizes": measured, "dvc": hashing(Path(folder))}
    print(json.dumps(figures["dvc"]), flush=True)
    print(table(figures))
    publish("scale", figures, table(figures))


def measure(folder: Path, size: int) -> dict[str, dict]:
    """Of each step on `size` videos: seconds, and MiB, the peak of the largest of its processes."""
    project = folder / "project"
    make_dataset(folder / "dataset", size)
    make_project(project, folder / "dataset")
    for name in ("resolve", "scan"):
        python(project, f"stages/{name}.py")
    figures = {name: python(project, f"stages/{name}.py")[0] for name in ("download", "probe")}
    packed = [python(project, "stages/extract_frames.py", row)[0] for row in ROWS]
    figures["extract_frames"] = {"seconds": sum(p["seconds"] for p in packed), "mib": max(p["mib"] for p in packed)}
    figures["build_lists"] = python(project, "stages/build_lists.py")[0]
    figures["nothing"] = python(project, "-c", "from r2plus1d.zoo import rows")[0]
    figures["row"], said = python(project, Path(__file__).resolve(), "open", ROWS[-1])
    figures["row"] |= json.loads(said)
    dvc_repository(project)
    last = [f"extract_frames@{row}" for row in ROWS] + ["build_lists"]
    figures["dvc_first"] = call(project, "dvc", "commit", "--force", "resolve", "scan", "download", "probe", *last)[0]
    figures["dvc_again"], said = call(project, "dvc", "repro", *last)
    if "Running stage" in said:
        raise BenchmarkError(f"DVC ran what had not changed:\n{said}")
    return figures


def make_dataset(folder: Path, size: int) -> None:
    """videos/<class>/<id>.mp4, and lists of them in the published formats."""
    write_h264(folder / "one.mp4", np.zeros((2, 3, 32, 42), np.uint8), 25)
    video = (folder / "one.mp4").read_bytes()
    samples: dict[str, list] = {"train": [], "val": []}
    for label in range(CLASSES):
        (folder / "videos" / f"class {label:03}").mkdir(parents=True)
    for number in progress(range(size), size, f"making {size}", "videos"):
        label = number % CLASSES
        path = f"class {label:03}/{number:011}_000000_000010.mp4"
        name = f"{number:011}".encode()
        box = (8 + len(name)).to_bytes(4, "big") + b"free" + name  # players pass over it, so every file differs
        (folder / "videos" / path).write_bytes(video + box)
        samples["val" if number // CLASSES % VAL_EVERY == 0 else "train"].append(annotations.Sample(path, 2, label))
    for split, chosen in samples.items():
        write_text(folder / f"{split}.txt", annotations.format_videos(chosen))


def make_project(folder: Path, dataset: Path) -> None:
    """The stages and parameters of this clone, at a sixteenth of the resolution."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "made_by_*")
    for name in ("stages", "src", "metrics", "my_videos"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    params = files.read_params(ROOT / "params.yaml")
    params["dataset"], entry = "lists", params["datasets"]["lists"]
    entry["path"] = str(dataset / "videos")
    entry["source"] |= {split: str(dataset / f"{split}.txt") for split in ("train", "val")}
    params["scale"]["resolution"] = 0.0625
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def open_row(name: str) -> None:
    """Prints as JSON what a training does before its first step, and the reading of clips."""
    began = time.perf_counter()
    row = rows.open_row(name, RowConfig)
    opened = time.perf_counter()
    handed = pickle.dumps(items.TrainClips(row.config, row.splits["train"], row.reader))  # to every reader process
    pickled = time.perf_counter()
    batches = list(loader.Schedule(len(row.splits["train"]), row.config.train.videos_per_gpu, 0, 0, 1))
    ordered = time.perf_counter()
    dataset = pickle.loads(handed)
    for item in [item for batch in batches for item in batch][:CLIPS]:
        dataset[item]
    read = time.perf_counter()
    figures = {
        "open_seconds": opened - began,
        "pickle_seconds": pickled - opened,
        "pickle_mb": len(handed) / 1e6,
        "epoch_seconds": ordered - pickled,
        "clip_ms": (read - ordered) / CLIPS * 1e3,
    }
    print(json.dumps({key: float(f"{value:.3g}") for key, value in figures.items()}))


def hashing(folder: Path) -> dict[str, float]:
    """Seconds that DVC takes by the byte and by the file, without its own start.

    `gigabyte`: to hash one. `frames_first`, `frames_again`: to hash as many files as hold the frames of Kinetics-400,
    of a kilobyte each, and to find them unchanged. `videos_first`, `videos_again`: the same for its videos, ten times
    what a tenth of them takes.
    """
    files = 2 * 2 * -(-KINETICS // groups.VIDEOS_PER_GROUP) + 2  # .tar, .npy and index for two short sides
    rng = np.random.default_rng(0)
    shapes = {"nothing": (1, 1), "large": (16, HASHED // 16), "frames": (files, 1024), "videos": (KINETICS // 10, 64)}
    for name, (count, size) in shapes.items():
        (folder / name).mkdir()
        for number in range(count):
            (folder / name / f"{number}").write_bytes(rng.bytes(size))
    stages = {name: {"cmd": "exit 1", "outs": [name]} for name in shapes}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    dvc_repository(folder)
    first = {name: call(folder, "dvc", "commit", "--force", name)[0]["seconds"] for name in shapes}
    again = {name: call(folder, "dvc", "repro", name)[0]["seconds"] for name in shapes}
    figures = {
        "gigabyte": (first["large"] - first["nothing"]) / HASHED * 1e9,
        "frames_first": first["frames"] - first["nothing"],
        "frames_again": again["frames"] - again["nothing"],
        "videos_first": 10 * (first["videos"] - first["nothing"]),
        "videos_again": 10 * (again["videos"] - again["nothing"]),
    }
    return {"files": files} | {key: round(value, 2) for key, value in figures.items()}


def dvc_repository(folder: Path) -> None:
    call(folder, "git", "init", "--quiet")
    call(folder, "dvc", "init", "--quiet")
    call(folder, "dvc", "config", "cache.type", "reflink,hardlink,symlink")


def python(project: Path, *arguments: str | Path) -> tuple[dict[str, float], str]:
    return call(project, sys.executable, *map(str, arguments))


def call(folder: Path, *command: str) -> tuple[dict[str, float], str]:
    """({"seconds": ..., "mib": ...}, standard output). Raises BenchmarkError where the command fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "PATH": path}
    with tempfile.NamedTemporaryFile("r") as usage:
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, usage.name]
        done = subprocess.run(
            [*launcher, *command], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise BenchmarkError(f"{' '.join(command)} failed: {done.stdout[-2000:]}")
        return json.load(usage), done.stdout


def table(figures: dict) -> str:
    sizes, dvc = figures["sizes"], figures["dvc"]
    rows = [
        ("manifest: every file found and its SHA-256 (`download`)", "download", "seconds"),
        ("every video looked at (`probe`)", "probe", "seconds"),
        ("frames packed, two short sides (`extract_frames`)", "extract_frames", "seconds"),
        ("lists made and checked (`build_lists`)", "build_lists", "seconds"),
        ("DVC: first hash of all of it", "dvc_first", "seconds"),
        ("DVC: `dvc repro` with nothing to do", "dvc_again", "seconds"),
        ("a row opened: lists and index read", "row", "open_seconds"),
        ("handed to each reader process (MB)", "row", "pickle_mb"),
        ("an epoch's order and batches", "row", "epoch_seconds"),
        ("a training clip read (ms)", "row", "clip_ms"),
        ("peak memory (MiB): `download`", "download", "mib"),
        ("`probe`", "probe", "mib"),
        ("`extract_frames`", "extract_frames", "mib"),
        ("`build_lists`", "build_lists", "mib"),
        ("a row opened, an epoch's order, clips read", "row", "mib"),
        ("DVC", "dvc_first", "mib"),
    ]
    counts = [size["videos"] for size in sizes]
    lines = []
    for label, step, key in rows:
        values = [size[step][key] for size in sizes]
        fitted = np.polyval(np.polyfit(counts, values, min(1, len(counts) - 1)), KINETICS)
        values.append(max(fitted, values[-1]))  # where other work on the machine outweighs the growth
        lines.append([label, *(f"{value:,.0f}" if value >= 100 else f"{value:.2g}" for value in values)])
    columns = ("videos", *(f"{count:,}" for count in counts), f"{KINETICS:,} (on a line through these)")
    note = (
        f"Seconds, unless said; videos of two frames; {sizes[0]['cores']} cores. Memory of the largest process, of "
        f"which importing the package with torch takes {sizes[0]['nothing']['mib']} MiB.\n\n"
        f"The frames of Kinetics-400 at two short sides lie in {dvc['files']:,} files. Once, DVC takes "
        f"{dvc['gigabyte'] / 3.6:.1f} hours to hash a terabyte, if the disk keeps up, and {dvc['frames_first']:.0f} s "
        f"for their number; to find them unchanged, {dvc['frames_again']:.1f} s on top of its own start. All videos, "
        f"copied into the project, would take {dvc['videos_first']:.0f} s and {dvc['videos_again']:.0f} s."
    )
    return f"{markdown_table(columns, lines)}\n\n{note}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["open"]:
        run(open_row, sys.argv[1:])
    else:
        run(main)
