"""Features of videos, computed once and kept: for rows that train their last layer alone, for those without a GPU.

Shapes: N videos, V views of a video, C features. A feature is what the last layer takes: the mean of the last stage
over frames and pixels. Each video is computed by itself, and its views are drawn by its own name. So its features are
the same whatever other videos there are: those of the earlier videos serve on when some are added, a test with other
last layers computes nothing again, and of an interrupted run all is there but the last few videos.
"""

import copy
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from r2plus1d.clips.items import Clips, TestVideo, TestVideos, ValClips, training_clip
from r2plus1d.clips.loader import AUGMENTATION, loader, single
from r2plus1d.config.schema import RowConfig, TestedRow
from r2plus1d.datasets.annotations import Sample
from r2plus1d.model.lowered import for_inference
from r2plus1d.model.network import Recognizer
from r2plus1d.system import code, paths
from r2plus1d.system.device import computed, prepare
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import digest, write_bytes
from r2plus1d.system.kept import AGAIN
from r2plus1d.system.progress import progress, saved
from r2plus1d.system.timing import reading
from r2plus1d.zoo.evaluation import logits
from r2plus1d.zoo.records import deciding
from r2plus1d.zoo.rows import Row
from r2plus1d.zoo.update import normalised

FILE = "features.safetensors"
PART = 32  # videos in a file of kept features, after which an interrupted run goes on
CODE = ("clips", "config", "datasets", "model", "system", "video", "zoo")  # wings of the package


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
    """The network of a row that trains its last layer alone, and all that it said before of videos that are still the
    same. It looks at them as `evaluation.test` asks."""

    def __init__(self, row: Row, network: Recognizer):
        self.row, self.config, self.of = row, row.config, fingerprint(network)
        self.device, self.family, self.last = prepare(self.config.runtime), network.family, network.cls_head.fc_cls
        bare = copy.deepcopy(network).eval()
        bare.cls_head.fc_cls = nn.Identity()  # type: ignore[assignment]
        arithmetic, lowered = computed(self.config.runtime.arithmetic, self.device), self.config.runtime.lowered
        self.network = for_inference(bare, self.device, lowered, arithmetic)
        self.made_by = [repr(part) for part in (self.of, arithmetic, lowered, *_made_by(self.config))]
        self.content = row.content()

    def views(self, samples: list[Sample]) -> Iterator[np.ndarray]:
        for views in self.of_test_views(samples):
            yield self._logits(views)

    def view(self, samples: list[Sample], static: bool) -> np.ndarray:
        return self._logits(self.of_view(samples, static))

    def of_training_views(self, samples: list[Sample]) -> list[Tensor]:
        """float32 [V, C] of each video."""
        train, seed = self.config.train, self.config.seed
        decides = (seed, train.views, train.resize, train.crop, train.crop_area, train.crop_ratio, train.flip)
        videos = TrainingViews(self.config, samples, self.row.reader)
        return self._kept("training views", train.views, decides, videos, self._of_clips)

    def of_view(self, samples: list[Sample], static: bool = False) -> Tensor:
        """float32 [N, C], of the validation view."""
        what = "static view" if static else "validation view"
        decides = (self.config.train.resize, self.config.train.crop)
        videos = ValClips(self.config, samples, self.row.reader, static)
        return torch.cat(self._kept(what, 1, decides, videos, lambda item: self._of_clips(item[0].unsqueeze(0))))

    def of_test_views(self, samples: list[Sample]) -> list[Tensor]:
        """float32 [V, C] of each video."""
        assert isinstance(self.config, TestedRow)
        config, test = self.config, self.config.test
        decides = (test.clips, test.crops, test.spread, test.resize, test.crop)

        def of_video(video: TestVideo) -> Tensor:
            crops = video.to(self.device).crops(config)
            return logits(self.network, crops, video.places(config), self.device).cpu()

        videos = TestVideos(config, samples, self.row.reader)
        return self._kept("test views", test.clips * test.crops, decides, videos, of_video)

    def _logits(self, features: Tensor) -> np.ndarray:
        """float32 [..., C] -> [..., K]"""
        with torch.inference_mode():
            return self.last(features).numpy()

    def _of_clips(self, clips: Tensor) -> Tensor:
        """uint8 [V, T, H, W, 3] -> float32 [V, C]"""
        with torch.inference_mode():
            return self.network(normalised(clips, self.device, self.family)).cpu()

    def _kept(
        self, what: str, views: int, decides: tuple, videos: Clips, features_of: Callable[[Any], Tensor]
    ) -> list[Tensor]:
        """[V, C] of each of the `videos`; computed by `features_of` where nothing is kept of the same video, seen the
        same way: by what `decides` and what the clips of all views hang on."""
        config, samples = self.config, videos.samples
        clips = (config.clip, config.loose_frames, config.model.family)
        key = digest([], what, repr(decides), repr(clips), *self.made_by)
        store = Store(paths.kept_features(what.replace(" ", "_"), key))
        names = [_name(sample, self.content[sample.path]) for sample in samples]
        todo = [index for index, name in enumerate(names) if name not in store]

        def compute() -> Iterator[int]:
            batches = loader(videos, self.device, self.row.workers, sampler=todo, batch_size=1, collate_fn=single)
            made: dict[str, Tensor] = {}
            for index, video in zip(todo, reading(batches), strict=True):
                made[names[index]] = features_of(video)
                yield views
                if len(made) == PART or index == todo[-1]:
                    store.add(made)
                    saved(f"{store.count} videos' features, {what}, are in {store.folder}")
                    made = {}

        for _ in progress(compute(), len(todo) * views, f"features of {config.row}, {what}", "views", measure=int):
            pass
        return store.read(names)


class TrainingViews(Clips):
    """index -> uint8 [V, T, crop, crop, 3]: the random views of a video, drawn from the seed and its path."""

    def __getitem__(self, index: int) -> Tensor:
        sample = self.samples[index]
        path = np.frombuffer(hashlib.sha256(sample.path.encode()).digest(), "<u4").tolist()
        drawn = [
            np.random.default_rng([self.config.seed, AUGMENTATION, v, *path]) for v in range(self.config.train.views)
        ]
        return torch.from_numpy(np.stack([training_clip(self.config, sample, self.reader, rng) for rng in drawn]))


class Store:
    """Tensors by name, in files of a folder that is only added to. A file that cannot be read counts as none."""

    def __init__(self, folder: Path):
        self.folder, self._files = folder, dict[str, Path]()
        if AGAIN not in os.environ:
            for file in sorted(folder.glob("*.safetensors")):
                try:
                    with safe_open(file, "pt") as content:
                        self._files |= dict.fromkeys(content.keys(), file)
                except (SafetensorError, OSError):
                    continue

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def count(self) -> int:
        return len(self._files)

    def add(self, tensors: dict[str, Tensor]) -> None:
        file = self.folder / f"{digest([], *tensors)}.safetensors"
        write_bytes(file, save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}))
        self._files |= dict.fromkeys(tensors, file)

    def read(self, names: Sequence[str]) -> list[Tensor]:
        wanted = sorted(set(names), key=lambda name: self._files[name])
        found: dict[str, Tensor] = {}
        for file, own in itertools.groupby(wanted, key=lambda name: self._files[name]):
            with safe_open(file, "pt") as content:
                found |= {name: content.get_tensor(name) for name in own}
        return [found[name] for name in names]


def _name(sample: Sample, content: str) -> str:
    parts = (content, sample.path, sample.num_frames, sample.rate)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _made_by(config: RowConfig) -> tuple:
    """What computes: code, versions and the hardware."""
    trees: dict[str, str] = {}
    for wing in CODE:
        trees |= code.below(wing)
    return sorted(trees.items()), code.libraries(), deciding(config.runtime)


def fingerprint(network: Recognizer) -> str:
    """SHA-256 of all weights but the last layer's."""
    whole = hashlib.sha256()
    for name, tensor in network.backbone.state_dict().items():
        whole.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
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
