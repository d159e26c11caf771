"""The log of a training, with the field names of the published logs: its entries, its curve, its files."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from r2plus1d.system.files import write_text

CURVE = ("epoch", "train_loss", "train_top1", "val_top1")


@dataclass
class Log:
    """One entry per iteration group and per validation, with the field names of the published logs.

    `entries` hold only what repeats exactly; `timed` the same with memory (MiB), data_time and time (seconds).
    """

    entries: list[dict] = field(default_factory=list)
    timed: list[dict] = field(default_factory=list)

    def add(self, entry: dict, **timings: float) -> None:
        self.entries.append(entry)
        self.timed.append(entry | {key: round(value, 5) for key, value in timings.items()})

    def curve(self) -> list[dict]:
        """One point per epoch: mean training loss and accuracy, and the validation accuracy where there was one."""
        points: dict[int, dict] = {}
        for epoch in sorted({entry["epoch"] for entry in self.entries}):
            groups = [e for e in self.entries if e["epoch"] == epoch and e["mode"] == "train"]
            means = [round(float(np.mean([g[key] for g in groups])), 4) for key in ("loss", "top1_acc")]
            points[epoch] = dict(zip(CURVE, (epoch, *means, None), strict=True))
        for entry in self.entries:
            if entry["mode"] == "val":
                points[entry["epoch"]]["val_top1"] = entry["top1_acc"]
        return list(points.values())

    def write_timed(self, file: Path) -> None:
        """JSON lines, as the published logs."""
        write_text(file, _json_lines(self.timed))

    def write(self, folder: Path, lines: list[str], timed: Path, curve: Path) -> None:
        """train.log with `lines` and train.log.json in `folder`, and the files `timed` (JSON lines) and `curve`."""
        write_text(folder / "train.log", "\n".join(lines) + "\n")
        write_text(folder / "train.log.json", _json_lines(self.entries))
        self.write_timed(timed)
        write_text(curve, pd.DataFrame(self.curve(), columns=CURVE).to_csv(index=False, lineterminator="\n"))


def _json_lines(entries: list[dict]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def format_entry(entry: dict, iterations: int) -> str:
    """A line of the text log, such as `Epoch [3][45/45]  lr: 1.2e-02  loss: 2.31  top1_acc: 0.21`."""
    place = f"[{entry['epoch']}]"
    head = f"Epoch {place}[{entry['iter']}/{iterations}]" if entry["mode"] == "train" else f"Epoch(val) {place}"
    values = {key: value for key, value in entry.items() if key not in ("mode", "epoch", "iter")}
    return "  ".join([head, *(f"{key}: {value:.4g}" for key, value in values.items())])
