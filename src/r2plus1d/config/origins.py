"""Weights that others have published, by name: which network they are of, and where they lie.

Sources: MMAction2's model zoo, 0.x (metrics/published.json) and 1.x; moabitcoin/ig65m-pytorch, v1.0.0. What torchvision
says of its own weights is asked of torchvision, where they are read.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from r2plus1d.config.messages import nearest
from r2plus1d.system.errors import ConfigError

ROW = "row:"  # before the name of a trained row
TORCHVISION = "torchvision:"  # before the name of a network of torchvision's
FULL_WIDTH = 64  # channels after the stem, of all published weights


@dataclass(frozen=True)
class Origin:
    """Weights to start from or to test, and the network that they are of: its `model` section, complete."""

    source: str  # a path, an https address, or the name of a network of torchvision's
    network: Mapping[str, Any] | None = None  # None: not known before they are read

    @property
    def full_width(self) -> bool:
        return self.network is not None and self.network["width"] >= FULL_WIDTH


def _network(family: str, depth: int = 34, conv: str = "r2plus1d") -> dict[str, Any]:
    return {"family": family, "depth": depth, "conv": conv, "width": FULL_WIDTH}


_IG65M = "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/r2plus1d_34_"
IG65M = {
    "ig65m_8": f"{_IG65M}clip8_ig65m_from_scratch-9bae36ae.pth",
    "ig65m_32": f"{_IG65M}clip32_ig65m_from_scratch-449a7af9.pth",
    "ig65m_8_kinetics": f"{_IG65M}clip8_ft_kinetics_from_ig65m-0aa0550b.pth",
    "ig65m_32_kinetics": f"{_IG65M}clip32_ft_kinetics_from_ig65m-ade133f1.pth",
}
_NEWER = "https://download.openmmlab.com/mmaction/v1.0/recognition/r2plus1d/r2plus1d_r34_8xb8-"
PUBLISHED_1X = {  # by frames and interval
    (8, 8): f"{_NEWER}8x8x1-180e_kinetics400-rgb/r2plus1d_r34_8xb8-8x8x1-180e_kinetics400-rgb_20220812-47cfe041.pth",
    (32, 2): f"{_NEWER}32x2x1-180e_kinetics400-rgb/r2plus1d_r34_8xb8-32x2x1-180e_kinetics400-rgb_20220812-4270588c.pth",
}
PUBLISHED_CLIPS = {  # frames and interval of the published rows; the last of those with the same is the most accurate
    "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_256p": (8, 8),
    "r2plus1d_r34_video_8x8x1_180e_kinetics400_rgb": (8, 8),
    "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_320p": (8, 8),
    "r2plus1d_r34_32x2x1_180e_kinetics400_rgb": (32, 2),
}
TORCHVISION_CONVS = {"r2plus1d": "r2plus1d_18", "r3d": "r3d_18", "mc3": "mc3_18"}
NAMES = ("published", "published_1x", "torchvision", *IG65M)

Clip = tuple[int, int]  # frames, interval


def origin(
    name: str, conv: str, clip: Clip, published: Mapping[Clip, str], own: str | None, files: Mapping[str, Mapping]
) -> Origin:
    """What a name, a path or an address stands for, for a row with this convolution and clip; not `row:`.

    `published` are the addresses of the published rows by clip, `own` is that of this very row; `files` says of which
    networks the weights are that lie on this machine. Raises ConfigError for an unknown name.
    """
    if name == "published":
        if not (own or published):
            raise ConfigError("no published weights are known here")
        return Origin(own or published[closest(clip, published)], _network("mmaction"))
    if name == "published_1x":
        return Origin(PUBLISHED_1X[closest(clip, PUBLISHED_1X)], _network("mmaction"))
    if name in IG65M:
        return Origin(IG65M[name], _network("ig65m"))
    if name.partition(":")[0] == "torchvision":
        return _of_torchvision(name, conv)
    if "://" in name:
        known = {*published.values(), *PUBLISHED_1X.values()}
        family = "mmaction" if name in known else "ig65m" if name in IG65M.values() else None
        return Origin(name, _network(family) if family else None)
    if is_path(name):
        return Origin(name, files.get(name))
    raise ConfigError(
        f"{nearest(name, (*NAMES, ROW + 'NAME'), 'name of weights')}; or give the path or https address of a file"
    )


def is_path(name: str) -> bool:
    """Whether a name of weights is the path of a file: not an address, not a name from the list above."""
    return "://" not in name and not name.startswith((ROW, TORCHVISION)) and ("/" in name or "." in name)


def _of_torchvision(name: str, conv: str) -> Origin:
    """Of `torchvision`, by the row's convolution, or of one of its networks by name."""
    _, colon, network = name.partition(":")
    found = network if colon else TORCHVISION_CONVS.get(conv, "")
    if found not in TORCHVISION_CONVS.values():
        known = ", ".join(f"{TORCHVISION}{network} (conv {conv})" for conv, network in TORCHVISION_CONVS.items())
        raise ConfigError(f"torchvision has no {network or f'weights of conv {conv}'}; there are {known}")
    of = {network: conv for conv, network in TORCHVISION_CONVS.items()}
    return Origin(TORCHVISION + found, _network("torchvision", 18, of[found]))


def closest(clip: Clip, known: Iterable[Clip]) -> Clip:
    """The clip that is fewest doublings away, in frames and then in interval; of equals the first."""

    def doublings(other: Clip) -> tuple[float, float]:
        frames, interval = (abs(math.log2(a / b)) for a, b in zip(clip, other, strict=True))
        return frames + interval, frames

    return min(known, key=doublings)
