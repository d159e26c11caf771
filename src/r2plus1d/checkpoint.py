"""Weights on disk: safetensors, with what is needed to rebuild the network beside them."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from r2plus1d.errors import UserError
from r2plus1d.files import replacing
from r2plus1d.model import Recognizer, build

METADATA = "r2plus1d"  # a single key: with more, their order in the file would vary


class CheckpointError(UserError):
    """A file that does not hold the weights expected of it."""


def save(model: Recognizer, path: Path, built_with: dict) -> None:
    """Writes the state dict; `built_with` are the arguments of `model.build`, kept in the header."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as partial:
        save_file(state, partial, metadata={METADATA: json.dumps(built_with, sort_keys=True)})


def load(path: Path) -> dict[str, Tensor]:
    """The state dict on the CPU. Raises CheckpointError for a missing or damaged file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}; run `dvc repro` to train the row") from error


def restore(path: Path) -> Recognizer:
    """The network that `save` wrote, in evaluation mode on the CPU."""
    state = load(path)
    with safe_open(path, "pt") as file:
        built_with = (file.metadata() or {}).get(METADATA)
    if built_with is None:
        raise CheckpointError(f"{path}: the header does not say how the network was built")
    model = build(**json.loads(built_with))
    model.load_state_dict(state)
    return model.eval()
