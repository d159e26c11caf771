"""From params.yaml to one validated configuration per row: what is inherited, what `scale` shrinks, what is refused.

A row's configuration is complete: with the data, it decides every byte of the row's results. How many processes and
machines work is not in it, because that changes none of them. Each stage of a row gets a part of its own, so that
nothing runs again for a value that it does not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from r2plus1d.config.files import machine
from r2plus1d.config.layers import Layer, both, layer, merge, scaled
from r2plus1d.config.messages import check_keys, check_mapping, check_name, nearest, short
from r2plus1d.config.origins import is_path
from r2plus1d.config.rows import FULL_SIZE, WEIGHTS, Rows
from r2plus1d.config.schema import (
    CUSTOM,
    ROW_FILES,
    Baselines,
    BenchmarkConfig,
    BenchmarkedRow,
    DataConfig,
    FeaturesConfig,
    FolderSource,
    FramesConfig,
    KineticsSource,
    Limit,
    ListsSource,
    MotionSource,
    OfficialSource,
    OneFrameConfig,
    RowConfig,
    Runtime,
    RuntimeSection,
    Scale,
    Section,
    TestedRow,
    TrainConfig,
)
from r2plus1d.system import paths
from r2plus1d.system.errors import ConfigError
from r2plus1d.system.files import must_read_json

SECTIONS = {  # what a dataset may say of each; the section of that name has the last word
    "scale": list(Scale.model_fields),
    "runtime": ["device", "threads", "arithmetic", "inference"],  # the others are never null there
    "train": list(TrainConfig.model_fields),
    "benchmark": list(BenchmarkConfig.model_fields),
    "baselines": list(Baselines.model_fields),
}
SOURCES: dict[str, type[Section]] = {
    "motion": MotionSource,
    "folder": FolderSource,
    "lists": ListsSource,
    "kinetics": KineticsSource,
    "ucf101": OfficialSource,
    "hmdb51": OfficialSource,
}


ROW_SECTIONS = ("model", "train", "test", "benchmark")
SHARED_SECTIONS = ("runtime", "machine", "scale", "limit", "baselines")
NOTHING: Mapping[str, Any] = MappingProxyType({})
MODEL = "model"  # what the row `custom` says of itself: that the sections above describe it


@dataclass(frozen=True)
class Resolved:
    """The configurations that follow from params.yaml."""

    data: DataConfig
    rows: list[BenchmarkedRow]  # complete, in the order of the tables
    baselines: Baselines

    def files(self) -> dict[str, Section]:
        """By their paths below configs/: data.json, and for each row what each of its stages reads."""
        found: dict[str, Section] = {"data.json": self.data}
        for row in self.rows:
            values = row.model_dump()
            packed = row.clip.input == "frames" and row.clip.storage == "packed"
            frames = values | {"input": "frames" if packed else "video", "short_side": row.clip.short_side}
            tested = values | {"runtime": values["runtime"] | {"arithmetic": row.inference}}
            found[f"{row.row}/features.json"] = _features(row)
            found[f"{row.row}/one_frame.json"] = _one_frame(row, self.baselines)
            for section, stage in ROW_FILES.items():
                if section in (FeaturesConfig, OneFrameConfig):
                    continue
                known = frames if section is FramesConfig else tested if section is TestedRow else values
                part = section.model_validate({key: known[key] for key in section.model_fields})
                found[f"{row.row}/{stage}.json"] = part
            # The table's accuracy is by `test`; its speed by the benchmark's own number of views of the same size.
            views: dict[str, Any] = {"clips": row.benchmark.clips, "crops": row.benchmark.crops}
            views |= {"resize": row.test.crop, "crop": row.test.crop, "average_clips": "prob"}
            timed = row.model_copy(update={"test": row.test.model_copy(update=views)})
            found[f"{row.row}/benchmark.json"] = timed
        return found


def resolve(
    params: Mapping[str, Any], published: Mapping[str, str] = NOTHING, files: Mapping[str, Mapping[str, Any]] = NOTHING
) -> Resolved:
    """The data configuration and one configuration for each row of the zoo.

    `published` are the addresses of the published weights, by row; `files` the networks of weights on this machine, by
    path. Raises ConfigError for a key that does not exist (with the nearest that does), a missing key, or a value of a
    wrong type or out of range.
    """
    sections = (*ROW_SECTIONS, *SHARED_SECTIONS, "datasets", "recipe", "finetune", "families", "zoo")
    check_keys("params.yaml", params, ("dataset", "seed", *sections))
    for name in sections:
        check_mapping(name, params[name])
    seed = params["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        raise ConfigError(f"seed is {short(seed)}: expected a whole number from 0 to {2**31 - 1}")
    for name in params["datasets"]:
        check_name("datasets", name)
    for name, row in params["zoo"].items():
        if name != CUSTOM:
            check_name("zoo", name)
        elif row != MODEL:
            raise ConfigError(f"zoo.{name} is {short(row)}: expected {MODEL}; give a row of your own another name")
    chosen = params["dataset"]
    if not isinstance(chosen, str) or chosen not in params["datasets"]:
        raise ConfigError(f"dataset is {short(chosen)}: " + nearest(chosen, params["datasets"], "entry"))
    check_keys("recipe", params["recipe"], ROW_SECTIONS)
    machine(params)
    limit = merge(Limit, [("limit", params["limit"])])
    sources = {name: _source(f"datasets.{name}", entry, limit) for name, entry in params["datasets"].items()}
    dataset, source = params["datasets"][chosen], sources[chosen]
    runtime = merge(RuntimeSection, _with_inference(both(params, "runtime")), nullable=("threads",))
    shared: dict[str, Any] = {"dataset": chosen, "seed": seed, **_in_place(chosen, source, dataset.get("path"))}
    shared["runtime"] = Runtime.model_validate(runtime.model_dump(exclude={"inference"}))
    shared["inference"] = runtime.inference
    rows = Rows(params, shared, published, files)
    if isinstance(source, MotionSource):
        scale = merge(Scale, [layer(FULL_SIZE), *both(params, "scale")], nullable=("depth",))
        pixels = 2 * scaled(source.short_side // 2, scale.resolution, "short_side")  # even, as the codec needs it
        source = source.model_copy(update={"short_side": pixels})
    if limit != Limit(splits=["train", "val"]) and not hasattr(source, "limit"):
        raise ConfigError(f"limit: dataset {chosen} is not downloaded; it is taken whole, so leave `limit` as it was")
    data = {key: shared[key] for key in DataConfig.model_fields if key in shared}
    shared.pop("loose_rate", None)
    baselines = merge(Baselines, [layer({"one_frame": "none"}), *both(params, "baselines")])
    config = DataConfig(**data, source=source, path=dataset.get("path"))
    return Resolved(config, [rows[name] for name in params["zoo"]], baselines)


def published_weights() -> dict[str, str]:
    """The address of the weights of each published row."""
    return {name: row["ckpt"] for name, row in must_read_json(paths.PUBLISHED)["rows"].items()}


def full_name(row: str) -> str:
    """Of a row that the tables call by a short name, such as 8x8_256p; any other name stays."""
    own = paths.row_config(row, "train").is_file() or paths.weights(row).is_file()
    if own or not paths.PUBLISHED.is_file():
        return row
    rows = must_read_json(paths.PUBLISHED)["rows"]
    return next((name for name, facts in rows.items() if facts["short"] == row), row)


def paths_of_weights(params: Mapping[str, Any]) -> list[str]:
    """The files on this machine that rows start from or test. Raises ConfigError for one that is not there."""
    found, zoo = [], params.get("zoo")
    named = zoo.items() if isinstance(zoo, Mapping) else []
    places = [("model", CUSTOM, params.get("model")), *((f"zoo.{name}", name, row) for name, row in named)]
    for where, name, row in places:
        for key in WEIGHTS:
            value = row.get(key) if isinstance(row, Mapping) else None
            if not (isinstance(value, str) and is_path(value)):
                continue
            if Path(value).resolve() == paths.weights(str(name)).resolve():
                raise ConfigError(
                    f"{where}.{key} is {short(value)}: the row {name} itself makes that file, and DVC removes it "
                    "before; copy it to another place, and give that path"
                )
            if not Path(value).is_file():
                raise ConfigError(f"{where}.{key} is {short(value)}: there is no such file{paths.in_experiment(value)}")
            found.append(value)
    return found


# What changes no features, so that they are not made again for it.
NEUTRAL = {
    "videos_per_gpu": 1,
    "config_gpus": 1,
    "accumulate": 1,
    "epochs": 1,
    "lr": 1.0,
    "lr_batch": 1,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "dropout": 0.0,
    "val_interval": 1,
    "log_interval": 1,
    "head_lr": 1.0,
    "warmup_epochs": 0,
    "balance": "none",
    "keep": "last",
}


def _features(row: BenchmarkedRow) -> FeaturesConfig:
    if row.train.freeze != "all" or row.checkpoint is not None:
        return FeaturesConfig(row=row.row, dataset=row.dataset, of=None)
    values = {key: getattr(row, key) for key in RowConfig.model_fields}
    return FeaturesConfig(
        row=row.row, dataset=row.dataset, of=RowConfig(**values | {"train": row.train.model_copy(update=NEUTRAL)})
    )


def _one_frame(row: BenchmarkedRow, baselines: Baselines) -> OneFrameConfig:
    wanted = baselines.one_frame in ("all", row.row)
    if not wanted or row.checkpoint is not None:
        return OneFrameConfig(row=row.row, dataset=row.dataset, of=None)
    values = {key: getattr(row, key) for key in TestedRow.model_fields}
    values["clip"] = row.clip.model_copy(update={"frames": 1, "frame_interval": 1, "frame_rate": "all"})
    # Trained and tested in one stage: so by views of its own, as many as the benchmark's, whatever `test` has.
    crops = row.benchmark.crops if row.test.crop == row.test.resize else 1
    views = {"clips": row.benchmark.clips, "crops": crops, "average_clips": "prob", "keep_views": False}
    values["test"] = row.test.model_copy(update=views)
    return OneFrameConfig(row=row.row, dataset=row.dataset, of=TestedRow(**values))


ANY_MACHINE = {"device": "auto", "gpus": 1, "lowered": "auto", "arithmetic": "native"}


def _with_inference(said: list[Layer]) -> list[Layer]:
    """Tests compute as trainings do, where nothing else is said."""
    last = dict(ANY_MACHINE)
    for _, values in said:
        if isinstance(values, Mapping):
            last |= {key: value for key, value in values.items() if value is not None}
    inference = {} if "inference" in last else {"inference": last["arithmetic"]}
    return [layer(ANY_MACHINE), *said, ("runtime", inference)]


def _in_place(name: str, source: Section, path: str | None) -> dict[str, str | float | None]:
    """Where files are used that stay outside the project, and the name of their frames if they are loose."""
    where = f"datasets.{name}"
    if isinstance(source, ListsSource):
        if path is None:
            raise ConfigError(f"{where}.path is null: give it the folder that the lists' paths start from")
        if source.val is None:
            raise ConfigError(f"{where}.source.val is null: give it the path of the validation list")
        if source.content == "videos":
            return {"in_place": path, "loose_frames": None}
        return {"in_place": path, "loose_frames": source.frame_name, "loose_rate": source.frame_rate}
    if isinstance(source, KineticsSource | OfficialSource):
        return {"in_place": f"{path or 'downloads/' + name}/videos", "loose_frames": None}
    return {"in_place": None, "loose_frames": None}


def _source(where: str, entry: Any, limit: Limit) -> Any:
    """The validated source of a dataset, of which all else is looked at too."""
    check_mapping(where, entry)
    optional = ("path", *SECTIONS)
    check_keys(where, entry, ("source", *optional), optional=optional)
    for key in entry.keys() - {"path"}:
        check_mapping(f"{where}.{key}", entry[key])
    kind = entry["source"].get("kind")
    if not isinstance(kind, str) or kind not in SOURCES:
        raise ConfigError(f"{where}.source.kind is {short(kind)}: " + nearest(kind, SOURCES, "kind"))
    if not (entry.get("path") is None or isinstance(entry["path"], str)):
        raise ConfigError(f"{where}.path is {short(entry['path'])}: expected the path of a folder, or null")
    for key, known in SECTIONS.items():
        check_keys(f"{where}.{key}", entry.get(key, {}), known, complete=False)
    section, values = SOURCES[kind], dict(entry["source"])
    if "limit" in section.model_fields:
        if "limit" in values:
            raise ConfigError(f"{where}.source.limit: a limit stands once, in the section `limit`")
        values["limit"] = limit.model_dump()
    return merge(section, [(f"{where}.source", values)])
