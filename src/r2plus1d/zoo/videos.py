"""The videos that a command is given. Without torch: what is wrong with them is told at once."""

from collections.abc import Sequence
from pathlib import Path

from r2plus1d.datasets.manifest import VIDEO_SUFFIXES
from r2plus1d.system.errors import ConfigError


def find_videos(places: Sequence[Path]) -> list[Path]:
    """Every file that is named, and below folders those whose names end like a video's; sorted within a folder.

    Raises ConfigError for a place that is not there, and a folder without videos.
    """
    found: list[Path] = []
    for place in places:
        if not place.is_dir():
            if not place.exists():
                raise ConfigError(f"{place}: no such file or folder")
            found.append(place)
            continue
        named = [file for file in sorted(place.rglob("*")) if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()]
        inside = [f for f in named if not any(part.startswith(".") for part in f.relative_to(place).parts)]
        if not inside:
            raise ConfigError(
                f"{place}: no file in this folder ends like a video's ({', '.join(sorted(VIDEO_SUFFIXES))})"
            )
        found += inside
    return list(dict.fromkeys(found))
