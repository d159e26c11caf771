"""Keys and values of params.yaml that cannot be used: refused in words that name the nearest that can."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from r2plus1d.system.errors import ConfigError

# The row that the section `model` describes, and the records of the stages that all rows share.
TAKEN = ("custom", "data")


_REPR = reprlib.Repr()
_REPR.maxstring, _REPR.maxother, _REPR.maxlevel = 120, 120, 2


def check_mapping(where: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {short(value)}: expected keys with values below it")


def check_keys(
    where: str, values: Mapping, known: Iterable[str], complete: bool = True, optional: Iterable[str] = ()
) -> None:
    known, optional = list(known), list(optional)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {short(key)}: " + nearest(key, known, "key"))
    for key in known if complete else ():
        if key not in values and key not in optional:
            raise ConfigError(f"{where}.{key} is missing; give it a value in params.yaml")


def check_name(where: str, name: Any) -> None:
    """Names of datasets and rows are also those of folders."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]{0,99}", name, re.ASCII) or name in TAKEN:
        raise ConfigError(
            f"{where}: the name {short(name)} cannot be used; choose one of letters, digits, _, -, + and ., but not "
            f"{', '.join(TAKEN)}"
        )


def short(value: Any) -> str:
    """As Python writes it, but never long: aliases can make a value of any size."""
    return _REPR.repr(value)


def nearest(name: Any, known: Iterable[str], noun: str) -> str:
    close = difflib.get_close_matches(str(name)[:100] if isinstance(name, str | int | float) else "", known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"no such {noun}; there are {', '.join(known)}"
