"""From a folder of labelled videos to a trained row: params.yaml is set, and DVC runs the row `custom` alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r2plus1d.config import strict_yaml
from r2plus1d.config.files import read_params
from r2plus1d.config.origins import TORCHVISION
from r2plus1d.config.resolve import MODEL, resolve
from r2plus1d.config.schema import CUSTOM
from r2plus1d.datasets import folder
from r2plus1d.datasets.manifest import DataError
from r2plus1d.system import paths
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import must_read_json, write_text

NOTHING = "none"  # the name of weights for a network that starts from nothing


class FinetuneError(UserError):
    """A fine-tuning that DVC could not end."""


def finetune(videos: Path, init: str, settings: Sequence[str]) -> None:
    """Trains, tests and benchmarks the row `custom` on a folder of videos, and prints where everything is.

    `init` names the weights to start from; "none" stands for the small network from nothing. `settings` are further
    values, KEY=VALUE as `dvc exp run -S` takes them. Raises DataError for a folder whose videos have no labels,
    FetchError where the weights cannot be had, FinetuneError where DVC fails.
    """
    if "${" in str(videos.resolve()):
        raise DataError(f"{videos}: DVC would take what follows ${{ for the name of a parameter; rename the folder")
    found, _, classes = _labelled(videos.resolve())
    print(f"{len(found)} videos of {len(classes)} classes: {', '.join(classes)}", flush=True)
    _set(videos.resolve(), None if init == NOTHING else init, settings)
    _fetch()
    _run(settings)
    print(_told(), flush=True)


def _labelled(videos: Path) -> tuple[list, list, list[str]]:
    try:
        return folder.look(videos)
    except DataError as error:
        raise DataError(
            f"{error}. Expected: {videos}/CLASS/VIDEO.mp4, or {videos}/train/CLASS/VIDEO.mp4 and the same below val/"
        ) from error


def _set(videos: Path, init: str | None, settings: Sequence[str]) -> None:
    """Writes into params.yaml what this needs, and nothing where it stands there already; comments stay.

    Without a GPU the last layer alone is trained on weights that were trained elsewhere: minutes instead of hours.
    """
    read_params(paths.PARAMS)  # or an error that says what is wrong with it
    params = strict_yaml.to_edit(paths.PARAMS.read_text(encoding="utf-8-sig"))
    wanted: dict[tuple[str, ...], Any] = {
        ("dataset",): "folder",
        ("datasets", "folder", "path"): str(videos),
        ("model", "init"): init,
        ("model", "checkpoint"): None,
    }
    if not any(one.startswith("train.freeze=") for one in settings):
        wanted["train", "freeze"] = "all" if init is not None and not _gpu() else None
    changes = []
    for (*parents, last), value in wanted.items():
        place = params
        for key in parents:
            place = place[key]
        if place[last] != value:
            changes.append(f"{'.'.join([*parents, last])}: {value}")
            place[last] = value
    if others := [name for name in params["zoo"] if name != CUSTOM]:
        changes.append(f"zoo: {CUSTOM} alone (`git checkout {paths.PARAMS}` brings back {len(others)} others)")
        params["zoo"] = {CUSTOM: MODEL}
    if changes:
        write_text(paths.PARAMS, strict_yaml.edited(params))
        print(f"{paths.PARAMS}: " + "; ".join(changes), flush=True)


def _gpu() -> bool:
    import torch  # noqa: PLC0415 (seconds)

    return torch.cuda.is_available()


def _fetch() -> None:
    """The weights first: without them nothing else is worth its time."""
    published = must_read_json(paths.PUBLISHED)["rows"]
    (row,) = resolve(read_params(paths.PARAMS), {name: known["ckpt"] for name, known in published.items()}).rows
    if row.init is not None and ("://" in row.init or row.init.startswith(TORCHVISION)):
        from r2plus1d.zoo.weights import file_of  # noqa: PLC0415 (torch, for seconds)

        file_of(row.init, f"give its path with --init, or start from nothing with --init {NOTHING}")


def _run(settings: Sequence[str]) -> None:
    """DVC, in the folder of the project; what it says goes through."""
    command = [sys.executable, "-m", "dvc", "exp", "run", *(word for one in settings for word in ("-S", one))]
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(command, env={**os.environ, "PATH": search}, start_new_session=True)
    try:
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)  # the stage too, not DVC alone
        process.wait()
        raise
    if code:
        raise FinetuneError(f"dvc exp run failed ({code}, see above); the same command goes on from there")


def _told() -> str:
    figures = json.loads(paths.metrics(CUSTOM, "test.json").read_text(encoding="utf-8"))
    return "\n".join(
        [
            "",
            f"top-1 {figures['top1']:.2f}% on {figures['videos']} validation videos; the middle frame alone, repeated: "
            f"{figures['static']['top1']:.2f}%",
            f"model   {paths.weights(CUSTOM)}; in Python: r2plus1d.load({CUSTOM!r})",
            f"tables  {paths.README}, {paths.RESULTS}; pictures in {paths.REPORT}",
        ]
    )
