"""A training that runs, as files that others show: DVCLive's for `dvc exp show` and the VS Code extension, or
TensorBoard's. No output of the pipeline."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from r2plus1d.system import paths
from r2plus1d.system.errors import ConfigError

Kind = Literal["dvclive", "tensorboard", "none"]
Add = Callable[[int, dict[str, float]], None]
PLACE = ("mode", "epoch", "iter")  # of an entry of the log; the rest are figures


class Live:
    """The entries of a training's log, each shown at once; `iterations` is their number in an epoch.

    DVCLive's files lie in `paths.live` until the training is over, and stay where it was interrupted. TensorBoard's lie
    in `paths.tensorboard`. Either starts with an empty folder: who resumes adds the earlier entries again. Raises
    ConfigError where TensorBoard is asked for and not installed.
    """

    def __init__(self, kind: Kind, row: str, iterations: int):
        self._folder = {"dvclive": paths.live(row), "tensorboard": paths.tensorboard(row)}.get(kind)
        self._kind, self._iterations = kind, iterations
        self._add: Add = lambda step, figures: None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._add = _dvclive(self._folder) if kind == "dvclive" else _tensorboard(self._folder)

    def add(self, entry: dict[str, Any]) -> None:
        """An entry of the log, at the number of steps made by then."""
        whole = entry["epoch"] * self._iterations
        step = whole if entry["mode"] == "val" else whole - self._iterations + entry["iter"]
        figures = {f"{entry['mode']}/{key}": value for key, value in entry.items() if key not in PLACE}
        self._add(step, {"epoch": entry["epoch"], **figures} if self._kind == "dvclive" else figures)

    def end(self) -> None:
        """Of a training that is over: its curve is an output now."""
        if self._kind == "dvclive" and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._folder.parent.rmdir()  # the last


def _dvclive(folder: Path) -> Add:
    os.environ.setdefault("DVC_STUDIO_OFFLINE", "true")  # DVCLive would tell DVC Studio of a start, and never of an end
    from dvclive import Live  # noqa: PLC0415 (half a second)

    live = Live(os.fspath(folder), save_dvc_exp=False, dvcyaml=os.fspath(folder / "dvc.yaml"))

    def add(step: int, figures: dict[str, float]) -> None:
        live.step = step
        for name, value in figures.items():
            live.log_metric(name, value, plot=name != "epoch")
        live.make_summary()  # not `next_step`, which starts a thread that readers would be forked beside
        if not (folder / "dvc.yaml").exists():
            live.make_dvcyaml()

    return add


def _tensorboard(folder: Path) -> Add:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ConfigError(
            "params.yaml: machine.live is tensorboard, which is not installed; pip install -e '.[tensorboard]', or "
            "use dvclive or none"
        ) from error
    writer = SummaryWriter(os.fspath(folder))

    def add(step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return add
