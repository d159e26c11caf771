"""YAML of plain values only, read as DVC reads it: what the two would take for different values is refused.

PyYAML alone lets the last of two equal keys win, reads 010 as 8 and 1:30 as 90, and 1e-05 as text.
"""

import re
from typing import Any

import yaml

MOST_NODES = 100_000  # with every alias written out; params.yaml has some 400
DEEPEST = 50


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def load(text: str) -> Any:
    """Dictionaries, lists, strings, numbers, booleans, dates and None. Raises yaml.YAMLError, and nothing else."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {}, 0)
        return loader.construct_document(node)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:  # such as of the 99th of May
        raise yaml.YAMLError(f"{type(error).__name__}: {str(error)[:200]}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _check(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """The nodes below, aliases written out. Raises YAMLError for too many, a key given twice, and an odd number."""
    if id(node) in sizes:
        return sizes[id(node)]
    if depth > DEEPEST:
        raise yaml.YAMLError(f"nested more than {DEEPEST} deep, or in itself{node.start_mark}")
    below = []
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or (key.value in keys and key.tag != "tag:yaml.org,2002:merge"):
                raise yaml.YAMLError(f"the key {str(key.value)[:80]!r} stands there twice, or is none{key.start_mark}")
            keys.add(key.value)
        below = [value for pair in node.value for value in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    elif node.tag == "tag:yaml.org,2002:int" and not re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,30})", node.value):
        raise yaml.YAMLError(f"{node.value[:80]!r}: write whole numbers plainly, such as 90{node.start_mark}")
    elif node.tag == "tag:yaml.org,2002:float" and ":" in node.value:
        raise yaml.YAMLError(f"{node.value[:80]!r}: write numbers plainly, such as 0.1{node.start_mark}")
    size = 1 + sum(_check(child, sizes, depth + 1) for child in below)
    if size > MOST_NODES:
        raise yaml.YAMLError(f"more than {MOST_NODES} values{node.start_mark}")
    sizes[id(node)] = size
    return size
