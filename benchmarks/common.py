"""What several benchmarks need: their command line, where results go, and how times are taken.

Imports no torch: a benchmark that starts processes to measure their memory must be small itself.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from r2plus1d.config.schema import Runtime
from r2plus1d.results.markdown import into_document
from r2plus1d.system import arithmetic, paths
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import write_json, write_text
from r2plus1d.system.stage import run

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ARITHMETICS = {"pinned": "pinned", "own": "the processor's own"}
ROUNDS, REPEATS = 5, 5  # on a GPU, after one round to warm up


class BenchmarkError(UserError):
    """A measurement that cannot be made, did not end, or shows something wrong."""


# ---- Command line and results ----


def command_line(doc: str) -> argparse.ArgumentParser:
    """A parser whose --help is the script's own description."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def publish(name: str, data: Any, text: str, caption: str | None = None) -> None:
    """Writes benchmarks/results/<name>.json and .md, and the text between the markers of that name in docs/results.md.

    `data` is None where a script keeps its figures in a form of its own. With a caption, the document shows
    benchmarks/results/<name>.png too.
    """
    if data is not None:
        write_json(RESULTS / f"{name}.json", data)
    write_text(RESULTS / f"{name}.md", text + "\n")
    picture = f"\n\n![{caption}](../benchmarks/results/{name}.png)" if caption else ""
    into_document(ROOT / paths.RESULTS, name.replace("_", " "), text + picture)


# ---- Times on the CPU, each figure from a process of its own ----


def start(doc: str, main: Callable[[bool], None], measure: Callable[..., dict]) -> None:
    """A benchmark's command line: `main`, given whether at full size too, or what `call` asks of its process."""
    parser = command_line(doc)
    parser.add_argument("--full", action="store_true", help="at full size too")
    parser.add_argument("--one", nargs=2, metavar=("ARITHMETIC", "TASK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.one:
        run(lambda: main(arguments.full))
        return
    own, task = arguments.one
    if own == "pinned":
        arithmetic.pin()  # before the first operation
    print(json.dumps(measure(**json.loads(task))))


def turns(task: dict, variants: Sequence[str], rounds: int, script: str) -> dict:
    """What `script` measures of the task with each variant in each arithmetic: medians over the rounds, by arithmetic
    and variant; and the machine."""
    found: dict[str, dict[str, list[dict]]] = {own: {variant: [] for variant in variants} for own in ARITHMETICS}
    for _ in range(rounds):
        for own, variant in itertools.product(ARITHMETICS, variants):
            found[own][variant].append(call({"variant": variant, **task}, own, script))
    first = found["pinned"][variants[0]][0]
    keys = [key for key in first if key != "machine"]
    medians = {
        own: {v: {key: statistics.median(r[key] for r in done) for key in keys} for v, done in by_variant.items()}
        for own, by_variant in found.items()
    }
    return {"machine": first["machine"]} | medians


def call(task: dict, own: str, script: str) -> dict:
    """What `script --one` prints of the task, in a process and an arithmetic of its own."""
    command = [sys.executable, script, "--one", own, json.dumps(task)]
    done = subprocess.run(command, env=unpinned(), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{task} ended with status {done.returncode}; memory may be short")
    return json.loads(done.stdout)


def unpinned() -> dict[str, str]:
    """The variables of this process without those that pin the arithmetic."""
    return {key: value for key, value in os.environ.items() if key not in arithmetic.PINNED}


# ---- Times on an NVIDIA GPU ----


def gpu():
    """The device, in the pipeline's settings. Raises BenchmarkError where there is none."""
    import torch  # noqa: PLC0415

    from r2plus1d.system.device import prepare  # noqa: PLC0415

    if not torch.cuda.is_available():
        raise BenchmarkError("this measures an NVIDIA GPU, and torch finds none here")
    return prepare(Runtime(device="cuda", gpus=1, threads=None, lowered=True))


def settled(device):
    """The full-size network with random weights and the statistics of some clips, so that activations stay in range."""
    import torch  # noqa: PLC0415

    from r2plus1d.model.network import build  # noqa: PLC0415
    from r2plus1d.system.device import seed_everything  # noqa: PLC0415

    seed_everything(0)
    model = build().to(device).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, 3, 8, 112, 112, device=device))
    return model.eval()


def milliseconds(work: Callable[[], object]) -> float:
    """The median over some rounds of the mean of some repeats, by the GPU's clock."""
    import torch  # noqa: PLC0415

    rounds = []
    for _ in range(1 + ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(REPEATS):
            work()
        end.record()
        torch.cuda.synchronize()
        rounds.append(begin.elapsed_time(end) / REPEATS)
    return round(statistics.median(rounds[1:]), 3)
