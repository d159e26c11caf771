"""Which videos can be read, how many frames each has, how large they are and what they look like: every one is decoded
once, whole."""

import functools
from pathlib import Path

from r2plus1d.datasets.manifest import Looks, Probed, Unreadable
from r2plus1d.system.errors import FrameError
from r2plus1d.system.progress import progress
from r2plus1d.video import sandbox
from r2plus1d.video.decoding import VideoError
from r2plus1d.video.groups import Listed, Machines, check_content, in_groups
from r2plus1d.video.loose import frame_size


def probe(
    videos: Path, listed: list[Listed], work: Path, machines: Machines
) -> tuple[list[Probed], list[Looks], list[Unreadable]]:
    """(what was found of those below `videos`, what they look like, those that are set aside: unreadable, cut off or
    without frames).

    What an interrupted run noted in `work` is kept: it must differ where the code or the videos differ. `groups.forget`
    removes it, once the tables are written.
    """
    look = functools.partial(_look, videos=videos.absolute())
    found = list(in_groups(look, _always, sorted(listed), work, machines, "looking at videos"))
    readable = [Probed(*row) for group in found for row in group["readable"]]
    looks = [Looks(*row) for group in found for row in group["looks"]]
    return readable, looks, [Unreadable(*row) for group in found for row in group["unreadable"]]


def probe_loose(
    root: Path, counts: dict[str, int], frame_name: str, rate: float
) -> tuple[list[Probed], list[Unreadable]]:
    """The same for frames in loose files below `root`, whose number by path is `counts`, but for what they look like:
    of each video the first one is opened. `rate` is how many they are a second, 0 where nobody says."""
    readable, unreadable = [], []
    for path in progress(sorted(counts), len(counts), "looking at frames", "videos"):
        try:
            readable.append(Probed(path, counts[path], *frame_size(root / path, frame_name), rate))
        except FrameError as error:
            unreadable.append(Unreadable(path, str(error)))
    return readable, unreadable


def _look(_: int, group: list[Listed], videos: Path) -> dict:
    readable, looks, unreadable = [], [], []
    for video in group:
        try:
            check_content(videos / video.path, video)
            found = sandbox.measure(videos / video.path)
            readable.append((video.path, found.frames, found.height, found.width, found.rate))
            looks.append((video.path, found.looks))
        except VideoError as error:
            unreadable.append((video.path, str(error)))
    return {"readable": readable, "looks": looks, "unreadable": unreadable}


def _always(_: int) -> bool:
    """Nothing is left behind but the note."""
    return True
