"""Weights on disk: our safetensors, with what is needed to rebuild the network, and the files of MMAction, torchvision
and IG-65M.

Theirs are pickles, mostly named .pth. They are read by torch's restricted unpickler, which builds tensors and plain
values and refuses everything else.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import pickle
import re
import reprlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from r2plus1d.model import layouts
from r2plus1d.model.families import MMACTION, View
from r2plus1d.model.network import Recognizer, build
from r2plus1d.system import paths
from r2plus1d.system.errors import UserError, printable
from r2plus1d.system.files import write_bytes

REAL = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
WHOLE = (torch.int64, torch.int32)
ZIP, PICKLE = b"PK\3\4", b"\x80"  # how torch's files begin, and its older ones
LAST = ("cls_head.fc_cls.weight", "cls_head.fc_cls.bias")
SHOWN = 3  # differences that an error names
EXPORTED = "an exported network, which other programs run (docs/predict.md); give the weights that it was exported from"
USUAL = {field.name: field.default for field in dataclasses.fields(View) if field.default is not dataclasses.MISSING}
METADATA = "r2plus1d"  # a single key: with more, their order in the file would vary


class CheckpointError(UserError):
    """A file that does not hold the weights expected of it."""


def save(model: Recognizer, path: Path) -> None:
    """Writes the state dict, with a header that says how to build and to use the network: the arguments of
    `network.build`, its classes, its view, and the mean and standard deviation of its pixels."""
    header = {
        "network": model.arguments,
        "classes": model.classes,
        "view": {key: value for key, value in dataclasses.asdict(model.view).items() if value != USUAL.get(key, ...)},
        "normalisation": {"mean": model.family.mean, "std": model.family.std},
    }
    write_bytes(path, save_tensors(_plain(model), metadata={METADATA: json.dumps(header, sort_keys=True)}))


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
    _refuse_text(path)
    _refuse_exported(path)
    return _load_safetensors(path) if _is_safetensors(path) else _load_pickle(path)


def restore(path: Path) -> Recognizer:
    """The network that `save` wrote, in evaluation mode on the CPU. Raises CheckpointError."""
    state, header = load(path), _header(path)
    if header is None:
        raise CheckpointError(f"{path}: it does not say how the network was built")
    return _restored(path, state, header)


def recognise(path: Path) -> Recognizer:
    """The network of any file with weights, in evaluation mode on the CPU: one that `save` wrote, or another.

    Where the file does not say how the network was built, depth, convolution, width, classes and family are read off
    the weights, under MMAction's names or torchvision's. Raises CheckpointError, also where they are those of no such
    network.
    """
    state, header = load(path), _header(path)
    if header is not None:
        return _restored(path, state, header)
    state, arguments = _recognised(path, state)
    return _filled(path, state, arguments, _shapes(arguments))


def network_of(path: Path) -> dict[str, Any]:
    """Depth, convolution, width and family of the network in any file with weights. Raises CheckpointError."""
    state, header = load(path), _header(path)
    if header is None:
        arguments = {"family": MMACTION, **_recognised(path, state)[1]}
    else:
        arguments = _restored(path, state, header).arguments
    return {key: arguments[key] for key in ("depth", "conv", "width", "family")}


def adopt(path: Path, built_with: dict) -> Recognizer:
    """The network of `built_with` with the weights of a file, under MMAction's names or torchvision's, in evaluation
    mode on the CPU.

    Weights in half or double precision are converted to float32. Raises CheckpointError where they do not fit the
    network, are no real numbers, or are not finite.
    """
    return _filled(path, _ours(load(path)), built_with, _shapes(built_with))


def start(path: Path, network: Recognizer) -> list[str]:
    """Gives `network` the weights of a file, as `adopt` does, but for the last layer where the file's classes are
    others: other names, or another number. Returns the names that stayed as they were."""
    state, classes, own = _ours(load(path)), classes_of(path), network.state_dict()
    others = classes is not None and network.classes is not None and classes != network.classes
    kept = [name for name in LAST if name in state and (others or state[name].shape != own[name].shape)]
    state = state | {name: own[name] for name in LAST if kept}
    _check(path, state, own, network.arguments)
    network.load_state_dict(state)
    return kept


def classes_of(path: Path) -> list[str] | None:
    """The names of the classes, in the order of the logits, where the file has them. Raises CheckpointError."""
    if (header := _header(path)) is None:
        return None
    with _believed(path, header):
        return _header_values(header).get("classes")


def _ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under our names."""
    return layouts.from_torchvision(state) if layouts.is_torchvision(state) else state


def _recognised(path: Path, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(the state dict under our names, what `build` is called with)"""
    theirs = layouts.is_torchvision(state)
    if theirs:
        state = layouts.from_torchvision(state)
    try:
        arguments = layouts.arguments_of(state, theirs)
        _shapes(arguments)
    except (ValueError, IndexError) as error:  # the latter of tensors with too few axes
        raise CheckpointError(
            f"{path}: these are not the weights of an R(2+1)D network or one of its relatives: {error}. Known are the "
            "names of MMAction, of torchvision's video ResNets, and of IG-65M"
        ) from error
    return state, arguments


def _restored(path: Path, state: dict[str, Tensor], header: str) -> Recognizer:
    with _believed(path, header):
        values = _header_values(header)
        arguments, classes, view = values["network"], values.get("classes"), values.get("view")
        network = _filled(path, state, arguments, _shapes(arguments))
        if classes is not None:
            if not (isinstance(classes, list) and len(classes) == arguments["num_classes"]):
                raise ValueError(f"{reprlib.repr(classes)} are no names of {arguments['num_classes']} classes")
            network.classes = [str(name) for name in classes]
        if view is not None:
            resize = view["resize"]
            network.view = View(**{**view, "resize": tuple(resize) if isinstance(resize, list) else resize})
    return network


@contextlib.contextmanager
def _believed(path: Path, header: str) -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # of json and of torch too
        raise CheckpointError(
            f"{path}: the header says that the network was built with {reprlib.repr(header)}, which cannot be "
            f"({_first_line(error)}); {_way_out(path)}"
        ) from error


def _header_values(header: str) -> dict[str, Any]:
    """What `save` wrote; an earlier form held the arguments of `build` alone."""
    values = json.loads(header)
    if not isinstance(values, dict):
        raise TypeError(f"{type(values).__name__} instead of names with values")
    return values if "network" in values else {"network": values}


def _shapes(built_with: dict) -> dict[str, Tensor]:
    """The network's state without its memory: a header may announce a network of any size."""
    with torch.device("meta"):
        return build(**built_with).state_dict()


def _filled(path: Path, state: dict[str, Tensor], built_with: dict, like: dict[str, Tensor]) -> Recognizer:
    _check(path, state, like, built_with)
    model = build(**built_with)
    model.load_state_dict(state)
    return model.eval()


def _check(path: Path, state: dict[str, Tensor], like: dict[str, Tensor], built_with: dict) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in like.items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    kinds = (
        [name for name in expected if name in found and found[name] != expected[name]],
        [name for name in expected if name not in found],
        [name for name in found if name not in expected],
    )
    if differing := [name for one_of_each in itertools.zip_longest(*kinds) for name in one_of_each if name is not None]:
        first = [f"{_named(name)} is {_shape(found, name)}, not {_shape(expected, name)}" for name in differing[:SHOWN]]
        more = [f"and {len(differing) - SHOWN} more"] if len(differing) > SHOWN else []
        described = ", ".join(f"{key} {value}" for key, value in built_with.items())
        raise CheckpointError(
            f"{path} does not fit the network ({described}): {'; '.join([*first, *more])}. The network follows the "
            "weights where a row of params.yaml names them, else the dataset's scale and classes and the row's own "
            "depth, conv, width and family"
        )
    for name, tensor in state.items():
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.dtype not in (REAL if like[name].is_floating_point() else WHOLE):
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
            raise CheckpointError(f"{path}: {name} holds {kind}; expected plain numbers such as {like[name].dtype}")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; such a network gives no scores")
        if not torch.isfinite(tensor.to(like[name].dtype)).all():
            kind = str(like[name].dtype).removeprefix("torch.")
            raise CheckpointError(f"{path}: {name} holds values that are too large for {kind}; the file is damaged")
        if name.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(f"{path}: {name} holds negative variances, which cannot be; the file is damaged")


def _refuse_text(path: Path) -> None:
    """Raises CheckpointError for what lies in place of weights where fetching them went wrong."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(64).lstrip()
        if not start:
            raise CheckpointError(f"{path}: empty; fetch or save it once more")
        if start.startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path}: a pointer of Git LFS, not the weights; fetch them with `git lfs pull`")
        if start.startswith(b"<"):
            raise CheckpointError(f"{path}: a web page, not weights; fetch the file itself")


def _refuse_exported(path: Path) -> None:
    """Raises CheckpointError for what `export` writes for other programs, by its name."""
    if path.suffix in (".onnx", ".pt2") and path.is_file():
        raise CheckpointError(f"{path}: {EXPORTED}")


def _is_safetensors(path: Path) -> bool:
    """By the brace that opens the header, behind its length of 8 bytes; the name counts where nothing else tells."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(9)
        return start[8:] == b"{" or (path.suffix == ".safetensors" and not start.startswith((ZIP, PICKLE)))
    return path.suffix != ".pth"


def _header(path: Path) -> str | None:
    """What `save` wrote with the weights; None of other files."""
    if not _is_safetensors(path):
        return None
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(METADATA)


def _way_out(path: Path) -> str:
    folder = path.parent.resolve()
    if folder == paths.model(folder.name).resolve():
        return "run `dvc repro` to train the row"
    return "fetch or save it once more" if path.exists() else "give the path of a file that is there"


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or _first_line(error)}; {_way_out(path)}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {_first_line(error)}; {_way_out(path)}") from error
    except Exception as error:  # such as a type of numbers that this torch has not
        raise CheckpointError(f"{path}: damaged, or no weights: {_first_line(error)}") from error


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        _refuse_packed(path)
        with open(path, "rb") as file:  # given a path, torch goes by the name
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; {_way_out(path)}") from error
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise CheckpointError(f"{path}: damaged, or no file of weights; fetch or save it once more") from error
        raise CheckpointError(
            f"{path}: refused, because it holds more than weights and plain values ({wanted[1]}), which can run code. "
            "Where you trust it, save its weights alone: docs/your_data.md says how"
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
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):  # of TorchScript
            raise CheckpointError(f"{path}: {EXPORTED}")
        held = sum(member.file_size for member in archive.infolist())
    if held > path.stat().st_size:
        raise CheckpointError(f"{path}: refused, because its {path.stat().st_size} bytes unpack to {held}")


def _plain(model: Recognizer) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _shape(shapes: dict[str, tuple], name: str) -> str:
    return "x".join(map(str, shapes[name][:9])) or "a number" if name in shapes else "nothing"


def _first_line(error: Exception) -> str:
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0][:200])


def _named(name: str) -> str:
    return name if name.isprintable() and len(name) < 200 else reprlib.repr(name)
