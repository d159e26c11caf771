"""Annotation lists in MMAction's formats, and the label map.

Frames list: `path total_frames label`; videos list: `path label`; the published validation list: `video_id,
num_frames, label_index`, where the id is a file's name without its ending. One video a line; the path may contain
blanks, since the numbers stand last, apart by blanks or commas. Labels count from 0.
"""

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from r2plus1d.system.errors import UserError
from r2plus1d.system.paths import in_experiment

LONGEST_LINE = 8192  # characters
HEADINGS = ("class", "classes", "class_name", "label", "labels", "name", "names")
MOST_BYTES = 1 << 28  # of a list: some five million lines
MOST_CLASSES = 100_000  # without names given for them: a label is a row of the network's last layer


@dataclass(frozen=True, slots=True)
class Sample:
    path: str  # of the video, below data/<dataset>/videos; also its name among the packed frames
    num_frames: int
    label: int
    rate: float = 0.0  # frames a second; 0: not known


class ListError(UserError, ValueError):
    """Lists that cannot be used; the message holds the offending lines."""


def format_frames(samples: Iterable[Sample]) -> str:
    return "".join(f"{s.path} {s.num_frames} {s.label}\n" for s in samples)


def format_videos(samples: Iterable[Sample]) -> str:
    return "".join(f"{s.path} {s.label}\n" for s in samples)


def format_published(samples: Iterable[Sample]) -> str:
    return "".join(f"{Path(s.path).stem}, {s.num_frames}, {s.label}\n" for s in samples)


def parse(text: str, name: str) -> list[Sample]:
    """Any of the three formats, told apart by the first line; blank lines are passed over. Of a videos list, num_frames
    is 0.

    Raises ListError with the line's number for a line that is not like the first or whose path is not `writable`.
    """
    return [sample for _, sample in numbered(text, name)]


def numbered(text: str, name: str) -> list[tuple[int, Sample]]:
    """The same with the number of each line, from 1."""
    lines = [(number, line) for number, line in enumerate(_lines(text), 1) if line.strip()]
    if not lines:
        raise ListError(f"{name}: empty; expected lines such as `path total_frames label` or `path label`")
    numbers = 2 if _fields(lines[0][1], 2) else 1
    what = {1: "`path label`", 2: "`path total_frames label`"}[numbers]
    samples = []
    for number, line in lines:
        found = _fields(line, numbers)
        if not found:
            raise ListError(f"{name}, line {number}: expected {what}, found {line[:200]!r}")
        path, *rest = found
        if not writable(path):
            raise ListError(f"{name}, line {number}: {path[:200]!r} holds control characters or ones that do not show")
        samples.append((number, Sample(path, int(rest[0]) if numbers == 2 else 0, int(rest[-1]))))
    return samples


def writable(path: str) -> bool:
    """Whether a path can stand in a list and be read back as it is."""
    return path.isprintable() and path == path.strip() != "" and len(path) <= LONGEST_LINE // 2


def _lines(text: str) -> list[str]:
    """Not str.splitlines, which ends lines at eight more characters than files do."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _fields(line: str, numbers: int) -> tuple[str, ...] | None:
    found = _LINE[numbers].fullmatch(line) if len(line) <= LONGEST_LINE else None
    return found.groups() if found else None


_LINE = {n: re.compile(r"\s*(\S.*?)" + n * r"(?:\s*,\s*|\s+)([0-9]{1,9})" + r"\s*") for n in (1, 2)}


def parse_label_map(text: str, name: str) -> list[str]:
    """Class names in the order of the labels, from lines of a name, or of a name and its label in either order; those
    may have a first line of headings and be quoted, as in a csv file.

    Raises ListError where names repeat or cannot be read back, the labels are not 0, 1, 2, ... or 1, 2, 3, ..., or
    most lines have a label and another has none.
    """
    lines = [line.strip() for line in _lines(text) if line.strip()]
    if long := next((line for line in lines if len(line) > LONGEST_LINE), None):
        raise ListError(f"{name}: {long[:200]!r} ... is no class name; expected one a line")
    lines = [_unquoted(line) for line in lines]
    if (found := _by_label(lines, name)) is None:
        _check_names_alone(lines, name)
    lines = found or lines
    forms = Counter(unicodedata.normalize("NFC", line) for line in lines)
    if repeated := [line for line, times in forms.items() if times > 1]:
        raise ListError(f"{name}: class {repeated[0]!r} stands there twice")
    if odd := next((line for line in lines if not writable(line)), None):
        raise ListError(f"{name}: {odd[:200]!r} is no class name; expected one a line, of characters that show")
    if not lines:
        raise ListError(f"{name}: empty; expected one class name a line")
    return lines


def _check_names_alone(lines: list[str], name: str) -> None:
    """Raises ListError for a line that is no name, which would shift all below it by one."""
    if lines and (lines[0].casefold() in HEADINGS or lines[0].endswith(":")):
        raise ListError(f"{name}: the first line, {lines[0]!r}, looks like a heading; remove it, or number the classes")
    if comment := next((line for line in lines if line.startswith("#")), None):
        raise ListError(f"{name}: {comment[:200]!r} looks like a comment; remove it, or number the classes")
    if lines and lines[0].startswith(("[", "{")):
        raise ListError(f"{name}: looks like JSON; write one class name a line, in the order of the labels")


def _by_label(lines: list[str], name: str) -> list[str] | None:
    """The names of numbered lines, in the order of their labels; None where the lines are names alone."""
    if not lines:
        return None
    for pattern in (r"(?P<label>[0-9]{1,9})[\s,;:]+(?P<name>\S.*)", r"(?P<name>.*?\S)[\s,;:]+(?P<label>[0-9]{1,9})"):
        found = [re.fullmatch(pattern, line) for line in lines]
        headed = found[0] is None and not re.search("[0-9]", lines[0]) and len(re.split(r"[\s,;:]+", lines[0])) == 2
        if headed and len(found) > 2 and all(found[1:]):
            found = found[1:]  # of headings such as `id,name`
        if 2 * sum(match is not None for match in found) <= len(lines):
            continue
        if None in found:
            raise ListError(
                f"{name}: {lines[found.index(None)][:200]!r} has no label, though most lines have; give every line a "
                "label, from 0, or none"
            )
        known = sorted((int(match["label"]), match["name"]) for match in found if match)
        if [label - known[0][0] for label, _ in known] != list(range(len(known))) or known[0][0] > 1:
            if len(lines) == 1:
                continue  # a single name that ends with a number
            raise ListError(
                f"{name}: the labels are not 0, 1, 2, ... (there are {known[0][0]} to {known[-1][0]} on {len(known)} "
                "lines); where the numbers are part of the names, put a label before each line"
            )
        return [label_name for _, label_name in known]
    return None


def _unquoted(line: str) -> str:
    """A line of a csv file whose names are quoted, without the quotes."""
    if line.count('"') < 2:
        return line
    fields = next(csv.reader([line], skipinitialspace=True))
    return ", ".join(field.strip() for field in fields) if len(fields) <= 2 else line


def read_text(path: str | Path) -> str:
    """Raises ListError for a file that cannot be read or is not text."""
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ListError(f"{path}: more than {MOST_BYTES} bytes, so no list")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ListError(f"{path}: {error.strerror}{in_experiment(path)}") from error
    except UnicodeDecodeError as error:
        raise ListError(f"{path}: not a text file in UTF-8 ({error}); if it is text, save it as UTF-8") from error
