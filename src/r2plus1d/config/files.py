"""params.yaml and the configuration files, read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from r2plus1d.config import strict_yaml
from r2plus1d.config.messages import check_mapping, short
from r2plus1d.config.schema import DataConfig, RowConfig, Section
from r2plus1d.system.errors import ConfigError


def read_params(path: Path) -> dict:
    """params.yaml as plain data. Raises ConfigError for a file that is not one YAML mapping of plain values, or has a
    key twice."""
    try:
        params = strict_yaml.load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:500]}") from error
    if not isinstance(params, dict):
        raise ConfigError(f"{path}: expected sections such as `dataset:` and `model:`, found {type(params).__name__}")
    return params


def connections(params: Mapping[str, Any]) -> int:
    """To the server that the dataset in use comes from."""
    return _runtime(params).get("connections", 1)


def workers(params: Mapping[str, Any]) -> int | None:
    """Reader processes for the dataset in use; None stands for `auto`."""
    value = _runtime(params).get("workers")
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ConfigError(f"runtime.workers is {short(value)}: expected a number of processes, 0 or more, or auto")
    return None if value == "auto" else value


def scheduler(params: Mapping[str, Any]) -> str | None:
    """Address of the Dask cluster that extracts the frames of the dataset in use; None: this machine does."""
    return _runtime(params).get("scheduler")


def _runtime(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the dataset in use; params.yaml may have changed since `resolve` checked it."""
    try:
        runtime = params["datasets"][params["dataset"]]["runtime"]
    except (LookupError, TypeError) as error:
        raise ConfigError(
            f"params.yaml has changed: no datasets.<dataset>.runtime ({error}); run `dvc repro`"
        ) from error
    check_mapping("runtime", runtime)
    return runtime


def read_row(path: Path) -> RowConfig:
    """Raises ConfigError for a file that `resolve` did not write so."""
    return _read(path, RowConfig)


def read_data(path: Path) -> DataConfig:
    """Raises ConfigError for a file that `resolve` did not write so."""
    return _read(path, DataConfig)


def dump(config: Section) -> str:
    return json.dumps(config.model_dump(), indent=2) + "\n"


def _read(path: Path, section: type[Section]) -> Any:
    try:
        return section.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(key) for key in first["loc"])
        raise ConfigError(
            f"{path}: {place + ': ' if place else ''}{first['msg'].lower()}; run `dvc repro --force resolve`"
        ) from error
