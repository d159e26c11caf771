"""Reads the published `log.json` and `result.json`, ours or MMAction's, and compares two trainings.

Layouts, as MMAction2 writes them: 0.x, one JSON object per iteration group or validation with its `mode`, after a
header without one; 1.x (MMEngine), the same without `mode`, accuracies of a validation as `acc/top1`. Our own log has
the names of 0.x. Accuracies are shares (0-1) in files and tables, percent in what is printed and plotted.
"""

import itertools
import json
import math
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from r2plus1d.results.plots import save_figure, styled
from r2plus1d.system.errors import UserError

SHARES = {  # column: its names in 0.x and in 1.x
    "top1_acc": ("top1_acc", "acc/top1"),
    "top5_acc": ("top5_acc", "acc/top5"),
    "mean_class_accuracy": ("mean_class_accuracy", "acc/mean1"),
}
TRAIN = ("epoch", "iter", "loss", "top1_acc", "top5_acc", "lr", "grad_norm", "memory", "data_time", "time")
VAL = ("epoch", *SHARES)
CURVES = {
    "train_loss": "training loss",
    "train_top1": "training top-1",
    "val_top1": "validation top-1",
    "val_top5": "validation top-5",
}
MAX_LINE = 1 << 24  # bytes; a header holds a whole configuration, some 10 KB
MAX_ROWS = 20  # of the printed table


class LogError(UserError, ValueError):
    """A log or a result file that cannot be read; the message names file, place, what was found and expected."""


@dataclass(frozen=True)
class TrainingLog:
    """NaN where a field is missing or not finite. Of an epoch that a restarted run repeats, the later run's entries."""

    path: Path
    train: pd.DataFrame  # columns TRAIN, by epoch and iter; memory in MiB, times in seconds
    val: pd.DataFrame  # columns VAL, by epoch; the epoch is that of the training entries before it in the file

    def curve(self) -> pd.DataFrame:
        """Columns CURVES, by epoch: the mean of the epoch's training entries, and its validation; NaN where none."""
        means, tested = self.train.groupby("epoch").mean(), self.val.set_index("epoch")
        columns = [means["loss"], means["top1_acc"], tested["top1_acc"], tested["top5_acc"]]
        return pd.concat(columns, axis=1, keys=list(CURVES)).sort_index()


def read_log(path: Path) -> TrainingLog:
    """Reads a log, or the `train.log.json` of a folder such as models/<row>.

    Without `loss`, an entry's loss is the sum of its fields with loss in their names, as MMAction adds them up. Fields
    that are no column, objects of another mode and blank lines are passed over. Raises LogError for a line that is no
    JSON object, a field that is no number, an accuracy outside 0-1, and a file without training entries.
    """
    path = path / "train.log.json" if path.is_dir() else path
    train, val, epoch = [], [], None
    for where, entry in _entries(path):
        mode = entry.get("mode", "val" if "acc/top1" in entry else "train" if "loss" in entry else None)
        if mode == "train":
            epoch = _whole(entry, ("epoch",), where)
            row = {"epoch": epoch, "iter": _whole(entry, ("iter", "step"), where), "loss": _loss(entry, where)}
            train.append([row[name] if name in row else _number(entry, name, where) for name in TRAIN])
        elif mode == "val":
            # its place, not its number: resumed runs number it otherwise, and 1.x by `step`
            own = _whole(entry, ("epoch", "step"), where) if epoch is None else epoch
            val.append([own, *(_number(entry, name, where) for name in SHARES)])
    if not train:
        raise LogError(f'{path}: no training entries; expected lines such as {{"mode": "train", "epoch": 1, ...}}')
    trained = _table(train, TRAIN)
    run = ((trained["epoch"] * 2**32 + trained["iter"]).diff() < 0).cumsum()  # going back is a restart
    trained = trained[run == run.groupby(trained["epoch"]).transform("max")]
    trained = trained.drop_duplicates(["epoch", "iter"], keep="last").sort_values(["epoch", "iter"], ignore_index=True)
    return TrainingLog(path, trained, _table(val, VAL).groupby("epoch", as_index=False).last())


def comparison(ours: TrainingLog, theirs: TrainingLog) -> str:
    """Both logs side by side, as text: the epochs that both logged and the last of each, then the validations.

    Where both logged more than MAX_ROWS epochs, those that both validated, evenly thinned out from the last.
    """
    a, b = _in_percent(ours), _in_percent(theirs)
    common = a.index.intersection(b.index)
    if len(common) > MAX_ROWS:
        validated = (a - b).dropna(subset=["val_top1"]).index
        common = validated if len(validated) else common
        common = common[:: -math.ceil(len(common) / MAX_ROWS)]
    epochs = sorted({*common, a.index[-1], b.index[-1]})
    rows, summary = {}, {}
    for column, title in CURVES.items():
        x, y = a[column].reindex(epochs), b[column].reindex(epochs)
        form = ".4f" if column == "train_loss" else ".2f"
        for side, values, sign in (("ours", x, ""), ("theirs", y, ""), ("diff", x - y, "+")):
            rows[title, side] = [_cell(value, sign + form) for value in values]
    for column in ("val_top1", "val_top5"):
        x, y = a[column].dropna(), b[column].dropna()
        for which in ("final", "best"):
            at = [(s.index[-1] if which == "final" else s.idxmax()) if len(s) else None for s in (x, y)]
            found = [s.get(epoch, math.nan) for s, epoch in zip((x, y), at, strict=True)]
            cells = [
                f"{_cell(value)} ({'-' if epoch is None else epoch})" for value, epoch in zip(found, at, strict=True)
            ]
            summary[f"{which} {CURVES[column]}"] = [*cells, _cell(found[0] - found[1], "+.2f")]
    uneven = ["They end at different epochs: the same epoch is not the same share of the training."]
    lines = [
        f"ours:   {ours.path}, up to epoch {a.index[-1]}",
        f"theirs: {theirs.path}, up to epoch {b.index[-1]}",
        "Epochs that both logged and the last of each; accuracies in %, diff is ours - theirs.",
        *(uneven if a.index[-1] != b.index[-1] else []),
        "A log does not say which videos it is of: the difference means something only on the same ones.",
        "",
        pd.DataFrame(rows, index=pd.Index(epochs, name="epoch")).to_string(),
        "",
        pd.DataFrame(summary, index=["ours (epoch)", "theirs (epoch)", "diff"]).T.to_string(),
    ]
    return "\n".join(lines)


@styled
def plot_comparison(ours: TrainingLog, theirs: TrainingLog, path: Path) -> None:
    """A PNG of training loss, training and validation top-1 of both.

    The x axis is the epoch where both logs end at the same one, else the share of the training (epoch / last epoch).
    """
    curves = {"ours": _in_percent(ours), "theirs": _in_percent(theirs)}
    same = len({curve.index[-1] for curve in curves.values()}) == 1
    figure = Figure((11, 3.8), layout="constrained")
    for axes, column in zip(figure.subplots(1, 3), ("train_loss", "train_top1", "val_top1"), strict=True):
        for label, curve in curves.items():
            values = curve[column].dropna() if column == "val_top1" else curve[column]  # not every epoch validates
            x = values.index if same else values.index / curve.index[-1]
            axes.plot(x, values, marker="o", markersize=3, label=label)
        axes.set(title=CURVES[column].capitalize(), xlabel="epoch" if same else "share of the training (0-1)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=same))
        if column == "train_loss":
            axes.set(ylabel="cross-entropy (nats)")
            axes.legend(frameon=False)
        else:
            axes.set(ylabel="accuracy (%)", ylim=(0, 100))
    figure.suptitle(f"ours: {ours.path}\ntheirs: {theirs.path}", parse_math=False)
    save_figure(figure, path)


def _in_percent(log: TrainingLog) -> pd.DataFrame:
    return log.curve() * [1, 100, 100, 100]


def _cell(value: float, form: str = ".2f") -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _table(rows: list[list], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns, dtype="float64").astype(
        {c: "int64" for c in ("epoch", "iter") if c in columns}
    )


def _entries(path: Path) -> Iterator[tuple[str, dict]]:
    """The objects of a JSON-lines file, each with its place for messages; one line in memory at a time."""
    try:
        with open(path, "rb") as file:
            for number in itertools.count(1):
                line, where = file.readline(MAX_LINE + 1), f"{path}, line {number}"
                if not line:
                    return
                if len(line) > MAX_LINE:
                    raise LogError(f"{where}: found more than {MAX_LINE} bytes, expected a JSON object on each line")
                if line.strip():
                    entry = _json(line.rstrip(), where)
                    if not isinstance(entry, dict):
                        raise LogError(f"{where}: found {reprlib.repr(entry)}, expected a JSON object")
                    yield where, entry
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}; expected a training log, or a folder with train.log.json") from error


def _json(content: bytes, where: str) -> Any:
    """Parsed JSON, whole numbers as float too. Raises LogError with what stands around the place that is no JSON."""
    try:
        return json.loads(content, parse_int=float)
    except (ValueError, RecursionError) as error:
        text, at = (error.doc, error.pos) if isinstance(error, json.JSONDecodeError) else (content, 0)
        found = reprlib.repr(text[max(0, at - 14) : at + 14])
        raise LogError(f"{where}, character {at + 1}: found {found}, expected JSON") from error


def _number(entry: dict, column: str, where: str) -> float:
    """The column's field; NaN where it is missing, null or not finite."""
    name = next((name for name in SHARES.get(column, ()) if name in entry), column)
    value = entry.get(name)
    if value is None:
        return math.nan
    if type(value) is not float:
        raise LogError(f"{where}: found {name} {reprlib.repr(value)}, expected a number")
    if column in SHARES and (value < 0 or value > 1):
        raise LogError(f"{where}: found {name} {value:g}, expected a share from 0 to 1")
    return value if math.isfinite(value) else math.nan


def _whole(entry: dict, names: Sequence[str], where: str) -> int:
    value = next((entry[name] for name in names if name in entry), None)
    if type(value) is not float or not value.is_integer() or not 0 <= value < 2**31:
        raise LogError(f"{where}: found {names[0]} {reprlib.repr(value)}, expected a whole number")
    return int(value)


def _loss(entry: dict, where: str) -> float:
    names = ["loss"] if "loss" in entry else [name for name in entry if "loss" in name]
    return sum(_number(entry, name, where) for name in names) if names else math.nan
