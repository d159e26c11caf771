"""UCF101 and HMDB51: all videos in one archive, and three official splits into training and test videos.

UCF101: UCF-101/<class>/<name>.avi, trainlist0N.txt and testlist0N.txt of `<class>/<name>.avi`, classInd.txt of `number
class`. HMDB51: a .rar of <class>.rar, and <class>_test_splitN.txt of `<name>.avi flag` (1 train, 2 test, 0 neither).
"""

import re
from pathlib import Path, PurePosixPath

from r2plus1d.config.schema import OfficialSource
from r2plus1d.datasets.archives import read_texts
from r2plus1d.datasets.catalogue import Catalogue, Part, Video, folder_name
from r2plus1d.datasets.downloads import DownloadError, annotation

FLAGS = {"1": "train", "2": "val"}


def catalogue(source: OfficialSource, folder: Path) -> Catalogue:
    """Fetches the official lists into `folder`, once; their test videos are `val`.

    Raises FetchError, ArchiveError and DownloadError.
    """
    listed = annotation(source.annotations, folder, lambda path: _listed(source, read_texts(path)))
    videos = {}
    for split, label, name in listed:
        path = f"{folder_name(label)}/{name}"  # the same in every official split, so that changing it fetches less
        if not path.isprintable() or ".." in PurePosixPath(path).parts:
            raise DownloadError(f"{source.annotations}: {name[:200]!r} is no name of a video")
        videos[split, f"{label}/{name}"] = Video(path, label, split)
    classes = sorted({label for _, label, _ in listed})
    part = Part(source.videos, ("train", "val"), nested=source.kind == "hmdb51")
    return Catalogue(classes, videos, [part], keys)


def keys(member: str) -> list[str]:
    """`<class>/<name>`, the class being the folder or, in HMDB51, the inner archive."""
    path = PurePosixPath(member)
    return [f"{folder.removesuffix('.rar')}/{path.name}" for folder in reversed(path.parts[:-1])]


def _listed(source: OfficialSource, files: dict[str, str]) -> list[tuple[str, str, str]]:
    texts = {PurePosixPath(name).name: text for name, text in files.items()}
    listed = _ucf101(texts, source.split) if source.kind == "ucf101" else _hmdb51(texts, source.split)
    if not listed:
        raise DownloadError(
            f"{source.annotations}: no list of split {source.split}; there are {', '.join(sorted(texts))[:300]}"
        )
    return listed


def _ucf101(texts: dict[str, str], number: int) -> list[tuple[str, str, str]]:
    found = []
    for split, kind in (("train", "train"), ("val", "test")):
        for line in texts.get(f"{kind}list{number:02d}.txt", "").splitlines():
            if match := re.fullmatch(r"([^/\s]+)/([^/\s]+\.avi)(?:\s+\d+)?\s*", line):
                found.append((split, match[1], match[2]))
    return found


def _hmdb51(texts: dict[str, str], number: int) -> list[tuple[str, str, str]]:
    found = []
    for file, text in sorted(texts.items()):
        if named := re.fullmatch(rf"(.+)_test_split{number}\.txt", file):
            for line in text.splitlines():
                if (match := re.fullmatch(r"([^/]+\.avi)\s+([012])\s*", line)) and match[2] in FLAGS:
                    found.append((FLAGS[match[2]], named[1], match[1]))
    return found
