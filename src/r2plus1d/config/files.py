"""params.yaml and the configuration files, read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml.error import YAMLError

from r2plus1d.config import strict_yaml
from r2plus1d.config.messages import check_keys, check_mapping, short
from r2plus1d.config.schema import ROW_FILES, DataConfig, Machine, Section
from r2plus1d.system.errors import ConfigError, one_line

R = TypeVar("R", bound=Section)


def read_params(path: Path) -> dict:
    """params.yaml as plain data. Raises ConfigError for a file that is not one YAML mapping of plain values, or has a
    key twice."""
    try:
        params = strict_yaml.load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: {one_line(error)}; run it in the project's root folder") from error
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
    if not isinstance(params, dict):
        raise ConfigError(f"{path}: expected sections such as `dataset:` and `model:`, found {type(params).__name__}")
    return params


def machine(params: Mapping[str, Any]) -> Machine:
    """How many processes, connections and machines work, which changes no result. Raises ConfigError."""
    values: Any = params.get("machine")
    check_mapping("machine", values)
    check_keys("machine", values, Machine.model_fields)
    try:
        return Machine.model_validate(values)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        raise ConfigError(f"machine.{key} is {short(values[key])}: expected {Machine.expected(key)}") from error


def read_row(folder: Path, row: str, kind: type[R]) -> R:
    """What the stage that reads this `kind` needs of a row. Raises ConfigError for a row without a configuration, and
    for a file that `resolve` did not write so."""
    path = folder / row / f"{ROW_FILES[kind]}.json"
    if not path.is_file():
        known = sorted(file.parent.name for file in folder.glob(f"*/{path.name}"))
        hint = f"there are {', '.join(known)}" if known else "run `dvc repro resolve` first"
        raise ConfigError(f"{path} is missing: no row {row!r}; {hint}")
    return _read(path, kind)


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
