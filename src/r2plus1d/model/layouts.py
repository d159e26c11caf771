"""State dicts of other libraries under our names; and which network a state dict is of.

Our names are MMAction's. torchvision's are those of its video ResNets (`r2plus1d_18`, `r3d_18`, `mc3_18`), and of
IG-65M's networks, which are built from them. Networks with bottlenecks have no weights under torchvision's names.
"""

import re
from collections.abc import Sequence

from torch import Tensor

from r2plus1d.model.network import BLOCKS, CONVS, ClipConv, Conv2plus1d, full_conv, split_width

# The beginnings of a name: theirs, ours. # stands for a number, such as that of a block.
Pairs = Sequence[tuple[str, str]]
SPLIT: Pairs = (
    ("stem.0", "backbone.conv1.conv.conv_s"),
    ("stem.1", "backbone.conv1.conv.bn_s"),
    ("stem.3", "backbone.conv1.conv.conv_t"),
    ("stem.4", "backbone.conv1.bn"),
    ("layer#.#.conv#.0.0", "backbone.layer#.#.conv#.conv.conv_s"),
    ("layer#.#.conv#.0.1", "backbone.layer#.#.conv#.conv.bn_s"),
    ("layer#.#.conv#.0.3", "backbone.layer#.#.conv#.conv.conv_t"),
)
WHOLE: Pairs = (
    ("stem.0", "backbone.conv1.conv"),
    ("stem.1", "backbone.conv1.bn"),
    ("layer#.#.conv#.0", "backbone.layer#.#.conv#.conv"),
)
BOTH: Pairs = (
    ("layer#.#.conv#.1", "backbone.layer#.#.conv#.bn"),
    ("layer#.#.downsample.0", "backbone.layer#.#.downsample.conv"),
    ("layer#.#.downsample.1", "backbone.layer#.#.downsample.bn"),
    ("fc", "cls_head.fc_cls"),
)


def is_torchvision(state: dict[str, Tensor]) -> bool:
    return "stem.0.weight" in state


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under our names. A name that theirs do not have stays as it is."""
    pairs = (*(SPLIT if "stem.3.weight" in state else WHOLE), *BOTH)
    return {_renamed(name, pairs): tensor for name, tensor in state.items()}


def arguments_of(state: dict[str, Tensor], theirs: bool) -> dict:
    """The arguments of `network.build` for a state dict under our names. `theirs`: torchvision had named them, which
    tells the families of networks whose convolutions are not split.

    Raises ValueError where it is of no network that `build` makes.
    """
    depth, conv = _depth(state), _conv(state)
    split = conv == "r2plus1d"
    stem = "backbone.conv1.conv.conv_t.weight" if split else "backbone.conv1.conv.weight"
    width = _of(state, stem).shape[0]
    found = {"depth": depth, "conv": conv, "width": width, "num_classes": len(_of(state, "cls_head.fc_cls.bias"))}
    if conv == "r2d":
        found["frames"] = _of(state, stem).shape[2]
    if theirs or (split and "backbone.layer2.0.downsample.conv.weight" in state):
        mid = _of(state, "backbone.layer2.0.conv2.conv.conv_s.weight").shape[0] if split else None
        found["family"] = "ig65m" if mid == split_width(2 * width, 2 * width, 9) else "torchvision"
    return found


def _depth(state: dict[str, Tensor]) -> int:
    numbers = [re.match(r"backbone\.layer(\d+)\.(\d+)\.", name) for name in state]
    places = {(int(match[1]), int(match[2])) for match in numbers if match}
    blocks = tuple(sum(stage == s for s, _ in places) for stage in (1, 2, 3, 4))
    bottleneck = any(name.startswith("backbone.layer1.0.conv3.") for name in state)
    for depth, known in BLOCKS.items():
        if known == blocks and (depth >= 50) == bottleneck:
            return depth
    raise ValueError(f"its four stages have {', '.join(map(str, blocks))} blocks, as those of no depth here")


def _conv(state: dict[str, Tensor]) -> str:
    if "backbone.conv1.conv.conv_s.weight" in state:
        return "r2plus1d"
    names = ["backbone.conv1.conv.weight", *(f"backbone.layer{stage}.0.conv2.conv.weight" for stage in (1, 2, 3, 4))]
    stem, *stages = (_of(state, name).shape[2] for name in names)
    for name, (first, *rest) in CONVS.items():
        spans = [3 if conv is full_conv else 1 for conv in (first, *rest)]
        if first not in (Conv2plus1d, ClipConv) and [stem, *stages] == spans:
            return name
    if stages == [1, 1, 1, 1]:
        return "r2d"  # its stem spans the clip
    raise ValueError(f"its convolutions span {', '.join(map(str, (stem, *stages)))} frames, as those of none here")


def _of(state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"it has no {name}")
    return state[name]


def _renamed(name: str, pairs: Pairs) -> str:
    for before, after in pairs:
        pattern = re.escape(before).replace(r"\#", r"(\d+)")
        if match := re.match(rf"{pattern}(?=\.)", name):
            numbers = iter(match.groups())
            return re.sub("#", lambda _: next(numbers), after) + name[match.end() :]  # noqa: B023 (used at once)
    return name
