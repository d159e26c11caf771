"""YAML read by the library that DVC reads it with, and in the same way; within limits, for files from elsewhere."""

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

MOST_VALUES = 100_000  # with every alias written out; params.yaml has some 400
MOST_BRACKETS = 10_000  # each takes the parser 30 microseconds
DEEPEST = 50
NULL = "tag:yaml.org,2002:null"


def load(text: str) -> Any:
    """Dictionaries, lists, strings, numbers, booleans, dates and None. Raises YAMLError, and nothing else."""
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise YAMLError(f"more than {MOST_BRACKETS} brackets")
    try:
        value = YAML(typ="safe", pure=True).load(text)  # its C parser crashes where nesting has no end
        _count(value, {}, 0)
    except MarkedYAMLError as error:  # without the library's advice
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise YAMLError(f"{error.problem}{place}") from error
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:  # such as of the 99th of May
        raise YAMLError(f"{type(error).__name__}: {str(error)[:200]}") from error
    return value


def to_edit(text: str) -> Any:
    """The same, for `edited`: it remembers comments and layout. For a file that `load` has taken."""
    return _editor().load(text)


def edited(values: Any) -> str:
    """What `to_edit` gave, with changes, as DVC would write it."""
    target = io.StringIO()
    _editor().dump(values, target)
    return target.getvalue()


def _editor() -> YAML:
    editor = YAML()
    editor.indent(mapping=2, sequence=4, offset=2)
    editor.width = 4096  # no line is broken
    editor.preserve_quotes = True
    editor.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(NULL, "null"))
    return editor


def _count(value: Any, known: dict[int, int], depth: int) -> int:
    """The values below, aliases written out. Raises YAMLError for too many."""
    if not isinstance(value, dict | list):
        return 1
    if depth > DEEPEST:
        raise YAMLError(f"nested more than {DEEPEST} deep, or in itself")
    if id(value) not in known:
        below = value.values() if isinstance(value, dict) else value
        if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            raise YAMLError(f"the key {next(key for key in value if not isinstance(key, str))!r:.80} is no text")
        known[id(value)] = 1 + sum(_count(child, known, depth + 1) for child in below)
        if known[id(value)] > MOST_VALUES:
            raise YAMLError(f"more than {MOST_VALUES} values")
    return known[id(value)]
