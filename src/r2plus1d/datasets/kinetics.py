"""The layout of Kinetics-400, -600 and -700-2020 as the CVDF mirror keeps them.

Below the address of a dataset, such as .../kinetics/400: annotations/{split}.csv (label, youtube_id, time_start,
time_end, ...), {split}/k400_{split}_path.txt with the addresses of the parts, and the parts, .tar.gz of files
`{youtube_id}_{start:06d}_{end:06d}.mp4`. Those of Kinetics-600 are named after classes, with more videos in them than
its .csv lists.
"""

import csv
import io
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from r2plus1d.config.schema import KineticsSource
from r2plus1d.datasets.annotations import read_text
from r2plus1d.datasets.catalogue import Catalogue, Part, Video, folder_name
from r2plus1d.datasets.downloads import DownloadError, annotation
from r2plus1d.datasets.existing import SECONDS
from r2plus1d.datasets.manifest import VIDEO_SUFFIXES, SetAside

COLUMNS = ["label", "youtube_id", "time_start", "time_end"]
GONE = "it was thrown away, and the next run fetches it again"
UNUSABLE = 0.01  # share of an annotation's lines that may be of another form, such as ids that a spreadsheet mangled
Row = tuple[str, str, int, int]  # label, YouTube id, start, end


def catalogue(source: KineticsSource, folder: Path) -> Catalogue:
    """Fetches annotations and part lists into `folder`, once. The classes are those of all annotations, sorted.

    Raises FetchError, and DownloadError or ListError for an annotation or list of another layout.
    """
    aside: list[SetAside] = []
    videos: dict[tuple[str, str], Video] = {}
    for split in ("train", "val"):
        rows, unusable = _annotation(source, split, folder)
        aside += [SetAside(f"annotations/{split}.csv, line {number}", split, reason) for number, reason in unusable]
        ids = Counter(youtube_id for _, youtube_id, _, _ in rows)
        for label, youtube_id, start, end in rows:
            stem = f"{youtube_id}_{start:06d}_{end:06d}"
            video = Video(f"{split}/{folder_name(label)}/{stem}.mp4", label, split)
            videos.setdefault((split, stem), video)
            if ids[youtube_id] == 1:  # some files differ from their annotation in the seconds
                videos[split, youtube_id] = video
    classes = sorted({video.label for video in videos.values()})
    parts = [part for split in ("train", "val") for part in _parts(source, split, folder)]
    by_folder = {folder_name(label): label for label in classes}
    named = [Part(p.url, p.splits, by_folder.get(folder_name(p.name.removesuffix(".tar.gz")))) for p in parts]
    if source.replacements:  # first, since the first file of a name is taken
        named.insert(0, Part(f"{source.url}/{source.replacements}", ("train",)))
    return Catalogue(classes, videos, named, keys, tuple(aside))


def keys(member: str) -> list[str]:
    name = PurePosixPath(member)
    if name.suffix.lower() not in VIDEO_SUFFIXES:
        return []
    return list(dict.fromkeys((name.stem, SECONDS.sub("", name.stem))))


def _annotation(source: KineticsSource, split: str, folder: Path) -> tuple[list[Row], list[tuple[int, str]]]:
    """As `_rows` reads it."""
    url = f"{source.url}/annotations/{split}.csv"
    return annotation(url, folder, lambda path: _rows(read_text(path), url))


def _parts(source: KineticsSource, split: str, folder: Path) -> list[Part]:
    """In the folder of their list, whatever addresses it gives: a copy of the mirror need not change its lists."""
    base = f"{source.url}/{split}"
    url = f"{base}/k{source.url.rsplit('/', 1)[1]}_{split}_path.txt"
    names = annotation(url, folder, lambda path: _names(read_text(path), url))
    return [Part(f"{base}/{quote(unquote(name))}", (split,)) for name in names]


def _names(text: str, url: str) -> list[str]:
    names = [line.strip().rsplit("/", 1)[-1] for line in text.splitlines() if line.strip()]
    usable = re.compile(r"[^\x00-\x1f\x7f]{1,200}(\.tar\.gz|\.tgz)")
    if wrong := next((name for name in names if not usable.fullmatch(name)), None if names else "nothing"):
        raise DownloadError(f"{url}: expected addresses of .tar.gz files, one a line, found {wrong[:200]!r}; {GONE}")
    return names


def _rows(text: str, url: str) -> tuple[list[Row], list[tuple[int, str]]]:
    """(label, YouTube id, start, end) of the lines, and (number, reason) of those of another form."""
    table = csv.DictReader(io.StringIO(text, newline=""), restval="")
    if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
        raise DownloadError(
            f"{url}: expected a table with the columns {', '.join(COLUMNS)}, found none named {missing[0]}; {GONE}"
        )
    rows: list[Row] = []
    unusable = []
    try:
        for line in table:
            label, youtube_id, *seconds = (line[name] for name in COLUMNS)
            found = (re.fullmatch(r"(\d{1,6})(\.0*)?", time, re.ASCII) for time in seconds)
            times = [int(match[1]) for match in found if match]
            plain = re.fullmatch(r"[\w-]{1,64}", youtube_id, re.ASCII) and len(times) == len(seconds)
            if plain and label.isprintable() and folder_name(label).strip("._"):
                rows.append((label, youtube_id, times[0], times[1]))
            else:
                text = ",".join((label, youtube_id, *seconds))[:200]
                unusable.append((table.line_num, f"{text!r} is no class, YouTube id and two seconds"))
    except csv.Error as error:
        raise DownloadError(f"{url}, line {table.line_num}: {error}; {GONE}") from error
    if not rows or len(unusable) > UNUSABLE * (len(rows) + len(unusable)):
        number, reason = unusable[0] if unusable else (table.line_num, "no rows")
        share = f"{len(unusable)} of {len(rows) + len(unusable)} lines cannot be used"
        raise DownloadError(f"{url}, line {number}: {reason}; {share}; {GONE}")
    return rows, unusable
