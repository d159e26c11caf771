"""The videos that a command is given. Without torch: what is wrong with them is told at once."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from r2plus1d.datasets.manifest import VIDEO_SUFFIXES
from r2plus1d.system.errors import ConfigError, printable


def find_videos(places: Sequence[Path]) -> list[Path]:
    """Every file that is named, and below folders those whose names end like a video's; sorted within a folder. What
    cannot be looked into is told.

    Raises ConfigError for a place that is not there, and a folder without videos.
    """
    found: list[Path] = []
    for place in places:
        if not place.is_dir():
            if not place.exists():
                if str(place).startswith(("http:/", "https:/")):  # a path has one slash there
                    raise ConfigError(f"{place}: an address; videos are not fetched: download it, and give the file")
                raise ConfigError(f"{place}: no such file or folder")
            found.append(place)
            continue
        inside = _below(place)
        if not inside:
            raise ConfigError(
                f"{place}: no file in this folder ends like a video's ({', '.join(sorted(VIDEO_SUFFIXES))})"
            )
        found += inside
    return list(dict.fromkeys(found))


def _below(place: Path) -> list[Path]:
    def tell(file: Path | str, reason: str) -> None:
        print(f"{printable(str(file))}: {reason}, passed over", file=sys.stderr, flush=True)

    found = []
    for folder, folders, names in os.walk(place, onerror=lambda error: tell(error.filename, str(error.strerror))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for link in (Path(folder, name) for name in folders if os.path.islink(Path(folder, name))):
            tell(link, "a link to a folder")
        for file in (Path(folder, name) for name in names if not name.startswith(".")):
            if file.suffix.lower() in VIDEO_SUFFIXES:
                found.append(file) if file.is_file() else tell(file, "no file, or a link to nowhere")
    return sorted(found)
