"""Values of rising priority from several places in params.yaml, merged into one validated section."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from r2plus1d.config.messages import check_keys, check_mapping, short
from r2plus1d.config.schema import Scale, Section
from r2plus1d.system.errors import ConfigError

Layer = tuple[str, Mapping[str, Any]]  # where in params.yaml, and the values given there


def layer(defaults: Mapping[str, Any]) -> Layer:
    return "params.yaml", defaults


def both(params: Mapping[str, Any], section: str) -> list[Layer]:
    """What the dataset in use says of a section, and what the section itself says, which has the last word."""
    name = params["dataset"]
    return [(f"datasets.{name}.{section}", params["datasets"][name].get(section, {})), (section, params[section])]


def merge(section: type[Section], layers: list[Layer], nullable: Iterable[str] = ()) -> Any:
    """One validated section from values of rising priority, where null means inherited."""
    values, origin = dict.fromkeys(nullable), {}
    for where, given in layers:
        check_mapping(where, given)
        check_keys(where, given, section.model_fields, complete=False)
        for key, value in given.items():
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


def shrink(section: Any, scale: Scale) -> Any:
    pixels: dict[str, Any] = {"crop": scaled(section.crop, scale.resolution, "crop")}
    if isinstance(section.resize, list):
        pixels["resize"] = [scaled(side, scale.resolution, "resize") for side in section.resize]
    else:
        pixels["resize"] = scaled(section.resize, scale.resolution, "resize")
    return section.model_copy(update=pixels)


def scaled(value: int, factor: float, where: str) -> int:
    scaled = math.floor(value * factor + 0.5)
    if scaled < 1:
        raise ConfigError(f"{where}: {value} scaled by {factor} leaves nothing; choose a larger scale")
    return scaled


def only(values: Mapping, section: type[Section]) -> dict:
    return {key: value for key, value in values.items() if key in section.model_fields}
