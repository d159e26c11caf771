"""Weights on disk: our safetensors, with what is needed to rebuild the network, and the files of MMAction, torchvision
and IG-65M.

Theirs are pickles, mostly named .pth. They are read by torch's restricted unpickler, which builds tensors and plain
values and refuses everything else.
"""

import contextlib
import io
import json
import pickle
import reprlib
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from r2plus1d.model import layouts
from r2plus1d.model.network import Recognizer, build
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import write_bytes

REAL = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
WHOLE = (torch.int64, torch.int32)
ZIP, PICKLE = b"PK\3\4", b"\x80"  # how torch's files begin, and its older ones
METADATA = "r2plus1d"  # a single key: with more, their order in the file would vary


class CheckpointError(UserError):
    """A file that does not hold the weights expected of it."""


def save(model: Recognizer, path: Path, built_with: dict) -> None:
    """Writes the state dict; `built_with` are the arguments of `model.build`, kept in the header."""
    write_bytes(path, save_tensors(_plain(model), metadata={METADATA: json.dumps(built_with, sort_keys=True)}))


def export_mmaction(model: Recognizer, path: Path) -> None:
    """Writes what MMAction's `load_checkpoint` reads, strictly where the network is an R(2+1)D."""
    content = io.BytesIO()  # given a path, torch writes its name too, and hides what is wrong with the disk
    torch.save({"meta": {}, "state_dict": _plain(model)}, content)
    write_bytes(Path(path), content.getvalue())


def load(path: Path) -> dict[str, Tensor]:
    """The state dict on the CPU, of safetensors or of a pickle as torch writes it, under the names that it has there.

    The content tells them apart. Raises CheckpointError for a missing or damaged file, and for a pickle that holds more
    than weights and plain values.
    """
    path = Path(path)
    return _load_safetensors(path) if _is_safetensors(path) else _load_pickle(path)


def restore(path: Path) -> Recognizer:
    """The network that `save` wrote, in evaluation mode on the CPU. Raises CheckpointError."""
    state = load(path)
    built_with = _built_with(path)
    if built_with is None:
        raise CheckpointError(f"{path}: it does not say how the network was built")
    try:
        arguments = json.loads(built_with)
        shapes = _shapes(arguments)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # of json and of torch too
        raise CheckpointError(
            f"{path}: the header says that the network was built with {reprlib.repr(built_with)}, which cannot be "
            f"({_first_line(error)}); run `dvc repro` to train the row"
        ) from error
    return _filled(path, state, arguments, shapes)


def adopt(path: Path, built_with: dict) -> Recognizer:
    """The network of `built_with` with the weights of a file, in evaluation mode on the CPU.

    Weights in half or double precision are converted to float32. Raises CheckpointError where they do not fit the
    network, are no real numbers, or are not finite.
    """
    return _filled(path, load(path), built_with, _shapes(built_with))


def recognise(path: Path) -> Recognizer:
    """The network of any file with weights, in evaluation mode on the CPU: one that `save` wrote, or another.

    Where the file does not say how the network was built, depth, convolution, width, classes and family are read off
    the weights, under MMAction's names or torchvision's. Raises CheckpointError, also where they are those of no such
    network.
    """
    state = load(path)
    if _built_with(path) is not None:
        return restore(path)
    theirs = layouts.is_torchvision(state)
    if theirs:
        state = layouts.from_torchvision(state)
    try:
        arguments = layouts.arguments_of(state, theirs)
        shapes = _shapes(arguments)
    except (ValueError, IndexError) as error:  # the latter of tensors with too few axes
        raise CheckpointError(
            f"{path}: these are not the weights of an R(2+1)D network or one of its relatives: {error}. Known are the "
            "names of MMAction, of torchvision's video ResNets, and of IG-65M"
        ) from error
    return _filled(path, state, arguments, shapes)


def _shapes(built_with: dict) -> dict[str, Tensor]:
    """The network's state without its memory: a header may announce a network of any size."""
    with torch.device("meta"):
        return build(**built_with).state_dict()


def _filled(path: Path, state: dict[str, Tensor], built_with: dict, like: dict[str, Tensor]) -> Recognizer:
    expected = {name: tuple(tensor.shape) for name, tensor in like.items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if differing := [name for name in {**expected, **found} if expected.get(name) != found.get(name)]:
        lines = [
            f"  {_named(name)}: {_shape(found, name)}, expected {_shape(expected, name)}" for name in differing[:5]
        ]
        more = [f"  ... and {len(differing) - 5} more"] if len(differing) > 5 else []
        described = ", ".join(f"{key} {value}" for key, value in built_with.items())
        way_out = "The network follows the dataset's scale and classes and the section `model` of params.yaml."
        raise CheckpointError("\n".join([f"{path} does not fit the network ({described}):", *lines, *more, way_out]))
    for name, tensor in state.items():
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.dtype not in (REAL if like[name].is_floating_point() else WHOLE):
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
            raise CheckpointError(f"{path}: {name} holds {kind}; expected plain numbers such as {like[name].dtype}")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; such a network gives no scores")
    model = build(**built_with)
    model.load_state_dict(state)
    return model.eval()


def _is_safetensors(path: Path) -> bool:
    """By the brace that opens the header, behind its length of 8 bytes; the name counts where nothing else tells."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(9)
        return start[8:] == b"{" or (path.suffix == ".safetensors" and not start.startswith((ZIP, PICKLE)))
    return path.suffix != ".pth"


def _built_with(path: Path) -> str | None:
    """What `save` wrote of how a network was built; None of other files."""
    if not _is_safetensors(path):
        return None
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(METADATA)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}; run `dvc repro` to train the row") from error
    except Exception as error:  # such as a type of numbers that this torch has not
        raise CheckpointError(f"{path}: damaged, or no weights: {_first_line(error)}") from error


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        _refuse_packed(path)
        with open(path, "rb") as file:  # given a path, torch goes by the name
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because it is no pickle of weights and plain values; unpickling anything else can run "
            f"code. Re-save it as {{'state_dict': ...}} where you trust it ({_first_line(error)})"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # whatever the unpickler stumbles over
        raise CheckpointError(f"{path}: damaged, or not a checkpoint: {_first_line(error)}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{path}: expected tensors by name under `state_dict`")
    named: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = str(key).removeprefix("module.")
        if name in named:
            raise CheckpointError(f"{path}: holds {_named(name)} twice, with `module.` and without")
        named[name] = tensor
    return named


def _refuse_packed(path: Path) -> None:
    """A .pth is a zip without compression. With it, or with members that share their bytes, it would unpack to any
    size."""
    with open(path, "rb") as file:
        if file.read(4) != ZIP:  # torch's older container, which has no compression
            return
    with zipfile.ZipFile(path) as archive:
        held = sum(member.file_size for member in archive.infolist())
    if held > path.stat().st_size:
        raise CheckpointError(f"{path}: refused, because its {path.stat().st_size} bytes unpack to {held}")


def _plain(model: Recognizer) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _shape(shapes: dict[str, tuple], name: str) -> str:
    return "x".join(map(str, shapes[name][:9])) or "a number" if name in shapes else "nothing"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _named(name: str) -> str:
    return name if name.isprintable() and len(name) < 200 else reprlib.repr(name)
