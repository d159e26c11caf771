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
from r2plus1d.system.arithmetic import Arithmetic
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ROUNDS, REPEATS = 5, 5  # on a GPU, after one round to warm up


class BenchmarkError(UserError):
    """A measurement that cannot be made, did not end, or shows something wrong."""


# ---- Command line and results ----


def command_line(doc: str) -> argparse.ArgumentParser:
    """A parser whose --help is the script's own description."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def chosen_videos(given: Path | None, generated: Callable[[Path], list[Path]], folder: Path) -> list[Path]:
    """Those of the folder that `--videos` names, else generated ones, in `folder`. Raises BenchmarkError for none."""
    if given is None:
        return generated(folder)
    files = sorted(given.glob("*.mp4"))
    if not files:
        raise BenchmarkError(f"{given} holds no .mp4")
    return files


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


def answer(measure: Callable[..., dict]) -> None:
    """Does and prints what `call` asks of a process of its own, and ends it; returns where this is none."""
    if "--one" not in sys.argv:
        return
    task = json.loads(sys.argv[-1])
    if task["arithmetic"] == "exact":
        arithmetic.pin()  # before the first operation
    print(json.dumps(measure(**task)))
    sys.exit()


def turns(ways: Sequence[str], measured: Callable[[str], dict], rounds: int) -> dict[str, dict]:
    """What is measured in each way, one after the other in every round: medians of the seconds and the memory, and the
    rest of the first."""
    found: dict[str, list[dict]] = {way: [] for way in ways}
    for _, way in itertools.product(range(rounds), ways):
        found[way].append(measured(way))
        print(f"{way}: {found[way][-1]['seconds']:.4g} s", flush=True)
    keys = "seconds", "memory_mib"
    return {way: done[0] | {k: statistics.median(one[k] for one in done) for k in keys} for way, done in found.items()}


def ours(way: str, task: dict, script: str) -> dict:
    """What the script measures of the task in a way, such as `exact plain`: an arithmetic and a variant."""
    kind, variant = way.split(" ")
    return call({"arithmetic": kind, "variant": variant, **task}, script)


def call(task: dict, script: str) -> dict:
    """What `measure` of the script returns of the task, in a process of its own."""
    command = [sys.executable, script, "--one", json.dumps(task)]
    done = subprocess.run(command, env=unpinned(), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{task} ended with status {done.returncode}; memory may be short")
    return json.loads(done.stdout.splitlines()[-1])


def unpinned() -> dict[str, str]:
    """The variables of this process without those that pin the arithmetic."""
    return {key: value for key, value in os.environ.items() if key not in arithmetic.PINNED}


# ---- Times on an NVIDIA GPU ----


def gpu(arithmetic: Arithmetic = "half", lowered: bool = True):
    """The device, in the pipeline's settings for it, by default those of the networks for GPUs. Raises BenchmarkError
    where there is none."""
    import torch  # noqa: PLC0415

    from r2plus1d.system.device import prepare  # noqa: PLC0415

    if not torch.cuda.is_available():
        raise BenchmarkError("this measures an NVIDIA GPU, and torch finds none here")
    return prepare(Runtime(device="cuda", gpus=1, threads=None, lowered=lowered or "auto", arithmetic=arithmetic))


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
