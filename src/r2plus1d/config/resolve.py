"""From params.yaml to one validated configuration per row: what is inherited, what `scale` shrinks, what is refused.

A row's configuration is complete: with the data, it decides every byte of the row's results. How many processes and
machines work is not in it, because that changes none of them. Each stage of a row gets a part of its own, so that
nothing runs again for a value that it does not read.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from r2plus1d.config.files import machine
from r2plus1d.config.messages import check_keys, check_mapping, check_name, nearest, short
from r2plus1d.config.origins import FULL_WIDTH, PUBLISHED_CLIPS, ROW, Origin, is_path, origin
from r2plus1d.config.schema import (
    CUSTOM,
    ROW_FILES,
    BenchmarkConfig,
    BenchmarkedRow,
    ClipConfig,
    DataConfig,
    FeaturesConfig,
    FinetuneConfig,
    FolderSource,
    FramesConfig,
    KineticsSource,
    Limit,
    ListsSource,
    ModelConfig,
    MotionSource,
    OfficialSource,
    RowConfig,
    Runtime,
    Scale,
    Section,
    TestConfig,
    TrainConfig,
)
from r2plus1d.system import paths
from r2plus1d.system.errors import ConfigError

SECTIONS = {  # what a dataset may say of each; the section of that name has the last word
    "scale": list(Scale.model_fields),
    "runtime": ["device", "threads"],  # the others are never null there
    "train": list(TrainConfig.model_fields),
    "benchmark": list(BenchmarkConfig.model_fields),
}
SPAN = 64  # frames that a clip of any row covers, which fixes the interval where none is given
SOURCES: dict[str, type[Section]] = {
    "motion": MotionSource,
    "folder": FolderSource,
    "lists": ListsSource,
    "kinetics": KineticsSource,
    "ucf101": OfficialSource,
    "hmdb51": OfficialSource,
}


Layer = tuple[str, Mapping[str, Any]]  # where in params.yaml, and the values given there
ROW_SECTIONS = ("model", "train", "test", "benchmark")
SHARED_SECTIONS = ("runtime", "machine", "scale", "limit")
WEIGHTS = ("init", "checkpoint")
NOTHING: Mapping[str, Any] = MappingProxyType({})
AUTO = "auto"
MODEL = "model"  # what the row `custom` says of itself: that the sections above describe it


@dataclass(frozen=True)
class Resolved:
    """The configurations that follow from params.yaml."""

    data: DataConfig
    rows: list[BenchmarkedRow]  # complete, in the order of the tables

    def files(self) -> dict[str, Section]:
        """By their paths below configs/: data.json, and for each row what each of its stages reads."""
        found: dict[str, Section] = {"data.json": self.data}
        for row in self.rows:
            values = row.model_dump()
            frames = values | {"input": row.clip.input, "short_side": row.clip.short_side}
            found[f"{row.row}/features.json"] = _features(row)
            for section, stage in ROW_FILES.items():
                if section is FeaturesConfig:
                    continue
                known = frames if section is FramesConfig else values
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
    limit = _merge(Limit, [("limit", params["limit"])])
    sources = {name: _source(f"datasets.{name}", entry, limit) for name, entry in params["datasets"].items()}
    dataset, source = params["datasets"][chosen], sources[chosen]
    runtime = _merge(Runtime, [_layer(ANY_MACHINE), *_both(params, "runtime")], nullable=("threads",))
    shared: dict[str, Any] = {"dataset": chosen, "seed": seed, **_in_place(chosen, source, dataset.get("path"))}
    shared["runtime"] = runtime
    rows = _Rows(params, shared, published, files)
    if isinstance(source, MotionSource):
        scale = _merge(Scale, [_layer(FULL_SIZE), *_both(params, "scale")], nullable=("depth",))
        pixels = 2 * _scaled(source.short_side // 2, scale.resolution, "short_side")  # even, as the codec needs it
        source = source.model_copy(update={"short_side": pixels})
    if limit != Limit(splits=["train", "val"]) and not hasattr(source, "limit"):
        raise ConfigError(f"limit: dataset {chosen} is not downloaded; it is taken whole, so leave `limit` as it was")
    data = {key: shared[key] for key in DataConfig.model_fields if key in shared}
    shared.pop("loose_rate", None)
    return Resolved(DataConfig(**data, source=source, path=dataset.get("path")), [rows[name] for name in params["zoo"]])


def paths_of_weights(params: Mapping[str, Any]) -> list[str]:
    """The files on this machine that rows start from or test. Raises ConfigError for one that is not there."""
    found, zoo = [], params.get("zoo")
    named = zoo.items() if isinstance(zoo, Mapping) else []
    rows = {"model": params.get("model"), **{f"zoo.{name}": row for name, row in named}}
    for where, row in rows.items():
        for key in WEIGHTS:
            value = row.get(key) if isinstance(row, Mapping) else None
            if isinstance(value, str) and is_path(value):
                if not Path(value).is_file():
                    raise ConfigError(f"{where}.{key} is {short(value)}: there is no such file")
                found.append(value)
    return found


# What changes no features, so that they are not made again for it.
NEUTRAL = {
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


FULL_SIZE = {"resolution": 1.0, "width": 1.0}
ANY_MACHINE = {"device": "auto", "gpus": 1, "lowered": "auto"}


def _layer(defaults: Mapping[str, Any]) -> Layer:
    return "params.yaml", defaults


def _both(params: Mapping[str, Any], section: str) -> list[Layer]:
    """What the dataset in use says of a section, and what the section itself says, which has the last word."""
    name = params["dataset"]
    return [(f"datasets.{name}.{section}", params["datasets"][name].get(section, {})), (section, params[section])]


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


class _Rows(dict[str, BenchmarkedRow]):
    """Each row's configuration, made when it is asked for: a row may start from another one."""

    def __init__(self, params: Mapping, shared: dict, published: Mapping[str, str], files: Mapping[str, Mapping]):
        super().__init__()
        self.params, self.shared, self.published, self.files = params, shared, published, files
        self.asking: list[str] = []  # the rows that are being made

    def __missing__(self, name: str) -> BenchmarkedRow:
        self.asking.append(name)
        self[name] = self._row(name)
        self.asking.pop()
        return self[name]

    def _row(self, name: str) -> BenchmarkedRow:
        params, chosen = self.params, self.shared["dataset"]
        dataset = params["datasets"][chosen]
        where = "model" if name == CUSTOM else f"zoo.{name}"
        own = params["model"] if name == CUSTOM else params["zoo"][name]
        check_mapping(where, own)
        optional = (*ModelConfig.model_fields, "frame_rate", *WEIGHTS)
        optional += () if name == CUSTOM else ("videos_per_gpu",)
        check_keys(where, own, (*ClipConfig.model_fields, *optional), optional=() if name == CUSTOM else optional)
        model = _merge(ModelConfig, [("recipe.model", params["recipe"]["model"]), (where, _only(own, ModelConfig))])
        clip = _only(own, ClipConfig)
        given = self._origin(where, own, model, clip)
        start = given.get("init")
        origin = start or given.get("checkpoint")
        kind = origin.network["family"] if origin is not None and origin.network else model.family
        family = self._family(kind)
        if clip["frame_interval"] is None and isinstance(clip["frames"], int) and clip["frames"] > 0:
            clip["frame_interval"] = family["frame_interval"] or max(1, SPAN // clip["frames"])
        if clip.get("frame_rate") is None:
            clip["frame_rate"] = family["frame_rate"] or "all"
        unscaled = _merge(ClipConfig, [(where, clip)])
        scale = self._scale(origin)

        layers = {key: [(f"recipe.{key}", params["recipe"][key])] for key in ("train", "test", "benchmark")}
        for key, known in layers.items():
            known.append((f"families.{kind}.{key}", family[key]))
        of_dataset = {key: (f"datasets.{chosen}.{key}", dataset.get(key, {})) for key in ("train", "benchmark")}
        if name != CUSTOM:
            layers["train"].append((where, _only(own, TrainConfig)))
        layers["train"].append(of_dataset["train"])
        layers["benchmark"].append(of_dataset["benchmark"])
        if start is not None:
            scratch, (place, values) = layers["train"], of_dataset["train"]
            if start.full_width:  # the dataset's rate is that of its small network
                scratch = [*scratch[:-1], (place, {**values, "lr": None})]
            layers["train"].append(("finetune", self._finetuned(scratch)))
        if name == CUSTOM:
            for key, known in layers.items():
                known.append((key, params[key]))
        pixels = {"short_side": _scaled(unscaled.short_side, scale.resolution, f"{where}.short_side")}
        train = _shrink(_merge(TrainConfig, self._accumulated(layers["train"])), scale)
        if train.freeze == "all" and origin is None:
            raise ConfigError(f"{where}.init is null and train.freeze is all: give weights, or freeze less")
        return BenchmarkedRow(
            row=name,
            **self.shared,
            scale=scale,
            model=_network(where, own, model, scale, origin),
            clip=unscaled.model_copy(update=pixels),
            resolution=f"{unscaled.short_side}p",
            checkpoint=given["checkpoint"].source if "checkpoint" in given else None,
            init=start.source if start is not None else None,
            train=train,
            test=self._views(name, _merge(TestConfig, layers["test"]), train, scale),
            benchmark=_merge(BenchmarkConfig, layers["benchmark"]),
        )

    def _origin(self, where: str, own: Mapping, model: ModelConfig, clip: Mapping) -> dict[str, Origin]:
        """Of `init` and `checkpoint`, the one that the row gives."""
        found = {}
        for key in WEIGHTS:
            value = own.get(key)
            if value is None:
                continue
            if not isinstance(value, str):
                raise ConfigError(f"{where}.{key} is {short(value)}: expected a name, a path or an https address")
            try:
                found[key] = self._named(value, model.conv, clip)
            except ConfigError as error:
                raise ConfigError(f"{where}.{key} is {short(value)}: {error}") from error
        if len(found) > 1:
            raise ConfigError(f"{where}: init trains on and checkpoint tests as it is: give one of them")
        return found

    def _named(self, value: str, conv: str, clip: Mapping) -> Origin:
        if value.startswith(ROW):
            other = value.removeprefix(ROW)
            if other not in self.params["zoo"]:
                raise ConfigError(nearest(other, self.params["zoo"], "row"))
            if other in self.asking:
                raise ConfigError(f"rows cannot start from each other: {' -> '.join([*self.asking, other])}")
            return Origin(paths.weights(other).as_posix(), self[other].model.model_dump())
        published = {
            PUBLISHED_CLIPS[name]: address for name, address in self.published.items() if name in PUBLISHED_CLIPS
        }
        count = clip["frames"] if isinstance(clip["frames"], int) and clip["frames"] > 0 else 8
        interval = clip["frame_interval"] if isinstance(clip["frame_interval"], int) else max(1, SPAN // count)
        return origin(value, conv, (count, interval), published, self.published.get(self.asking[-1]), self.files)

    def _family(self, name: str) -> dict[str, Any]:
        """What params.yaml says of a family."""
        found, place = self.params["families"].get(name, {}), f"families.{name}"
        check_mapping(place, found)
        known: dict[str, Any] = {"frame_interval": None, "frame_rate": None, "train": {}, "test": {}, "benchmark": {}}
        check_keys(place, found, known, complete=False)
        return known | found

    def _scale(self, origin: Origin | None) -> Scale:
        """Weights of a network at full size are for frames at full size, whatever the dataset is scaled down to."""
        section, own = _both(self.params, "scale")
        if origin is not None and origin.full_width:
            for key, same in (("width", 1.0), ("depth", origin.network and origin.network["depth"])):
                if own[1].get(key) not in (None, same):
                    raise ConfigError(f"scale.{key} is {short(own[1][key])}: {origin.source} decides the network")
            return _merge(Scale, [_layer(FULL_SIZE), own], nullable=("depth",))
        return _merge(Scale, [_layer(FULL_SIZE), section, own], nullable=("depth",))

    def _views(self, name: str, test: TestConfig, train: TrainConfig, scale: Scale) -> TestConfig:
        """Scaled down, a network is tested at the size that it is trained at: of a few pixels more its layers would see
        other sizes. At full size, and where the user says otherwise, as the recipe says."""
        said = name == CUSTOM and any(self.params["test"].get(key) is not None for key in ("resize", "crop"))
        if scale.resolution == 1 or said:
            return _shrink(test, scale)
        return test.model_copy(update={"resize": train.crop, "crop": train.crop})

    def _finetuned(self, scratch: list[Layer]) -> dict[str, Any]:
        """Training values of a row that starts from weights."""
        finetune = _merge(FinetuneConfig, [("finetune", self.params["finetune"])]).model_dump()
        said = self.params["train"].get("epochs") if self.asking[-1] == CUSTOM else None
        if isinstance(said, int) and said > 0:
            finetune["warmup_epochs"] = min(finetune["warmup_epochs"], said - 1)
        return {"lr": _merge(TrainConfig, self._accumulated(scratch)).lr * finetune.pop("rate"), **finetune}

    def _accumulated(self, layers: list[Layer]) -> list[Layer]:
        """`accumulate: auto` as a number: with fewer GPUs than the published configurations are for, an update is made
        from as many parts as it takes for their number of videos, or next to it."""
        last: dict[str, Any] = {}
        for _, layer in layers:
            if isinstance(layer, Mapping):
                last |= {key: layer[key] for key in ("accumulate", "config_gpus") if layer.get(key) is not None}
        if last.get("accumulate") != AUTO or not isinstance(last.get("config_gpus"), int):
            return layers
        parts = max(1, math.floor(last["config_gpus"] / self.shared["runtime"].gpus + 0.5))
        return [*layers, ("train", {"accumulate": parts})]


def _network(where: str, own: Mapping, model: ModelConfig, scale: Scale, origin: Origin | None) -> ModelConfig:
    """The row's network: that of its weights; else as the row says, scaled."""
    if origin is None or origin.network is None:
        chosen = own.get("depth")  # a depth that a row asks for is meant as it is
        depth = chosen if chosen is not None else scale.depth or model.depth
        return model.model_copy(update={"width": _scaled(model.width, scale.width, f"{where}.width"), "depth": depth})
    unsaid = {"width": FULL_WIDTH, "conv": "r2plus1d"}  # what params.yaml says of a row that asks for nothing else
    for key in ("depth", "conv", "width", "family"):
        if own.get(key) not in (None, unsaid.get(key), origin.network[key]):
            raise ConfigError(
                f"{where}.{key} is {short(own[key])}: the weights of {origin.source} are of a network with {key} "
                f"{origin.network[key]}; leave it as it is there, or take other weights"
            )
    return ModelConfig.model_validate(dict(origin.network))


def _source(where: str, entry: Any, limit: Limit) -> Any:
    """The validated source of a dataset, of which all else is looked at too."""
    check_mapping(where, entry)
    optional = ("path", "scale", "runtime", "train", "benchmark")
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
    return _merge(section, [(f"{where}.source", values)])


def _merge(section: type[Section], layers: list[Layer], nullable: Iterable[str] = ()) -> Any:
    """One validated section from values of rising priority, where null means inherited."""
    values, origin = dict.fromkeys(nullable), {}
    for where, layer in layers:
        check_mapping(where, layer)
        check_keys(where, layer, section.model_fields, complete=False)
        for key, value in layer.items():
            if value is not None:
                values[key], origin[key] = value, where
    try:
        return section.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise ConfigError(f"{layers[-1][0]}: {first['msg'].removeprefix('Value error, ')}") from error
        key = str(first["loc"][0])
        if first["type"] == "missing":
            raise ConfigError(f"{layers[-1][0]}.{key} is missing; give it a value in params.yaml") from error
        raise ConfigError(
            f"{origin.get(key, layers[-1][0])}.{key} is {short(values.get(key))}: {first['msg'].lower()}"
        ) from error


def _shrink(section: Any, scale: Scale) -> Any:
    pixels: dict[str, Any] = {"crop": _scaled(section.crop, scale.resolution, "crop")}
    if isinstance(section.resize, list):
        pixels["resize"] = [_scaled(side, scale.resolution, "resize") for side in section.resize]
    else:
        pixels["resize"] = _scaled(section.resize, scale.resolution, "resize")
    return section.model_copy(update=pixels)


def _scaled(value: int, factor: float, where: str) -> int:
    scaled = math.floor(value * factor + 0.5)
    if scaled < 1:
        raise ConfigError(f"{where}: {value} scaled by {factor} leaves nothing; choose a larger scale")
    return scaled


def _only(values: Mapping, section: type[Section]) -> dict:
    return {key: value for key, value in values.items() if key in section.model_fields}
