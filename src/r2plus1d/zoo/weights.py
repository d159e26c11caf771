"""Trained networks by name, for programs and notebooks."""

from pathlib import Path

from r2plus1d.model.checkpoint import CheckpointError, restore
from r2plus1d.model.network import Recognizer
from r2plus1d.system import paths


def load(source: str | Path) -> Recognizer:
    """The network of a trained row, such as "custom", or of a model.safetensors, in eval mode on the CPU.

    It takes normalised float clips [N, 3, T, H, W] (see `video.views.to_input`) and returns logits [N, K]. A row is
    looked up below models/ of the working directory. Raises CheckpointError.
    """
    file = Path(source)
    if file.suffix == "" and not file.is_file():
        file = paths.weights(str(source))
        if not file.is_file():
            known = sorted(found.parent.name for found in file.parents[1].glob(f"*/{file.name}"))
            hint = f"there are {', '.join(known)}" if known else "`dvc repro` trains the rows"
            raise CheckpointError(f"{source!r} is no trained row below {file.parents[1].absolute()}; {hint}")
    return restore(file)
