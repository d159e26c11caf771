"""A trained network for other programs: uint8 clips in, class probabilities out, in one file.

Shapes: N clips of T frames of H x W pixels, K classes. N is free, the others are the network's view. Normalisation and
softmax are inside; the file's metadata says the rest.
"""

import dataclasses
import importlib
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from r2plus1d.config.origins import ROW
from r2plus1d.config.schema import TestedRow
from r2plus1d.model.network import Recognizer
from r2plus1d.system import paths
from r2plus1d.system.errors import UserError, one_line
from r2plus1d.system.files import replacing
from r2plus1d.video.decoding import VideoError
from r2plus1d.zoo.prediction import Looker, class_names
from r2plus1d.zoo.rows import open_row
from r2plus1d.zoo.videos import find_videos

FORMATS = ("onnx", "pt2", "torchscript")
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}  # of the extra
VIDEOS = 4  # that an export is checked with
ALLOWED = 1e-4  # by which a probability of the file may differ from the network's
INPUT, OUTPUT = "clips", "probabilities"
METADATA = "r2plus1d.json"  # the name of the metadata in files of torch; ONNX has a key for each value
Run = Callable[[np.ndarray], np.ndarray]


class ExportError(UserError):
    """A file that could not be made, or that says something else than the network."""


class Exported(nn.Module):
    """uint8 [N, T, H, W, 3] in RGB -> float32 probabilities [N, K]"""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Recognizer):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(network.family.mean))
        self.register_buffer("std", torch.tensor(network.family.std))

    def forward(self, clips: Tensor) -> Tensor:
        x = (clips.to(torch.float32) - self.mean) / self.std
        return torch.softmax(self.network(x.permute(0, 4, 1, 2, 3)), dim=1)


def described(network: Recognizer) -> dict[str, str]:
    """The metadata of an exported file: each value as JSON."""
    view = network.view
    values = {
        "classes": class_names(network),
        "clip": ["N", view.frames, view.crop, view.crop, 3],
        "view": dataclasses.asdict(view),
        "normalisation": {"mean": network.family.mean, "std": network.family.std, "inside": True},
        "network": network.arguments,
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}


def own_videos(source: str, given: Sequence[Path] | None) -> list[Path]:
    """Videos to check an export with: those that are given, else validation videos of a trained row.

    Raises ExportError where there are none.
    """
    if given:
        return find_videos(given)[:VIDEOS]
    name = source.removeprefix(ROW)
    if not paths.row_config(name, "test").is_file():
        raise ExportError(f"{source} has no videos of its own here: give some to check the file with, --check VIDEO")
    row = open_row(name, TestedRow)
    if row.config.loose_frames is not None:
        raise ExportError(f"{source} has frames and no videos: give some to check the file with, --check VIDEO")
    return [paths.videos(row.config) / sample.path for sample in row.splits["val"][:VIDEOS]]


def clips_of(network: Recognizer, videos: Sequence[Path]) -> np.ndarray:
    """uint8 [N, T, H, W, 3]: two views of each video, and no less than two. Raises VideoError."""
    looker, seen = Looker(network, torch.device("cpu")), []
    for video in videos:
        try:
            found = looker.views(video)
        except VideoError as error:
            raise VideoError(f"{video}: {error}; give another one with --check") from error
        seen.append(found[[0, len(found) // 2]])
    return np.concatenate(seen)


def need(kind: str) -> None:
    """Raises ExportError where a package is missing that writes files of this kind, or opens them."""
    try:
        for name in PACKAGES.get(kind, ()):
            importlib.import_module(name)
    except ImportError as error:
        raise ExportError(f"{one_line(error)}: install the extra, pip install -e '.[onnx]'") from error


def export(network: Recognizer, kind: str, out: Path, clips: np.ndarray) -> float:
    """Writes the network, one of FORMATS, to `out`, when the file gives its probabilities for uint8 `clips` [N, T, H,
    W, 3], two at least, together and one by one; the largest difference.

    Raises ExportError where they differ by more than ALLOWED, or a package is missing.
    """
    need(kind)
    whole = Exported(network).eval()
    with torch.inference_mode():
        expected = whole(torch.from_numpy(clips)).numpy()
    writers = {"onnx": (_write_onnx, _open_onnx), "pt2": (_write_pt2, _open_pt2), "torchscript": (_write_ts, _open_ts)}
    write, opened = writers[kind]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of TorchScript as a whole
        file = Path(folder) / f"model.{kind}"
        write(whole, torch.from_numpy(clips), file, described(network))
        run = opened(file)
        found = [run(clips), np.concatenate([run(clip[None]) for clip in clips])]
        worst = max(float(np.abs(one - expected).max()) for one in found)
        if not worst <= ALLOWED:
            raise ExportError(
                f"{kind}: probabilities differ from the network's by {worst:.2g}, at most {ALLOWED:g} may be"
            )
        with replacing(out) as partial:
            partial.write_bytes(file.read_bytes())
    return worst


def _write_onnx(whole: Exported, clips: Tensor, file: Path, metadata: dict[str, str]) -> None:
    import onnx  # noqa: PLC0415 (an extra)

    program = torch.onnx.export(
        whole,
        (clips,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("N")},),
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, file)


def _open_onnx(file: Path) -> Run:
    import onnxruntime  # noqa: PLC0415 (an extra)

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda clips: session.run([OUTPUT], {INPUT: clips})[0]


def _write_pt2(whole: Exported, clips: Tensor, file: Path, metadata: dict[str, str]) -> None:
    program = torch.export.export(whole, (clips,), dynamic_shapes=({0: torch.export.Dim("N")},))
    torch.export.save(program, file, extra_files={METADATA: _one(metadata)})


def _open_pt2(file: Path) -> Run:
    module = torch.export.load(file).module()
    return lambda clips: module(torch.from_numpy(clips)).detach().numpy()


def _write_ts(whole: Exported, clips: Tensor, file: Path, metadata: dict[str, str]) -> None:
    with torch.inference_mode():
        traced = torch.jit.trace(whole, clips, check_trace=False)
    torch.jit.save(traced, file, _extra_files={METADATA: _one(metadata)})


def _open_ts(file: Path) -> Run:
    module = torch.jit.load(file)

    def run(clips: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(clips)).numpy()

    return run


def _one(metadata: dict[str, str]) -> str:
    return json.dumps({key: json.loads(value) for key, value in metadata.items()}, ensure_ascii=False, indent=1)
