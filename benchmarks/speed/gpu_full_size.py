"""The pipeline at full size on an NVIDIA GPU: top-1, clips per second and memory of rows trained for some minutes.

    python benchmarks/speed/gpu_full_size.py [--epochs N]
    python benchmarks/speed/gpu_full_size.py --rows r2plus1d_r34_32x2x1_180e_kinetics400_rgb    # that alone
    python benchmarks/speed/gpu_full_size.py --small     # on the CPU, tiny, writing nothing: whether the script works

Runs the stages in a temporary copy of the project, on the default dataset at full resolution, for the 8x8 (256p) and
the 32x2 row at `scale` 1 with `runtime.lowered: true` in half precision: the networks for GPUs in training and test,
clips from packed frames as ever. Then all views of the validation videos by the plain network with the same weights.

Writes benchmarks/results/gpu_full_size.json and .md, and the table in docs/results.md, after each row; ends with an
error where fewer than 99.5% of the views have the plain network's top-1, or an averaged score is not within 1e-3 of
its.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import RESULTS, BenchmarkError, command_line, gpu, publish
from benchmarks.speed.gpu_inference import LARGEST
from benchmarks.speed.inference import agreement
from r2plus1d.config import files
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system import paths
from r2plus1d.system.files import read_json
from r2plus1d.system.stage import run

ROWS = "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_256p", "r2plus1d_r34_32x2x1_180e_kinetics400_rgb"
COPIED = "stages", "src", "README.md", "metrics", "my_videos", "params.yaml", "dvc.yaml"
EPOCHS = 60
SAME_TOP1 = 0.995  # of the views, at least


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N")
    help_ = "these alone; what was measured of others stays"
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[], metavar="ROW", help=help_)
    parser.add_argument("--small", action="store_true", help="one row, tiny and on the CPU, writing nothing")
    parser.add_argument("--compare", metavar="ROW", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.small and arguments.rows:
        parser.error("--small is of one row: it goes without --rows")
    if arguments.compare:
        print(json.dumps(agreement(arguments.compare)))
        return
    if not arguments.small:
        gpu()
    with tempfile.TemporaryDirectory(prefix="r2plus1d-gpu-") as folder:
        copy = Path(folder, "project")
        prepare(copy, arguments.epochs, arguments.small)
        rows = ROWS[:1] if arguments.small else tuple(dict.fromkeys(arguments.rows)) or ROWS
        known = [] if arguments.small else read_json(RESULTS / "gpu_full_size.json") or []
        found = {entry["row"]: entry for entry in known}
        for row in rows:
            found[row] = measure(copy, row)
            figures = [found[name] for name in ROWS if name in found]
            print(table(figures), flush=True)
            if not arguments.small:
                publish("gpu_full_size", figures, table(figures))  # what is measured stays, whatever comes
    for entry in (found[row] for row in rows):
        if not (entry["same_top1"] >= SAME_TOP1 * entry["views"] and entry["score"] <= LARGEST):
            raise BenchmarkError(f"{entry['row']}: the networks for GPUs do not give the plain network's results")


def prepare(copy: Path, epochs: int, small: bool) -> None:
    """The copy with its parameters, and what the stages before the rows make."""
    copy.mkdir()
    for name in COPIED:
        if Path(name).is_dir():
            shutil.copytree(name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "made_by_*"))
        else:
            shutil.copy(name, copy / name)
    params = files.read_params(paths.PARAMS)
    motion = params["datasets"]["motion"]
    motion["scale"] = {"resolution": 1.0, "width": 1.0, "depth": None}
    motion["runtime"] = {}
    params["runtime"] |= {"device": "cuda", "threads": None, "lowered": True, "arithmetic": "half"}
    motion["train"] |= {"videos_per_gpu": None, "epochs": epochs, "lr": params["recipe"]["train"]["lr"]}
    motion["benchmark"] |= {"warmup_videos": 5, "videos": 100}
    if small:
        motion["scale"] = {"resolution": 0.125, "width": 0.0625, "depth": 10}
        motion["source"] |= {"train_videos": 1, "val_videos": 1, "test_videos": 1}
        params["runtime"] |= {"device": "cpu", "threads": 2}
        motion["train"] |= {"epochs": 1}
        motion["benchmark"] |= {"warmup_videos": 1, "videos": 2}
    (copy / paths.PARAMS).write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    for stage in ("resolve", "scan", "download", "probe", "build_lists"):
        python(copy, f"stages/{stage}.py")


def measure(copy: Path, row: str) -> dict:
    for stage in ("extract_frames", "train", "test", "benchmark"):
        python(copy, f"stages/{stage}.py", row)
    lines = (copy / paths.timed_log(row)).read_text(encoding="utf-8").splitlines()
    steps = [entry for entry in map(json.loads, lines) if entry["mode"] == "train"]
    later = [entry for entry in steps if entry["epoch"] > 1] or steps  # in the first one the GPU's work is recorded
    seconds, waiting = (float(np.mean([entry[key] for entry in later])) for key in ("time", "data_time"))
    train = read_json(copy / paths.row_config(row, "train"))["train"]
    test, rates = (read_json(copy / paths.metrics(row, f"{name}.json")) for name in ("test", "benchmark"))
    compared = python(copy, str(Path(__file__).resolve()), "--compare", row, stdout=subprocess.PIPE)
    return {
        "row": row,
        "epochs": train["epochs"],
        "test": test,
        "clips_per_second": train["videos_per_gpu"] / seconds,
        "waiting": waiting / seconds,
        "memory_mib": max(entry["memory"] for entry in steps),
        "videos_per_second": rates["videos_per_second"],
        **json.loads(compared),  # with the machine
    }


def python(folder: Path, *command: str, stdout: int | None = None) -> str:
    """Runs it there, with the copy's package; what it prints, where asked for."""
    path = os.pathsep.join(filter(None, [str(folder / "src"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, stdout=stdout, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)} ended with status {done.returncode}")
    return done.stdout


def table(figures: Sequence[dict]) -> str:
    columns = (
        "row", "epochs", "top-1", "static control", "clips/s", "waiting for clips", "memory (MiB)", "test, video/s",
        "views with the plain top-1", "scores differ by",
    )  # fmt: skip
    rows = [
        [
            entry["row"],
            entry["epochs"],
            f"{entry['test']['top1']:.1f}",
            f"{entry['test']['static']['top1']:.1f}",
            f"{entry['clips_per_second']:.4g}",
            f"{100 * entry['waiting']:.0f}%",
            entry["memory_mib"],
            entry["videos_per_second"],
            f"{entry['same_top1']} of {entry['views']}",
            f"{entry['score']:.1e}",
        ]
        for entry in figures
    ]
    every, first = [entry["machine"] for entry in figures], figures[0]
    machines = dict.fromkeys(f"{one['device']}, torch {one['torch']}, CUDA {one['cuda']}" for one in every)
    note = (
        f"Default dataset at full resolution: top-1 of {first['test']['videos']} test videos, views of "
        f"{first['videos']} validation videos; {' and '.join(machines)}. Clips/s of training, reading included; "
        "video/s of 30 views."
    )
    return f"{markdown_table(columns, rows)}\n\n{note}"


if __name__ == "__main__":
    run(main)
