"""What a public dataset is said to hold and in which archives it lies, and which of its videos a limit takes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from r2plus1d.config.schema import Limit
from r2plus1d.datasets.manifest import SetAside


@dataclass(frozen=True)
class Video:
    path: str  # below the folder of videos
    label: str  # class name
    split: str  # train or val


@dataclass(frozen=True)
class Part:
    url: str
    splits: tuple[str, ...]  # that its videos belong to
    label: str | None = None  # the class of all its videos, where its name says so
    nested: bool = False  # an archive of .rar archives

    @property
    def name(self) -> str:
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    @property
    def title(self) -> str:
        """Its name in messages and in source.skip: with the split, where it is of one, such as train/part_0.tar.gz."""
        return f"{self.splits[0]}/{self.name}" if len(self.splits) == 1 else self.name


@dataclass(frozen=True)
class Catalogue:
    """What a dataset is said to hold, and where."""

    classes: list[str]
    videos: dict[tuple[str, str], Video]  # by split and key; a video may have several keys
    parts: list[Part]  # of all splits
    keys: Callable[[str], list[str]]  # of an archive's member by its name, the surest first
    aside: tuple[SetAside, ...] = ()  # what cannot be used of the annotations


class Choice:
    """Which videos are taken: of the first classes, the first videos of each in the order of the parts."""

    def __init__(self, catalogue: Catalogue, limit: Limit):
        self.catalogue, self.splits = catalogue, limit.splits
        self.classes = catalogue.classes[: limit.classes]
        self.most = limit.videos_per_class
        self.listed = {video.path: video for video in catalogue.videos.values()}
        self.annotated = Counter((video.split, video.label) for video in self.listed.values())
        self.taken: dict[str, tuple[str, str]] = {}  # path -> (part, member)
        self.counts: Counter[tuple[str, str]] = Counter()

    def find(self, part: Part, member: str) -> Video | None:
        """The video that a member is. What no annotation names belongs to the class that its part is named after."""
        keys = self.catalogue.keys(member)
        if part.label is not None:
            keys = keys[:1]  # other seconds are another clip here, perhaps of another class: the part names the class
        found = (self.catalogue.videos.get((split, key)) for key in keys for split in part.splits)
        if (video := next(filter(None, found), None)) or part.label is None or not keys:
            return video
        split = part.splits[0]
        return Video(f"{split}/{folder_name(part.label)}/{PurePosixPath(member).name}", part.label, split)

    def claim(self, part: Part, member: str) -> Video | None:
        """The video, if it is taken from this part; asked again, the answer is the same."""
        video = self.find(part, member)
        if video is None or not self.wants(video):
            return None
        if video.path not in self.taken and not self._enough(video.split, video.label):
            self.taken[video.path] = part.url, member
            self.listed.setdefault(video.path, video)
            self.counts[video.split, video.label] += 1
        return video if self.taken.get(video.path) == (part.url, member) else None

    def other(self, part: Part, member: str) -> str | None:
        """The path of the video that the member would be, were it not taken from another file."""
        video = self.find(part, member)
        if video is None or self.taken.get(video.path) in (None, (part.url, member)):
            return None
        return video.path

    def wants(self, video: Video) -> bool:
        return video.split in self.splits and video.label in self.classes

    def concerns(self, part: Part) -> bool:
        return any(split in self.splits for split in part.splits)

    def complete(self, part: Part) -> bool:
        """Whether nothing more is wanted of the part, whatever it holds."""
        splits = [split for split in part.splits if split in self.splits]
        if part.label is not None:
            return part.label not in self.classes or all(self._enough(split, part.label) for split in splits)
        pairs = [(split, label) for split in splits for label in self.classes]
        return all(self._enough(*pair) or self.counts[pair] >= self.annotated[pair] for pair in pairs)

    def missing(self) -> list[Video]:
        """Annotated videos that were wanted and not found."""
        return [
            video
            for path, video in self.listed.items()
            if path not in self.taken and self.wants(video) and not self._enough(video.split, video.label)
        ]

    def share(self) -> float:
        """Of the annotated videos in the parts' splits, how many are wanted."""
        splits = {split for part in self.catalogue.parts if self.concerns(part) for split in part.splits}
        counts = {pair: count for pair, count in self.annotated.items() if pair[0] in splits}
        wanted = [
            min(n, self.most or n) for (s, label), n in counts.items() if s in self.splits and label in self.classes
        ]
        return sum(wanted) / max(1, sum(counts.values()))

    def _enough(self, split: str, label: str) -> bool:
        return self.most is not None and self.counts[split, label] >= self.most


def folder_name(label: str) -> str:
    return label.replace(" ", "_").replace("/", "_")
