"""Fifteen training steps against the original's, MMAction2: the same weights, clips and processor.

    python benchmarks/original/training.py [--environment DIR]

Uses the environment that `original/mmaction.py` makes, and makes it if it is missing. An 18-layer network of an eighth
of the width, batches of four clips of 4 x 32 x 32, the published SGD with clipping at 40 and a cosine over five epochs.
Both sides run in the processor's own arithmetic, with 1 and with 2 threads. Such small batches make the training
chaotic, so that one rounding apart would show: expect the losses and gradient norms equal to the bit, and different
ones with another number of threads. Some seconds.

Writes benchmarks/results/mmaction_training.json and .md, and the sentence in docs/results.md. The exit status is 1 if
the first step differs by more than rounding.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import command_line, publish
from benchmarks.original import environment
from r2plus1d.system.stage import run

NETWORK: dict[str, Any] = {"depth": 18, "num_classes": 5, "width": 8, "dropout": 0.0}


def main(options: argparse.Namespace) -> None:
    python = environment.ready(options)
    sides: dict[str, list] = {
        "ours": [sys.executable, __file__, "--one"],
        "original": [python, environment.THEIRS / "training.py"],
    }
    steps = {}
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder))
        for threads in ("1", "2"):
            for side, (interpreter, *script) in sides.items():
                command = [interpreter, "-W", "ignore", *script, folder, threads]
                steps[f"{side}, {threads} threads"] = environment.called(command, side, pinned=False)
    figures = {threads: compare(steps, threads) for threads in ("1", "2")}
    apart = furthest(steps["original, 1 threads"], steps["original, 2 threads"])
    print(sentence(figures, apart))
    data = {"steps": steps, "compared": figures, "original_alone": apart}
    publish("mmaction_training", data, sentence(figures, apart))
    if max(found["first_step"] for found in figures.values()) > 1e-4:
        sys.exit("the first step differs by more than rounding")


def make_inputs(folder: Path) -> None:
    """weights.pth in the original's format, and clips [BATCHES, 4, 3, 4, 32, 32] with labels."""
    import torch  # noqa: PLC0415

    from benchmarks.original.steps import BATCHES  # noqa: PLC0415
    from r2plus1d.model import checkpoint, network  # noqa: PLC0415

    torch.manual_seed(0)
    checkpoint.export_mmaction(network.build(**NETWORK), folder / "weights.pth")
    clips, labels = torch.randn(BATCHES, 4, 3, 4, 32, 32), torch.randint(5, (BATCHES, 4))
    torch.save({"clips": clips, "labels": labels}, folder / "clips.pt")


def ours(folder: Path, threads: int) -> list[tuple[float, float]]:
    import torch  # noqa: PLC0415

    from benchmarks.original.steps import MAX_NORM, train  # noqa: PLC0415
    from r2plus1d.model import checkpoint  # noqa: PLC0415
    from r2plus1d.zoo import update  # noqa: PLC0415

    torch.set_num_threads(threads)
    network = checkpoint.adopt(folder / "weights.pth", NETWORK)

    def step(optimizer, clips, labels):
        done = update.step(network, optimizer, clips, labels, MAX_NORM)
        return done["loss"], done["grad_norm"]

    return train(network, step, folder)


def compare(steps: dict, threads: str) -> dict:
    a, b = steps[f"ours, {threads} threads"], steps[f"original, {threads} threads"]
    equal = sum(x == y for x, y in zip(a, b, strict=True))
    return {"equal_steps": equal, "of": len(a), "first_step": furthest(a[:1], b[:1]), "furthest": furthest(a, b)}


def furthest(a: list, b: list) -> float:
    """The largest difference of a loss, as a share of it."""
    return max(abs(x[0] / y[0] - 1) for x, y in zip(a, b, strict=True))


def sentence(figures: dict, apart: float) -> str:
    parts = [
        f"with {threads} thread{'s' * (threads != '1')}, {found['equal_steps']} of {found['of']} training steps have "
        f"the same loss and gradient norm to the bit (largest difference of a loss: {found['furthest']:.1g})"
        for threads, found in figures.items()
    ]
    return (
        f"On the same processor, {' and '.join(parts)}; the original with 1 thread and with 2 differs by {apart:.1g}."
    )


if __name__ == "__main__":
    parser = command_line(__doc__)
    environment.ask(parser)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:  # in the processor's own arithmetic, which `run` would pin
        print(json.dumps(ours(Path(options.one[0]), int(options.one[1]))))
    else:
        run(lambda: main(options))
