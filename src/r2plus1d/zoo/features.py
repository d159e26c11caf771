"""Features of videos, computed once and kept: for rows that train their last layer alone, for those without a GPU.

Shapes: N videos, V views of a video, F frames of H x W pixels, C features. A feature is what the last layer takes: the
mean of the last stage over frames and pixels. It is kept under the SHA-256 of the very pixels that the network was
shown, for one network and whatever computes it. Each video is computed by itself, and its random views are drawn from
its path, so another last layer, or other videos beside it, leave its features as they are.
"""

import copy
import hashlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from r2plus1d.clips.items import Clips, TestVideo, TestVideos, TrainingViews, ValClips
from r2plus1d.clips.loader import loader, single
from r2plus1d.config.schema import RowConfig, TestedRow
from r2plus1d.datasets.annotations import Sample
from r2plus1d.model.lowered import for_inference
from r2plus1d.model.network import Recognizer
from r2plus1d.system import code, paths
from r2plus1d.system.device import computed, prepare
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import digest, replacing, sha256, write_bytes
from r2plus1d.system.kept import AGAIN
from r2plus1d.system.progress import progress
from r2plus1d.system.timing import reading
from r2plus1d.zoo.evaluation import logits
from r2plus1d.zoo.records import deciding
from r2plus1d.zoo.rows import Row

FILE = "features.safetensors"
PART = 32  # videos in a file of kept features
CODE = ("model", "system", "video", "zoo")  # wings of the package that make features of pixels


_renewed: set[Path] = set()  # folders that this process has emptied, where everything is to be made again


class FeaturesError(UserError):
    """Features that cannot be computed or read, or nothing to train on."""


@dataclass(frozen=True)
class Features:
    train: Tensor  # float32 [N, V, C], of the training view: V random clips, crops and flips of each video
    val: Tensor  # float32 [N, C], of the validation view
    of: str  # SHA-256 of the network that computed them, without its last layer


def last_layer_alone(config: RowConfig) -> bool:
    """Whether the row trains its last layer alone, on features."""
    return config.checkpoint is None and config.train.freeze == "all"


def features(row: Row, network: Recognizer) -> Features:
    """Of the training and validation videos, by the network that the row starts from.

    Raises FeaturesError where there is nothing to train on.
    """
    if not row.splits["train"]:
        raise FeaturesError(f"{row.config.row}: there are no training videos; give the row a checkpoint in params.yaml")
    frozen = FrozenNetwork(row, network)
    train = torch.stack(frozen.of_training_views(row.splits["train"]))
    return Features(train, frozen.of_view(row.splits["val"]), frozen.of)


class FrozenNetwork:
    """The network of a row that trains its last layer alone, and all that it said of the same pixels before. It looks
    at videos as `evaluation.test` asks."""

    def __init__(self, row: Row, network: Recognizer):
        self.row, self.config, self.of = row, row.config, fingerprint(network)
        self.device, self.last = prepare(self.config.runtime), network.cls_head.fc_cls
        bare = copy.deepcopy(network).eval()
        bare.cls_head.fc_cls = nn.Identity()  # type: ignore[assignment]
        arithmetic, lowered = computed(self.config.runtime.arithmetic, self.device), self.config.runtime.lowered
        self.network = for_inference(bare, self.device, lowered, arithmetic)
        made_by = self.of, arithmetic, lowered, _code(), code.libraries(), deciding(self.config.runtime)
        self.key = digest([], *map(repr, made_by))

    def views(self, samples: list[Sample]) -> Iterator[np.ndarray]:
        for views in self.of_test_views(samples):
            yield self._logits(views)

    def view(self, samples: list[Sample], static: bool) -> np.ndarray:
        return self._logits(self.of_view(samples, static))

    def of_training_views(self, samples: list[Sample]) -> list[Tensor]:
        """float32 [V, C] of each video."""
        return self._kept("training views", TrainingViews(self.config, samples, self.row.reader), _clips)

    def of_view(self, samples: list[Sample], static: bool = False) -> Tensor:
        """float32 [N, C], of the validation view."""
        clips = ValClips(self.config, samples, self.row.reader, static)
        what = "static view" if static else "validation view"
        return torch.cat(self._kept(what, clips, lambda item: _clips(item[0].unsqueeze(0))))

    def of_test_views(self, samples: list[Sample]) -> list[Tensor]:
        """float32 [V, C] of each video."""
        config = self.config
        assert isinstance(config, TestedRow)

        def shown(video: TestVideo) -> tuple[Tensor, Tensor]:
            return video.crops(config), video.places(config)

        return self._kept("test views", TestVideos(config, samples, self.row.reader), shown)

    def _logits(self, features: Tensor) -> np.ndarray:
        """float32 [..., C] -> [..., K]"""
        with torch.inference_mode():
            return self.last(features).numpy()

    def _kept(self, what: str, videos: Clips, shown: Callable[[Any], tuple[Tensor, Tensor]]) -> list[Tensor]:
        """float32 [V, C] of each video; `shown` gives of its item the frames, uint8 [F, H, W, 3], and which of them
        make up each view, int64 [V, T]."""
        store, names = Store(paths.kept_features(self.key, what)), list[str]()
        items = loader(videos, self.device, self.row.workers, batch_size=1, collate_fn=single)
        try:
            for item in progress(reading(items), len(videos), f"features of {self.config.row}, {what}", "videos"):
                frames, places = shown(item)
                names.append(_name(frames, places))
                if names[-1] not in store:
                    store.add(names[-1], logits(self.network, frames, places, self.device).cpu())
        finally:
            store.write()
        return store.read(names)


class Store:
    """Tensors by name, in files of a folder that is only added to. A file is named for its content, so that a damaged
    one is known, and counts as none."""

    def __init__(self, folder: Path):
        self.folder, self._files, self._added = folder, dict[str, Path](), dict[str, Tensor]()
        if AGAIN in os.environ and folder not in _renewed:
            _renewed.add(folder)
            if folder.exists():
                shutil.rmtree(folder)
        for file in sorted(folder.glob("*.safetensors")):
            if sha256(file) == file.stem:
                with safe_open(file, "pt") as content:
                    self._files |= dict.fromkeys(content.keys(), file)

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self._added

    def add(self, name: str, tensor: Tensor) -> None:
        """Every PART-th time, and when asked to `write`, what was added goes to the disk."""
        self._added[name] = tensor.contiguous()
        if len(self._added) == PART:
            self.write()

    def write(self) -> None:
        if self._added:
            content = save_tensors(self._added)
            file = self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
            with replacing(file, rivals=True) as partial:  # a stage of another row may compute the same
                partial.write_bytes(content)
            self._files |= dict.fromkeys(self._added, file)
            self._added = {}

    def read(self, names: Sequence[str]) -> list[Tensor]:
        """Of names whose tensors were written."""
        wanted = sorted(set(names), key=lambda name: self._files[name])
        found: dict[str, Tensor] = {}
        for file, own in itertools.groupby(wanted, key=lambda name: self._files[name]):
            with safe_open(file, "pt") as content:
                found |= {name: content.get_tensor(name) for name in own}
        return [found[name] for name in names]


def _clips(clips: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [V, T, H, W, 3] as frames [V * T, H, W, 3] and their places, int64 [V, T]."""
    return clips.flatten(0, 1), torch.arange(clips.shape[0] * clips.shape[1]).reshape(clips.shape[:2])


def _name(frames: Tensor, places: Tensor) -> str:
    """Of what a network is shown: its SHA-256 in hexadecimal digits."""
    whole = hashlib.sha256(repr((frames.shape, places.shape)).encode())
    for part in (frames, places):
        whole.update(part.contiguous().numpy().data)
    return whole.hexdigest()


def _code() -> list[tuple[str, str]]:
    """The modules that compute, by their syntax trees."""
    trees: dict[str, str] = {}
    for wing in CODE:
        trees |= code.below(wing)
    return sorted(trees.items())


def fingerprint(network: Recognizer) -> str:
    """SHA-256 of all of the network but its last layer: its form, and all weights."""
    form = [network.arguments[name] for name in ("depth", "width", "conv", "family")]
    whole = hashlib.sha256(repr(form).encode())
    for name, tensor in network.backbone.state_dict().items():
        whole.update(repr((name, tensor.shape)).encode() + tensor.cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()


def save(found: Features, folder: Path) -> None:
    write_bytes(folder / FILE, save_tensors({"train": found.train, "val": found.val}, metadata={"of": found.of}))


def read(folder: Path) -> Features:
    """Raises FeaturesError."""
    try:
        with safe_open(folder / FILE, "pt") as file:
            return Features(file.get_tensor("train"), file.get_tensor("val"), (file.metadata() or {}).get("of", ""))
    except Exception as error:  # safetensors has its own
        raise FeaturesError(f"{folder / FILE}: {error}; run `dvc repro` to compute the features") from error
