"""Trained networks by name, file or address: to start a training from, to test as they are, and for programs."""

import difflib
import reprlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.hub

from r2plus1d.config.files import read_row
from r2plus1d.config.origins import NAMES, ROW, TORCHVISION, origin
from r2plus1d.config.resolve import full_name
from r2plus1d.config.schema import RowConfig, TestedRow
from r2plus1d.datasets.fetch import FetchError, fetch
from r2plus1d.model import checkpoint
from r2plus1d.model.checkpoint import CheckpointError
from r2plus1d.model.families import View
from r2plus1d.model.network import Recognizer
from r2plus1d.system import code, paths
from r2plus1d.system.errors import redacted
from r2plus1d.system.files import must_read_json
from r2plus1d.zoo.update import build_arguments, build_model

if TYPE_CHECKING:
    from r2plus1d.zoo.prediction import Predictor


def load(source: str | Path) -> "Predictor":
    """A trained network, in eval mode on the CPU, that can be asked about videos: `load("custom").predict("a.mp4")`.

    `source` is a row, such as "custom" (or "row:custom"), looked up below models/ of the working directory; a name of
    published weights: published and published_1x (the most accurate ones, of 32 frames), torchvision (R(2+1)D-18;
    torchvision:r3d_18 and torchvision:mc3_18 too), ig65m_8, ig65m_32, ig65m_8_kinetics, ig65m_32_kinetics; or the path
    or https address of a file with weights of this project, MMAction, torchvision or IG-65M, or the path of a row's
    folder. What is fetched stays in torch's cache.

    The network takes normalised float clips [N, 3, T, H, W] and returns logits [N, K]. Its `family` says how to
    normalise (see `video.views.to_input`), its `view` how to show it a video, and `classes` are the names of its K
    classes, or None where nobody says. Raises CheckpointError, FetchError, ConfigError for an unknown torchvision:...,
    and UserError for `published` where no metrics/published.json is found.
    """
    from r2plus1d.zoo.prediction import Predictor  # noqa: PLC0415 (of no use to a training)

    network = _loaded(str(source))
    network.__class__ = Predictor  # the same network, with one method more
    assert isinstance(network, Predictor)
    return network


def _loaded(name: str) -> Recognizer:
    if name in NAMES or name.startswith(TORCHVISION):
        return _published(name)
    row = full_name(name.removeprefix(ROW))
    given = Path(name) / paths.weights(row).name  # in the folder of a row, as `dvc artifacts get` brings it
    if "://" not in name and given.is_file() and not paths.weights(row).is_file():
        return checkpoint.recognise(given)
    own = paths.weights(row).is_file() or (Path(name).suffix == "" and not Path(name).is_file())
    if name.startswith(ROW) or ("://" not in name and own):
        return _trained(row)
    return checkpoint.recognise(file_of(name, "give its path"))


def starting_network(config: RowConfig, classes: list[str], say: Callable[[str], None]) -> Recognizer:
    """The row's network as its training starts: with seeded weights, or with those of `init`, but for the last layer
    where the classes differ. `say` is told what was taken.

    Raises CheckpointError where all else does not fit, FetchError.
    """
    network = _described(build_model(config, len(classes)), config, classes)
    if config.init is None:
        return network
    kept = checkpoint.start(file_of(config.init, "give its path as `init`"), network)
    taken = len(network.state_dict()) - len(kept)
    last = f"a new last layer for {len(classes)} classes" if kept else "its last layer too"
    say(f"starting from {redacted(config.init)}: {taken} tensors, {last}")
    return network.train()


def finished_network(config: RowConfig, classes: list[str]) -> Recognizer:
    """The row's network with the weights of `checkpoint`. Raises CheckpointError, FetchError."""
    assert config.checkpoint is not None
    file = file_of(config.checkpoint, "give its path as `checkpoint`")
    network = checkpoint.adopt(file, build_arguments(config, len(classes)))
    if (theirs := checkpoint.classes_of(file)) not in (None, classes):
        raise CheckpointError(
            f"{file} was trained on other classes, or on these in another order: {reprlib.repr(theirs)}, not "
            f"{reprlib.repr(classes)}; use `init` to train it on"
        )
    return _described(network, config, classes)


def file_of(source: str, way_out: str) -> Path:
    """The path itself, or that of the file which an address, or a name of torchvision's, stands for: in torch's own
    cache, where MMAction and torchvision keep the same files under the same names.

    Raises FetchError, which ends with the way out.
    """
    if source.startswith(TORCHVISION):
        source = _of_torchvision(source).url
    if "://" not in source:
        return Path(source)
    try:
        return fetch(source, Path(torch.hub.get_dir(), "checkpoints"))
    except FetchError as error:
        raise FetchError(f"{error}; or fetch the file yourself and {way_out}") from error


def _described(network: Recognizer, config: RowConfig, classes: list[str]) -> Recognizer:
    train = config.train
    network.classes = classes
    # The validation view. How many views a test takes is not known here, since it changes nothing in a training.
    size: dict[str, Any] = {"resize": train.resize, "crop": train.crop, "crops": 1}
    network.view = replace(network.view, **_shown(config), **size)
    return network


def _shown(config: RowConfig) -> dict[str, Any]:
    """What a view says of the frames of a clip."""
    clip = config.clip
    rate = None if clip.frame_rate == "all" else float(clip.frame_rate)
    packed = clip.input == "frames" and config.loose_frames is None
    stored = clip.short_side if packed else None
    return {"frames": clip.frames, "frame_interval": clip.frame_interval, "frame_rate": rate, "stored": stored}


def _unfinished(row: str) -> bool:
    """Whether a training of the row has begun, and has not ended."""
    work = paths.work(row, "").parent
    return work.is_dir() and any(path.is_dir() and path.name.rpartition("-")[0] == row for path in work.iterdir())


def _no_row() -> str:
    """The way out where no row has weights."""
    if not paths.PARAMS.is_file():
        return f"there is no {paths.PARAMS} here: run it in the folder of the project, or give a file of weights"
    return (
        "`r2plus1d finetune VIDEOS` trains custom, `dvc repro` all rows. Weights that were there before come back with "
        "`dvc exp apply NAME` (`dvc exp show` has the names)"
    )


def _trained(row: str) -> Recognizer:
    file = paths.weights(row)
    if not file.is_file():
        if Path(row).is_dir():
            raise CheckpointError(f"{row}: a folder without {file.name}; give a file, or the folder of a trained row")
        if _unfinished(row):
            raise CheckpointError(
                f"{row!r} is being trained, or its training was interrupted: the command that trained it, or "
                f"`dvc repro train@{row}`, goes on with it. If it was trained before, that comes back with "
                "`dvc exp apply NAME` (`dvc exp show` has the names), or with its settings of then in params.yaml and "
                "that command, which takes it from DVC's cache"
            )
        known = sorted(found.parent.name for found in file.parents[1].glob(f"*/{file.name}"))
        if close := difflib.get_close_matches(row, [*known, *NAMES], n=1):
            hint = f"did you mean {close[0]!r}?"
        else:
            hint = f"there are {', '.join(known)}" if known else _no_row()
        raise CheckpointError(f"{row!r} is no trained row below {file.parents[1].absolute()}; {hint}")
    network = checkpoint.restore(file)
    if paths.row_config(row, "test").is_file():  # the row's own protocol; without it, the view in the file
        config = read_row(paths.CONFIGS, row, TestedRow)
        test = config.test
        resize = test.resize if isinstance(test.resize, int) else (test.resize[0], test.resize[1])
        shown: dict[str, Any] = {"resize": resize, "spread": test.spread, "average": test.average_clips}
        network.view = View(**_shown(config), **shown, crop=test.crop, clips=test.clips, crops=test.crops)
    return network


def _published(name: str) -> Recognizer:
    found = origin(name, "r2plus1d", (32, 2), {(32, 2): _best_published()}, None, {})
    network = checkpoint.recognise(file_of(found.source, "give its path"))
    if name in ("published", "published_1x"):
        network.view = replace(network.view, frames=32, frame_interval=2)
    elif name in ("ig65m_8", "ig65m_8_kinetics"):
        network.view = replace(network.view, frames=8)
    if name not in ("ig65m_8", "ig65m_32"):  # of these the names of the classes were never published
        network.classes = _of_torchvision(f"{TORCHVISION}r2plus1d_18").meta["categories"]
    return network


def _best_published() -> str:
    places = (paths.PUBLISHED, code.ROOT.parent / paths.PUBLISHED)
    rows = must_read_json(next((place for place in places if place.is_file()), paths.PUBLISHED))["rows"]
    return max(rows.values(), key=lambda row: row["top1"])["ckpt"]


def _of_torchvision(source: str) -> Any:
    """torchvision's own record of its weights: address, names of classes, accuracies."""
    from torchvision.models import get_model_weights  # noqa: PLC0415 (a second, and few need it)

    return get_model_weights(source.removeprefix(TORCHVISION)).DEFAULT
