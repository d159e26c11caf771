"""A training step on the CPU against the plain one: seconds, peak memory, and what exact arithmetic costs.

    python benchmarks/speed/training_cpu.py          # a network and clips of the default dataset's size: two minutes
    python benchmarks/speed/training_cpu.py --full   # at full size too: five minutes more

A step is forward, backward, clipping and SGD, on random clips. `plain` is the network as the original computes it;
`lowered` the one that `lowered.for_training` makes of it. Each in `exact` and in `native` arithmetic; each figure from
processes of its own, in turns, so that a slow minute of the machine meets all.

Writes benchmarks/results/training_cpu.json and .md, and the table in docs/results.md; on a processor without AVX-512
training_cpu_without_avx512.json and .md, and the second table.
"""

import functools
import itertools
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import answer, command_line, ours, publish, turns
from r2plus1d.config.schema import Runtime
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system.arithmetic import Arithmetic
from r2plus1d.system.machine import cores, flags
from r2plus1d.system.stage import run

ROUNDS = 3
ARITHMETICS, VARIANTS = ("exact", "native"), ("plain", "lowered")
# depth, width, frames of a clip, interval, pixels, clips of a step, steps
SCALED = ((10, 8, 8, 8, 56, 16, 12), (10, 8, 32, 2, 56, 6, 8))
FULL = ((34, 64, 8, 8, 224, 2, 2),)  # of a single clip torch computes many convolutions without oneDNN


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--full", action="store_true", help="at full size too")
    ways = [f"{kind} {variant}" for kind, variant in itertools.product(ARITHMETICS, VARIANTS)]
    sizes = (*SCALED, *(FULL if parser.parse_args().full else ()))
    figures = []
    for size in sizes:
        measured = functools.partial(ours, task={"size": size}, script=__file__)
        figures.append({"size": size, "ways": turns(ways, measured, ROUNDS)})
    print(table(figures))
    publish("training_cpu" if "avx512f" in flags() else "training_cpu_without_avx512", figures, table(figures))


def measure(arithmetic: Arithmetic, variant: str, size: list[int]) -> dict:
    """Of this process: the median of some steps after two to warm up."""
    import torch  # noqa: PLC0415 (not in the process that starts this one)

    from r2plus1d.model.lowered import for_training  # noqa: PLC0415
    from r2plus1d.model.network import build  # noqa: PLC0415
    from r2plus1d.system.device import describe, peak_memory_mib, prepare, seed_everything  # noqa: PLC0415
    from r2plus1d.zoo.update import step  # noqa: PLC0415

    depth, width, frames, _, pixels, clips, steps = size
    cpu = prepare(Runtime(device="cpu", gpus=1, threads=cores(), lowered=variant == "lowered", arithmetic=arithmetic))
    seed_everything(0)
    model = build(depth=depth, width=width, num_classes=12).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    network = for_training(model, cpu, variant == "lowered")
    x, labels = torch.rand(clips, 3, frames, pixels, pixels) * 4 - 2, torch.arange(clips) % 12
    seconds = []
    for _ in range(2 + steps):
        began = time.perf_counter()
        step(network, optimizer, x, labels, 40.0)
        seconds.append(time.perf_counter() - began)
    figures = {"seconds": statistics.median(seconds[2:]), "memory_mib": peak_memory_mib(cpu)}
    return figures | {"machine": describe(cpu)}


def table(figures: list[dict]) -> str:
    head = "network", "clips of a step", "arithmetic"
    columns = *head, "plain (s)", "lowered (s)", "lowered", "memory (MiB)", "exact"
    rows = []
    for entry in figures:
        depth, width, frames, interval, pixels, clips, _ = entry["size"]
        ways = entry["ways"]
        for kind in ARITHMETICS:
            plain, lowered = (ways[f"{kind} {variant}"]["seconds"] for variant in VARIANTS)
            memory = " / ".join(str(round(ways[f"{kind} {variant}"]["memory_mib"])) for variant in VARIANTS)
            cost = ways["exact lowered"]["seconds"] / ways["native lowered"]["seconds"]
            head = f"{depth} layers, width {width}", f"{clips} of {frames}x{interval}, {pixels} x {pixels}", kind
            cells = f"{plain:.3g}", f"{lowered:.3g}", f"{plain / lowered:.2f}x", memory
            rows.append([*head, *cells, f"{cost:.2f}x the time" if kind == "exact" else ""])
    machine = figures[0]["ways"]["exact plain"]["machine"]
    note = f"Seconds a step, medians of {ROUNDS} turns; {machine['device']}, {machine['threads']} threads, "
    return f"{markdown_table(columns, rows)}\n\n{note}torch {machine['torch']}."


if __name__ == "__main__":
    answer(measure)
    run(main)
