"""Trained networks by name, file or address, for programs and notebooks; and the files of addresses."""

from pathlib import Path

import torch.hub

from r2plus1d.datasets.fetch import FetchError, fetch
from r2plus1d.model import checkpoint
from r2plus1d.model.checkpoint import CheckpointError
from r2plus1d.model.network import Recognizer
from r2plus1d.system import paths


def load(source: str | Path) -> Recognizer:
    """The network of a trained row, such as "custom", of a file or of an https address, in eval mode on the CPU.

    A row is looked up below models/ of the working directory. A file is a model.safetensors of this project or weights
    of MMAction, torchvision or IG-65M, in safetensors or pickled; one that is fetched stays in torch's cache.

    The network takes normalised float clips [N, 3, T, H, W] and returns logits [N, K]. Its `family` says how to
    normalise (see `video.views.to_input`), and the size that it was trained for. Raises CheckpointError, FetchError.
    """
    name = str(source)
    if "://" not in name and Path(name).suffix == "" and not Path(name).is_file():
        file = paths.weights(name)
        if not file.is_file():
            known = sorted(found.parent.name for found in file.parents[1].glob(f"*/{file.name}"))
            hint = f"there are {', '.join(known)}" if known else "`dvc repro` trains the rows"
            raise CheckpointError(f"{name!r} is no trained row below {file.parents[1].absolute()}; {hint}")
    else:
        file = file_of(name, "give its path")
    return checkpoint.recognise(file)


def file_of(source: str, way_out: str) -> Path:
    """The path itself, or that of the file which the address names: torch's own cache, where MMAction keeps the same
    files under the same names.

    Raises FetchError, which ends with the way out.
    """
    if "://" not in source:
        return Path(source)
    try:
        return fetch(source, Path(torch.hub.get_dir(), "checkpoints"))
    except FetchError as error:
        raise FetchError(f"{error}; or fetch the file yourself and {way_out}") from error
