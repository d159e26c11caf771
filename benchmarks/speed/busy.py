"""A training beside other work: steps a second of two threads on two cores, alone and not.

    python benchmarks/speed/busy.py     # eight minutes; the machine should be idle

The default dataset's network, 8 x 56 x 56 clips in steps of 16, with as many threads as the process has cores: alone;
beside another such training; beside as many processes that compute without OpenMP. With `system.waiting`, as the stages
train, and without, as libgomp waits by itself. Of the fair share, half of the rate alone: what each of two trainings
got, on average. Turn by turn, each training in a process of its own, which also says the hash of its weights after ten
steps.

Writes benchmarks/results/busy.json and .md, and the table in docs/results.md; ends with an error where weights differ.
"""

import hashlib
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import BenchmarkError, command_line, publish, unpinned
from r2plus1d.config.schema import Runtime
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system import arithmetic, waiting
from r2plus1d.system.machine import cores
from r2plus1d.system.stage import run

BESIDE = {"alone": (1, 0), "another training": (2, 0), "processes that compute": (1, None)}  # None: one a core
WAYS = "with", "without"
SECONDS, WARM, HASHED, ROUNDS = 12, 4, 10, 3
SPIN = "while True: pass"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--train", choices=WAYS, help="the training of one process")
    if way := parser.parse_args().train:
        print(json.dumps(train(way)))
        return
    found: dict[str, list[dict]] = {}
    for _, (beside, way) in itertools.product(range(ROUNDS), itertools.product(BESIDE, WAYS)):
        done = together(beside, way)
        found.setdefault(f"{beside}, {way}", []).extend(done)
        rates = ", ".join(f"{one['rate']:.2f}" for one in done)
        print(f"{beside}, {way}: {rates} steps/s", flush=True)
    hashes = {one["weights"] for done in found.values() for one in done}
    figures = {
        "machine": found["alone, with"][0]["machine"],
        "rates": {key: statistics.mean(one["rate"] for one in done) for key, done in found.items()},
        "same_bytes": len(hashes) == 1,
    }
    print(table(figures))
    publish("busy", figures, table(figures))
    if not figures["same_bytes"]:
        raise BenchmarkError("the weights are not the same in all of them")


def together(beside: str, way: str) -> list[dict]:
    trainings, others = BESIDE[beside]
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(cores() if others is None else others)]
    try:
        command = [sys.executable, __file__, "--train", way]
        started = [
            subprocess.Popen(command, env=unpinned(), stdout=subprocess.PIPE, text=True) for _ in range(trainings)
        ]
        said = [process.communicate()[0] for process in started]
    finally:
        for process in spinning:
            process.kill()
    if any(process.returncode for process in started):
        raise BenchmarkError(f"a training {beside}, {way} failed")
    return [json.loads(one.splitlines()[-1]) for one in said]


def train(way: str) -> dict:
    import torch  # noqa: PLC0415 (the process that starts this one needs none)

    from r2plus1d.model.lowered import for_training  # noqa: PLC0415
    from r2plus1d.model.network import build  # noqa: PLC0415
    from r2plus1d.system.device import describe, prepare, seed_everything  # noqa: PLC0415
    from r2plus1d.zoo.update import step  # noqa: PLC0415

    arithmetic.pin()
    if way == "without":
        waiting.watch = lambda threads: None
    cpu = prepare(Runtime(device="cpu", gpus=1, threads=cores(), lowered="auto", arithmetic="exact"))
    seed_everything(0)
    model = build(depth=10, width=8, num_classes=12).train()
    network = for_training(model, cpu)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    x, labels = torch.rand(16, 3, 8, 56, 56) * 4 - 2, torch.arange(16) % 12
    weights, steps, began = "", 0, time.monotonic()
    warm = until = 0.0
    counted = 0
    while not until or time.monotonic() < until or not weights:
        step(network, optimizer, x, labels, 40.0)
        steps += 1
        if steps == HASHED:
            whole = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
            weights = hashlib.sha256(whole).hexdigest()
        if not until and time.monotonic() > began + WARM:
            warm, counted, until = time.monotonic(), steps, time.monotonic() + SECONDS
    rate = (steps - counted) / (time.monotonic() - warm)
    return {"rate": rate, "weights": weights, "machine": describe(cpu)}


def table(figures: dict) -> str:
    alone = figures["rates"]["alone, without"]
    rows = []
    for beside in BESIDE:
        rates = [figures["rates"][f"{beside}, {way}"] for way in WAYS]
        fair = alone if beside == "alone" else alone / 2
        shares = [f"{100 * rate / fair:.0f}%" for rate in rates]
        rows.append([beside, *(f"{rate:.2f}" for rate in rates), f"{fair:.2f}", *shares])
    columns = "beside", "with (steps/s)", "without (steps/s)", "fair share", "of that, with", "of that, without"
    machine = figures["machine"]
    same = "the same weights in all" if figures["same_bytes"] else "NOT the same weights in all"
    note = f"Means of {ROUNDS} turns of {SECONDS} s; {machine['device']}, {machine['threads']} threads, torch "
    return f"{markdown_table(columns, rows)}\n\n{note}{machine['torch']}; {same}."


if __name__ == "__main__":
    run(main)
