"""From params.yaml to one validated configuration per row: what is inherited, what `scale` shrinks, what is refused.

A row's configuration is complete: with the data, it decides every byte of the row's results. How many processes and
machines work is not in it, because that changes none of them.
"""

import math
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from r2plus1d.config.messages import check_keys, check_mapping, check_name, nearest, short
from r2plus1d.config.schema import (
    CUSTOM,
    BenchmarkConfig,
    ClipConfig,
    DataConfig,
    FolderSource,
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
from r2plus1d.system.errors import ConfigError

SPAN = 64  # frames that a clip of any row covers, which fixes the interval where none is given
SOURCES = {
    "motion": MotionSource,
    "folder": FolderSource,
    "lists": ListsSource,
    "kinetics": KineticsSource,
    "ucf101": OfficialSource,
    "hmdb51": OfficialSource,
}


Layer = tuple[str, Mapping[str, Any]]  # where in params.yaml, and the values given there


def resolve(
    params: Mapping[str, Any], published: Mapping[str, str] = MappingProxyType({})
) -> tuple[DataConfig, list[RowConfig]]:
    """The data configuration and one configuration for each zoo row and for `custom`, in the order of the tables.

    `published` are the addresses of the published weights, by row. Raises ConfigError for a key that does not exist
    (with the nearest that does), a missing key, or a value of a wrong type or out of range.
    """
    sections = ("dataset", "seed", "model", "train", "test", "benchmark", "datasets", "recipe", "zoo")
    check_keys("params.yaml", params, sections)
    for name in sections[2:]:
        check_mapping(name, params[name])
    seed = params["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        raise ConfigError(f"seed is {short(seed)}: expected a whole number from 0 to {2**31 - 1}")
    datasets = params["datasets"]
    for name in datasets:
        check_name("datasets", name)
    for name in params["zoo"]:
        check_name("zoo", name)
    if not isinstance(params["dataset"], str) or params["dataset"] not in datasets:
        raise ConfigError(f"dataset is {short(params['dataset'])}: " + nearest(params["dataset"], datasets, "entry"))
    check_keys("recipe", params["recipe"], ("model", "train", "test", "benchmark"))
    parts = {name: _dataset(f"datasets.{name}", entry) for name, entry in datasets.items()}
    source, scale, runtime = parts[params["dataset"]]
    path = datasets[params["dataset"]]["path"]
    shared = {"dataset": params["dataset"], "seed": seed, "in_place": None, "loose_frames": None}
    if isinstance(source, ListsSource):
        where = f"datasets.{params['dataset']}"
        if path is None:
            raise ConfigError(f"{where}.path is null: give it the folder that the lists' paths start from")
        if source.val is None:
            raise ConfigError(f"{where}.source.val is null: give it the path of the validation list")
        shared["in_place"] = path
        shared["loose_frames"] = source.frame_name if source.content == "frames" else None
    if isinstance(source, KineticsSource | OfficialSource):
        shared["in_place"] = f"{path or 'downloads/' + params['dataset']}/videos"
    rows = [_row(params, name, scale, runtime, shared, published) for name in (*params["zoo"], CUSTOM)]
    short_sides = dict(sorted({row.frames: row.clip.short_side for row in rows}.items()))
    if isinstance(source, MotionSource):
        pixels = 2 * _scaled(source.short_side // 2, scale.resolution, "short_side")  # even, as the codec needs it
        source = source.model_copy(update={"short_side": pixels})
    return DataConfig(**shared, source=source, path=path, short_sides=short_sides), rows


def _row(
    params: Mapping, name: str, scale: Scale, runtime: Runtime, shared: dict, published: Mapping[str, str]
) -> RowConfig:
    recipe, dataset = params["recipe"], f"datasets.{shared['dataset']}"
    layers = {key: [(f"recipe.{key}", recipe[key])] for key in ("model", "train", "test", "benchmark")}
    defaults = {key: (f"{dataset}.{key}", params["datasets"][shared["dataset"]][key]) for key in ("train", "benchmark")}
    if name == CUSTOM:
        where, own = "model", params["model"]
        check_keys(where, own, (*ModelConfig.model_fields, *ClipConfig.model_fields, "checkpoint"))
        layers["model"].append((where, _only(own, ModelConfig)))
        for key in ("train", "test", "benchmark"):
            layers[key] += [defaults[key]] if key in defaults else []
            layers[key].append((key, params[key]))
    else:
        where, own = f"zoo.{name}", params["zoo"][name]
        check_mapping(where, own)
        check_keys(where, own, (*ClipConfig.model_fields, "videos_per_gpu", "checkpoint"))
        layers["train"] += [(where, _only(own, TrainConfig)), defaults["train"]]
        layers["benchmark"].append(defaults["benchmark"])
    clip = _only(own, ClipConfig)
    if clip["frame_interval"] is None and isinstance(clip["frames"], int) and clip["frames"] > 0:
        clip["frame_interval"] = max(1, SPAN // clip["frames"])
    unscaled = _merge(ClipConfig, [(where, clip)])
    model = _merge(ModelConfig, layers["model"])
    chosen = own.get("depth")  # a depth that `custom` asks for is meant as it is
    depth = chosen if chosen is not None else scale.depth or model.depth
    scaled_model = {"width": _scaled(model.width, scale.width, f"{where}.width"), "depth": depth}
    pixels = {"short_side": _scaled(unscaled.short_side, scale.resolution, f"{where}.short_side")}
    return RowConfig(
        row=name,
        **shared,
        scale=scale,
        model=model.model_copy(update=scaled_model),
        clip=unscaled.model_copy(update=pixels),
        frames=f"{unscaled.short_side}p",
        checkpoint=_checkpoint(where, own["checkpoint"], published.get(name)),
        train=_shrink(_merge(TrainConfig, layers["train"]), scale),
        test=_shrink(_merge(TestConfig, layers["test"]), scale),
        benchmark=_merge(BenchmarkConfig, layers["benchmark"]),
        runtime=runtime,
    )


def _checkpoint(where: str, value: Any, published: str | None) -> str | None:
    if value == "published":
        if published is None:
            raise ConfigError(f"{where}.checkpoint is 'published': there are published weights of the zoo rows only")
        return published
    if value is None or (isinstance(value, str) and value.endswith((".pth", ".safetensors"))):
        return value
    raise ConfigError(
        f"{where}.checkpoint is {short(value)}: expected published, the path or https address of a .pth or "
        ".safetensors, or null to train"
    )


def _dataset(where: str, entry: Any) -> tuple[Section, Scale, Runtime]:
    check_mapping(where, entry)
    check_keys(where, entry, ("source", "path", "scale", "runtime", "train", "benchmark"))
    for key in ("source", "scale", "runtime", "train", "benchmark"):
        check_mapping(f"{where}.{key}", entry[key])
    kind = entry["source"].get("kind")
    if not isinstance(kind, str) or kind not in SOURCES:
        raise ConfigError(f"{where}.source.kind is {short(kind)}: " + nearest(kind, SOURCES, "kind"))
    if not (entry["path"] is None or isinstance(entry["path"], str)):
        raise ConfigError(f"{where}.path is {short(entry['path'])}: expected the path of a folder, or null")
    check_keys(f"{where}.train", entry["train"], TrainConfig.model_fields, complete=False)
    check_keys(f"{where}.benchmark", entry["benchmark"], BenchmarkConfig.model_fields, complete=False)
    runtime = dict(entry["runtime"])
    count = runtime.pop("workers", None)
    if count != "auto" and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        raise ConfigError(
            f"{where}.runtime.workers is {short(count)}: expected a number of processes, 0 or more, or auto"
        )
    address = runtime.pop("scheduler", None)
    if address is not None and not (isinstance(address, str) and re.fullmatch(r"[a-z]+://\S+:[0-9]+", address)):
        raise ConfigError(f"{where}.runtime.scheduler is {short(address)}: expected such as tcp://host:8786, or null")
    if "limit" in SOURCES[kind].model_fields:
        count = runtime.pop("connections", None)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 16:
            raise ConfigError(f"{where}.runtime.connections is {short(count)}: expected a number from 1 to 16")
        check_mapping(f"{where}.source.limit", entry["source"].get("limit"))
        _merge(Limit, [(f"{where}.source.limit", entry["source"]["limit"])])
    return (
        _merge(SOURCES[kind], [(f"{where}.source", entry["source"])]),
        _merge(Scale, [(f"{where}.scale", entry["scale"])], nullable=("depth",)),
        _merge(Runtime, [(f"{where}.runtime", runtime)], nullable=("threads",)),
    )


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
    pixels = {key: _scaled(getattr(section, key), scale.resolution, key) for key in ("resize", "crop")}
    return section.model_copy(update=pixels)


def _scaled(value: int, factor: float, where: str) -> int:
    scaled = math.floor(value * factor + 0.5)
    if scaled < 1:
        raise ConfigError(f"{where}: {value} scaled by {factor} leaves nothing; choose a larger scale")
    return scaled


def _only(values: Mapping, section: type[Section]) -> dict:
    return {key: value for key, value in values.items() if key in section.model_fields}
