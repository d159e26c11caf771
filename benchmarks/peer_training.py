"""Fifteen training steps of ours beside the original's, MMAction2: the same weights, clips and processor.

    python benchmarks/peer_training.py [--environment DIR]

Uses the environment that `peer_mmaction.py` makes (benchmarks/.peer). An 18-layer network of an eighth of the width,
batches of four clips of 4 x 32 x 32, the published SGD with clipping at 40 and a cosine over five epochs. Both sides
run in the processor's own arithmetic, with 1 and with 2 threads. Such small batches make the training chaotic, so that
one rounding apart would show: expect the losses and gradient norms equal to the bit, and different ones with another
number of threads. Writes metrics/peer_training.json and the README's sentence; some seconds. The exit status is 1 if
the first step differs by more than rounding.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, BATCHES = 5, 3
LR, MAX_NORM = 0.05, 40


def main() -> None:
    from peer_mmaction import unpinned  # noqa: PLC0415

    from r2plus1d.results.markdown import into_readme  # noqa: PLC0415
    from r2plus1d.system.errors import UserError  # noqa: PLC0415
    from r2plus1d.system.files import write_json  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", type=Path, default=ROOT / "benchmarks" / ".peer", metavar="DIR")
    python = parser.parse_args().environment / "bin" / "python"
    if not python.is_file():
        raise UserError(f"{python} is missing; benchmarks/peer_mmaction.py makes this environment")
    steps = {}
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder))
        for threads in ("1", "2"):
            for side, interpreter in (("ours", sys.executable), ("original", python)):
                command = [interpreter, "-W", "ignore", __file__, side, folder, threads]
                done = subprocess.run(command, env=unpinned(), capture_output=True, text=True, check=False)
                if done.returncode:
                    raise UserError(f"{side} failed:\n{done.stderr[-2000:]}")
                steps[f"{side}, {threads} threads"] = json.loads(done.stdout.splitlines()[-1])
    figures = {threads: compare(steps, threads) for threads in ("1", "2")}
    apart = furthest(steps["original, 1 threads"], steps["original, 2 threads"])
    write_json(ROOT / "metrics" / "peer_training.json", {"steps": steps, "compared": figures, "original_alone": apart})
    text = sentence(figures, apart)
    into_readme(ROOT / "README.md", "peer training", text)
    print(text)
    if max(found["first_step"] for found in figures.values()) > 1e-4:
        sys.exit("the first step differs by more than rounding")


def make_inputs(folder: Path) -> None:
    """weights.pth in the original's format, and clips [BATCHES, 4, 3, 4, 32, 32] with labels."""
    import torch  # noqa: PLC0415

    from r2plus1d.model import checkpoint, network  # noqa: PLC0415

    torch.manual_seed(0)
    checkpoint.export_mmaction(network.build(depth=18, num_classes=5, width=8, dropout=0.0), folder / "weights.pth")
    clips, labels = torch.randn(BATCHES, 4, 3, 4, 32, 32), torch.randint(5, (BATCHES, 4))
    torch.save({"clips": clips, "labels": labels}, folder / "clips.pt")


def train(network, loss_of, folder: Path) -> list[tuple[float, float]]:
    """(loss, gradient norm before clipping) of each step; `loss_of` maps clips and labels to the loss."""
    import torch  # noqa: PLC0415

    data = torch.load(folder / "clips.pt", weights_only=True)
    optimizer = torch.optim.SGD(network.train().parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    steps = []
    for epoch in range(EPOCHS):
        optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        for clips, labels in zip(data["clips"], data["labels"], strict=True):
            steps.append(loss_of(optimizer, clips, labels))
    return steps


def ours(folder: Path, threads: int) -> list[tuple[float, float]]:
    import torch  # noqa: PLC0415

    from r2plus1d.model import checkpoint  # noqa: PLC0415
    from r2plus1d.zoo import training  # noqa: PLC0415

    torch.set_num_threads(threads)
    arguments = {"depth": 18, "num_classes": 5, "width": 8, "dropout": 0.0}
    network = checkpoint.adopt(folder / "weights.pth", arguments)

    def step(optimizer, clips, labels):
        done = training.step(network, optimizer, clips, labels, MAX_NORM)
        return done["loss"], done["grad_norm"]

    return train(network, step, folder)


def original(folder: Path, threads: int) -> list[tuple[float, float]]:
    import mmaction  # noqa: PLC0415
    import mmcv  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from mmaction.models import build_model  # noqa: PLC0415
    from mmcv.runner import load_checkpoint  # noqa: PLC0415

    torch.set_num_threads(threads)
    configs = Path(mmaction.__path__[0]) / ".mim" / "configs" / "recognition" / "r2plus1d"
    config = mmcv.Config.fromfile(str(configs / "r2plus1d_r34_8x8x1_180e_kinetics400_rgb.py")).model
    config.backbone.update(depth=18, base_channels=8, norm_cfg={"type": "BN3d", "requires_grad": True, "eps": 1e-3})
    config.cls_head.update(num_classes=5, in_channels=64, dropout_ratio=0.0)
    network = build_model(config)
    load_checkpoint(network, str(folder / "weights.pth"), map_location="cpu", strict=True)

    def step(optimizer, clips, labels):
        loss = network(clips[:, None], labels[:, None], return_loss=True)["loss_cls"]
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        return loss.item(), norm.item()

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
    if len(sys.argv) == 4 and sys.argv[1] in ("ours", "original"):
        side = {"ours": ours, "original": original}[sys.argv[1]]
        print(json.dumps(side(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        from r2plus1d.system.stage import run

        run(main)
