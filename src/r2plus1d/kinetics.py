"""The layout of Kinetics-400, -600 and -700-2020 as the CVDF mirror keeps them.

Below the address of a dataset, such as .../kinetics/400: annotations/{split}.csv (label, youtube_id, time_start,
time_end, ...), {split}/k400_{split}_path.txt with the addresses of the parts, and the parts, .tar.gz of files
`{youtube_id}_{start:06d}_{end:06d}.mp4`. Those of Kinetics-600 are named after classes, with more videos in them than
its .csv lists.
"""

import io
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

import pandas as pd

from r2plus1d.catalogue import Catalogue, Part, Video, folder_name
from r2plus1d.downloads import DownloadError
from r2plus1d.existing import SECONDS
from r2plus1d.fetch import fetch
from r2plus1d.lists import read_text
from r2plus1d.sections import KineticsSource
from r2plus1d.video import VIDEO_SUFFIXES

COLUMNS = ["label", "youtube_id", "time_start", "time_end"]


def catalogue(source: KineticsSource, folder: Path) -> Catalogue:
    """Fetches annotations and part lists into `folder`, once. The classes are those of all annotations, sorted.

    Raises FetchError, and DownloadError for an annotation or list of another layout.
    """
    videos: dict[tuple[str, str], Video] = {}
    for split in ("train", "val"):
        url = f"{source.url}/annotations/{split}.csv"
        rows = _rows(read_text(fetch(url, folder)), url)
        ids = Counter(youtube_id for _, youtube_id, _, _ in rows)
        for label, youtube_id, start, end in rows:
            stem = f"{youtube_id}_{start:06d}_{end:06d}"
            video = Video(f"{split}/{folder_name(label)}/{stem}.mp4", label, split)
            videos.setdefault((split, stem), video)
            if ids[youtube_id] == 1:  # some files differ from their annotation in the seconds
                videos[split, youtube_id] = video
    classes = sorted({video.label for video in videos.values()})
    parts = [
        part for split in ("train", "val") if split in source.limit.splits for part in _parts(source, split, folder)
    ]
    by_folder = {folder_name(label): label for label in classes}
    named = [Part(p.url, p.splits, by_folder.get(folder_name(p.name.removesuffix(".tar.gz")))) for p in parts]
    if source.replacements and "train" in source.limit.splits:  # first, since the first file of a name is taken
        named.insert(0, Part(f"{source.url}/{source.replacements}", ("train",)))
    return Catalogue(classes, videos, named, keys)


def keys(member: str) -> list[str]:
    name = PurePosixPath(member)
    if name.suffix.lower() not in VIDEO_SUFFIXES:
        return []
    return list(dict.fromkeys((name.stem, SECONDS.sub("", name.stem))))


def _parts(source: KineticsSource, split: str, folder: Path) -> list[Part]:
    """Beside their list, whatever addresses it gives: a copy of the mirror need not change its lists."""
    base = f"{source.url}/{split}"
    url = f"{base}/k{source.url.rsplit('/', 1)[1]}_{split}_path.txt"
    names = [line.strip().rsplit("/", 1)[-1] for line in read_text(fetch(url, folder)).splitlines() if line.strip()]
    if wrong := next((name for name in names if not name.endswith((".tar.gz", ".tgz"))), None if names else "nothing"):
        raise DownloadError(f"{url}: expected addresses of .tar.gz files, one a line, found {wrong[:200]!r}")
    return [Part(f"{base}/{quote(unquote(name))}", (split,)) for name in names]


def _rows(text: str, url: str) -> list[tuple[str, str, int, int]]:
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)[COLUMNS]
    except (KeyError, ValueError) as error:
        raise DownloadError(f"{url}: expected a table with the columns {', '.join(COLUMNS)} ({error})") from error
    rows = []
    for number, row in enumerate(table.itertuples(index=False), 2):
        label, youtube_id, start, end = row
        plain = re.fullmatch(r"[\w-]{1,64}", youtube_id, re.ASCII) and start.isdecimal() and end.isdecimal()
        if not plain or not label.isprintable() or folder_name(label).strip("._") == "":
            raise DownloadError(
                f"{url}, line {number}: {','.join(row)[:200]!r} is no class, YouTube id and two seconds"
            )
        rows.append((label, youtube_id, int(start), int(end)))
    return rows
