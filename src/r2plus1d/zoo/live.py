"""A training that runs, as files that others show: DVCLive's for `dvc exp show` and the VS Code extension, or
TensorBoard's. No output of the pipeline."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from r2plus1d.system import paths
from r2plus1d.system.errors import ConfigError

Kind = Literal["dvclive", "tensorboard", "none"]
Add = Callable[[int, dict[str, float]], None]
PLACE = ("mode", "epoch", "iter")  # of an entry of the log; the rest are figures


class Live:
    """The entries of a training's log, each shown at once; `iterations` is their number in an epoch.

    DVCLive's files lie in `paths.live` until `clear`, so that an interrupted training leaves them. TensorBoard's lie in
    `paths.tensorboard`. Either starts with an empty folder: who resumes adds the earlier entries again. Raises
    ConfigError where TensorBoard is asked for and not installed.
    """

    def __init__(self, kind: Kind, row: str, iterations: int):
        self._folder = {"dvclive": paths.live(row), "tensorboard": paths.tensorboard(row)}.get(kind)
        self._kind, self._iterations = kind, iterations
        self._add: Add | None = None
        if self._folder is not None:
            with self._on_trouble():
                shutil.rmtree(self._folder, ignore_errors=True)
                self._add = _dvclive(self._folder) if kind == "dvclive" else _tensorboard(self._folder)

    def add(self, entry: dict[str, Any]) -> None:
        """An entry of the log, at the number of steps made by then."""
        if self._add is None:
            return
        whole = entry["epoch"] * self._iterations
        step = whole if entry["mode"] == "val" else whole - self._iterations + entry["iter"]
        figures = {f"{entry['mode']}/{key}": value for key, value in entry.items() if key not in PLACE}
        with self._on_trouble():
            self._add(step, {"epoch": entry["epoch"], **figures} if self._kind == "dvclive" else figures)

    @contextlib.contextmanager
    def _on_trouble(self) -> Iterator[None]:
        """A disk that cannot be written to ends no training here: where that matters, saving its state says so."""
        try:
            yield
        except OSError as error:
            self._add = None
            print(f"{self._folder} cannot be written, so nobody sees the training run: {error}", flush=True)


def clear(row: str) -> None:
    """Of a training that is over, or that nobody goes on with: its curve is an output."""
    folder = paths.live(row)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # if it was the last


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
