"""Trained networks by name, file or address: to start a training from, to test as they are, and for programs."""

import reprlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.hub

from r2plus1d.config.files import read_row
from r2plus1d.config.origins import IG65M, NAMES, ROW, TORCHVISION, origin
from r2plus1d.config.schema import RowConfig, TestedRow
from r2plus1d.datasets.fetch import FetchError, fetch
from r2plus1d.model import checkpoint
from r2plus1d.model.checkpoint import CheckpointError
from r2plus1d.model.families import View
from r2plus1d.model.network import Recognizer
from r2plus1d.system import code, paths
from r2plus1d.system.files import must_read_json
from r2plus1d.zoo.update import build_arguments, build_model

CLIPS_8, CLIPS_32 = {"frames": 8, "frame_interval": 8}, {"frames": 32, "frame_interval": 2}


def load(source: str | Path) -> Recognizer:
    """A trained network, in eval mode on the CPU.

    `source` is a row, such as "custom" (or "row:custom"), looked up below models/ of the working directory; a name of
    published weights: published and published_1x (the most accurate ones, of 32 frames), torchvision (R(2+1)D-18;
    torchvision:r3d_18 and torchvision:mc3_18 too), ig65m_8, ig65m_32, ig65m_8_kinetics, ig65m_32_kinetics; or the path
    or https address of a file with weights of this project, MMAction, torchvision or IG-65M. What is fetched stays in
    torch's cache.

    The network takes normalised float clips [N, 3, T, H, W] and returns logits [N, K]. Its `family` says how to
    normalise (see `video.views.to_input`), its `view` how to show it a video, and `classes` are the names of its K
    classes, or None where nobody says. Raises CheckpointError, FetchError.
    """
    name = str(source)
    if name in NAMES or name.startswith(TORCHVISION):
        return _published(name)
    row = name.removeprefix(ROW)
    if name.startswith(ROW) or ("://" not in name and Path(name).suffix == "" and not Path(name).is_file()):
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
    say(f"starting from {config.init}: {taken} tensors, {last}")
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
    clip, train = config.clip, config.train
    network.classes = classes
    # The validation view. How many views a test takes is not known here, since it changes nothing in a training.
    size = {"resize": train.resize, "crop": train.crop, "crops": 1}
    network.view = replace(network.view, frames=clip.frames, frame_interval=clip.frame_interval, **size)
    return network


def _trained(row: str) -> Recognizer:
    file = paths.weights(row)
    if not file.is_file():
        known = sorted(found.parent.name for found in file.parents[1].glob(f"*/{file.name}"))
        hint = f"there are {', '.join(known)}" if known else "`dvc repro` trains the rows"
        raise CheckpointError(f"{row!r} is no trained row below {file.parents[1].absolute()}; {hint}")
    network = checkpoint.restore(file)
    if paths.row_config(row, "test").is_file():  # the row's own protocol; without it, the view in the file
        config = read_row(paths.CONFIGS, row, TestedRow)
        test, clip = config.test, config.clip
        resize = test.resize if isinstance(test.resize, int) else (test.resize[0], test.resize[1])
        network.view = View(clip.frames, clip.frame_interval, resize, test.crop, test.clips, test.crops)
    return network


def _published(name: str) -> Recognizer:
    found = origin(name, "r2plus1d", (32, 2), {(32, 2): _best_published()}, None, {})
    network = checkpoint.recognise(file_of(found.source, "give its path"))
    if name in (*IG65M, "published", "published_1x"):
        clip = CLIPS_8 if name in ("ig65m_8", "ig65m_8_kinetics") else CLIPS_32
        network.view = replace(network.view, **clip)
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
