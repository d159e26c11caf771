"""What every section of params.yaml may hold, and what a row's and a dataset's finished configuration hold.

Types, ranges and the rules within one section; what is inherited and scaled is in `config`.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from r2plus1d.system.arithmetic import Arithmetic

# Far beyond anything that is meant, and small enough that what follows from them is an error of their own.
MOST_PIXELS, MOST = 8192, 1_000_000
Count = Annotated[int, Field(ge=1, le=MOST)]
Pixels = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
Frames = Annotated[int, Field(ge=1, le=10_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _number_or_auto(value: object) -> object:
    if isinstance(value, str) and value != "auto":
        raise ValueError("expected a number, or auto")
    return value


# auto: chosen on the training videos, for a last layer alone
Decay = Annotated[Annotated[float, Field(ge=0)] | Literal["auto"], BeforeValidator(_number_or_auto)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+(/[^\s/]+)+$")]
Depth = Literal[10, 18, 34, 50, 101, 152]
Convolution = Literal["r2plus1d", "r3d", "r2d", "f_r2d", "mc2", "mc3", "mc4", "mc5", "rmc2", "rmc3", "rmc4", "rmc5"]


# One number of up to 99 digits in a file's name; other formats could name files elsewhere, or be of any length.
FRAME_NAME = re.compile(r"[^/{}]{0,100}\{0?(:0?[0-9]{0,2}d?)?\}[^/{}]{0,100}")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    depth: Depth
    conv: Convolution
    width: Annotated[int, Field(ge=1, le=4096)]
    family: Literal["mmaction", "torchvision", "ig65m"]  # whose choices: see model.families


class ClipConfig(Section):
    input: Literal["frames", "video"]
    short_side: Annotated[int, Field(ge=8, le=MOST_PIXELS)]
    frames: Frames
    frame_interval: Frames
    frame_rate: Positive | Literal["all"]  # frames a second that the interval counts; all: every frame of the video
    storage: Literal["packed", "on_the_fly"]  # of `frames`: all on disk, or those of a clip made when it is read


class TrainConfig(Section):
    videos_per_gpu: Count
    config_gpus: Count  # GPUs that the published configuration is for, whatever made its checkpoint
    accumulate: Count  # parts of `videos_per_gpu` that one update is made from, one after the other
    epochs: Count
    lr: Positive
    lr_batch: Count
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Decay
    max_grad_norm: Positive
    resize: Pixels
    crop: Pixels
    crop_area: Annotated[list[Annotated[float, Field(ge=0.001, le=1)]], Field(min_length=2, max_length=2)]
    crop_ratio: Annotated[list[Annotated[float, Field(ge=0.1, le=10)]], Field(min_length=2, max_length=2)]
    flip: Annotated[float, Field(ge=0, le=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    val_interval: Count
    log_interval: Count
    freeze: Annotated[int, Field(ge=0, le=5)] | Literal["all"]  # the stem and the four stages, from the bottom
    views: Count  # of each training video, where all but the last layer is frozen
    head_lr: Positive  # times the rate of the rest
    warmup_epochs: Annotated[int, Field(ge=0)]
    balance: Literal["none", "classes"]
    keep: Literal["last", "best"]

    @model_validator(mode="after")
    def check(self):
        _check_crop(self.crop, self.resize)
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, which leaves none of {self.epochs} epochs")
        if self.weight_decay == "auto" and self.freeze != "all":
            raise ValueError("weight_decay 'auto' needs freeze: all")
        for name in ("crop_area", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [least, largest], not [{low}, {high}]")
        return self


class FinetuneConfig(Section):
    """What a row with an `init` trains otherwise."""

    rate: Positive  # times the learning rate from scratch
    epochs: Count
    warmup_epochs: Annotated[int, Field(ge=0)]
    head_lr: Positive
    last_layer_decay: Decay  # the weight decay where the last layer alone is trained


class TestConfig(Section):
    clips: Frames
    crops: Literal[1, 3]
    spread: Literal["inner", "ends"]  # of the clips over the video: see clips.sampling
    resize: Pixels | Annotated[list[Pixels], Field(min_length=2, max_length=2)]  # the short side; or height, width
    crop: Pixels
    average_clips: Literal["prob", "score"]
    keep_views: bool  # the scores of every view, beside their averages

    @model_validator(mode="after")
    def check(self):
        _check_crop(self.crop, self.resize if isinstance(self.resize, int) else min(self.resize))
        if self.crops == 3 and self.crop != self.resize:
            raise ValueError(f"3 crops along the long side need crop = resize, not {self.crop} and {self.resize}")
        return self


class BenchmarkConfig(Section):
    warmup_videos: Annotated[int, Field(ge=0)]
    videos: Count
    train_steps: Count
    clips: Frames  # of the timed views
    crops: Literal[1, 3]


class Scale(Section):
    resolution: Annotated[float, Field(gt=0, le=1)]
    width: Annotated[float, Field(gt=0, le=1)]
    depth: Depth | None


class Baselines(Section):
    """What the rows are compared with, besides chance."""

    one_frame: Literal["none", "custom", "all"]  # the rows that are trained with one frame a clip, too


class Runtime(Section):
    device: Literal["cpu", "cuda", "auto"]
    gpus: Count  # processes, over all machines; on the CPU too
    threads: Count | None
    lowered: Literal["auto", True, False]  # the network rewritten to run faster, or the plain one
    arithmetic: Arithmetic


class RuntimeSection(Runtime):
    """As params.yaml has it, for all stages of a row."""

    inference: Arithmetic  # of tests and benchmarks


class Machine(Section):
    """What changes no result: how many at a time, and where."""

    workers: Annotated[int, Field(ge=0)] | Literal["auto"]
    scheduler: Annotated[str, Field(pattern=r"^[a-z]+://[^\s/]+:[0-9]+$")] | None
    connections: Annotated[int, Field(ge=1, le=16)]
    live: Literal["dvclive", "tensorboard", "none"]

    @property
    def readers(self) -> int | None:
        """Processes that read clips or decode videos; None: one a core."""
        return None if self.workers == "auto" else self.workers

    @staticmethod
    def expected(key: str) -> str:
        return {
            "workers": "a number of processes, 0 or more, or auto",
            "scheduler": "an address such as tcp://host:8786, or null",
            "connections": "a number from 1 to 16",
            "live": "dvclive, tensorboard or none",
        }[key]


class MotionSource(Section):
    kind: Literal["motion"]
    train_videos: Count  # of each class, as the next two
    val_videos: Count
    test_videos: Count
    seed: Seed  # of the training and validation videos
    test_seed: Seed
    short_side: Annotated[int, Field(ge=16)]


class FolderSource(Section):
    kind: Literal["folder"]
    seed: Seed  # of the division into training and validation videos
    val_share: Annotated[float, Field(gt=0, lt=1)]
    group: Annotated[str, Field(min_length=1)]  # what keeps clips of one recording together: see datasets.recordings

    @field_validator("group")
    @classmethod
    def check(cls, rule: str) -> str:
        if not rule.lower().endswith(".csv"):
            try:
                re.compile(rule)
            except re.error as error:
                raise ValueError(f"{rule!r} is no regular expression ({error})") from error
        return rule


class ListsSource(Section):
    """Annotation lists that are there already, of videos or of frames in loose files, used where they lie."""

    kind: Literal["lists"]
    content: Literal["videos", "frames"]
    train: str | None = None  # paths of the lists; without this one, rows can be tested but not trained
    val: str | None = None
    test: str | None = None  # what the tables measure on, where there is one
    labels: str | None = None  # class names, one a line
    frame_name: str  # of loose frames, such as img_{:05}.jpg
    frame_rate: Positive | None = None  # of loose frames, a second

    @model_validator(mode="after")
    def check(self):
        if not (FRAME_NAME.fullmatch(self.frame_name) and self.frame_name.isprintable()):
            raise ValueError(
                f"frame_name is {self.frame_name!r}: expected a name with a number, such as img_{{:05}}.jpg"
            )
        return self


class Limit(Section):
    """A subset of a dataset that is downloaded. The label map keeps all classes, so that labels stay the same."""

    classes: Count | None = None  # the first ones, in the order of the labels
    videos_per_class: Count | None = None  # of each split: the first ones, in the order of the archives
    splits: Annotated[list[Literal["train", "val"]], Field(min_length=1, max_length=2)]

    @model_validator(mode="after")
    def check(self):
        if self.splits not in (["val"], ["train", "val"]):
            raise ValueError(f"splits is {self.splits}: expected [val] or [train, val]")
        return self


class KineticsSource(Section):
    kind: Literal["kinetics"]
    url: Url
    replacements: str | None = None  # archive below `url` of better copies of training videos
    limit: Limit
    skip: list[str]


class OfficialSource(Section):
    """UCF101 and HMDB51, with their official splits."""

    kind: Literal["ucf101", "hmdb51"]
    videos: Url
    annotations: Url
    split: Literal[1, 2, 3]
    limit: Limit
    skip: list[str]


Source = Annotated[
    MotionSource | FolderSource | ListsSource | KineticsSource | OfficialSource, Field(discriminator="kind")
]


class DataConfig(Section):
    """What the stages that every row shares need: download, extraction and lists."""

    dataset: str
    source: Source
    path: str | None
    in_place: str | None = None  # folder of the user's own videos or frames, used where they lie
    loose_frames: str | None = None  # name of those frames, such as img_{:05}.jpg; None: videos
    loose_rate: float | None = None  # how many of them are a second


class FramesConfig(Section):
    """What `extract_frames` needs for one row."""

    row: str
    dataset: str
    input: Literal["frames", "video"]  # video: nothing is packed
    short_side: Annotated[int, Field(ge=1)]  # pixels after scaling
    in_place: str | None
    loose_frames: str | None


class RowConfig(Section):
    """What the training of one row needs; `clip.short_side`, `train.resize`, ... are pixels after scaling."""

    row: str
    dataset: str
    seed: int
    scale: Scale
    model: ModelConfig
    clip: ClipConfig
    resolution: str  # "256p": the short side before scaling
    in_place: str | None
    loose_frames: str | None  # name of the frames in loose files below `in_place`; None: packed frames or videos
    checkpoint: str | None  # weights that are tested instead of training: address, path, or name (see config.origins)
    init: str | None  # weights that the training starts from, likewise
    train: TrainConfig
    runtime: Runtime

    @property
    def videos_per_step(self) -> int:
        """Videos that one update of the weights is made from, over all processes."""
        return self.runtime.gpus * self.train.videos_per_gpu * self.train.accumulate

    @property
    def learning_rate(self) -> float:
        """Of the first epoch, by the linear scaling rule."""
        return self.train.lr * self.videos_per_step / self.train.lr_batch


class FeaturesConfig(Section):
    """What `features` needs for one row: its configuration, where its last layer alone is trained."""

    row: str
    dataset: str
    of: RowConfig | None


class TestedRow(RowConfig):
    """What the test of one row needs."""

    test: TestConfig


class OneFrameConfig(Section):
    """What `one_frame` needs for one row: its configuration with one frame a clip, where that is trained too."""

    row: str
    dataset: str
    of: TestedRow | None


class BenchmarkedRow(TestedRow):
    """What the benchmark of one row needs; its `test` holds the views that are timed. The whole of a row, too."""

    inference: Arithmetic  # `runtime` has the training's
    benchmark: BenchmarkConfig


# By the stage that reads them: configs/<row>/<stage>.json.
ROW_FILES: dict[type[Section], str] = {
    FramesConfig: "extract_frames",
    FeaturesConfig: "features",
    RowConfig: "train",
    TestedRow: "test",
    OneFrameConfig: "one_frame",
    BenchmarkedRow: "benchmark",
}


def _check_crop(crop: int, resize: int) -> None:
    if crop > resize:
        raise ValueError(f"crop {crop} is larger than the short side it is cut from (resize {resize})")


CUSTOM = "custom"
