"""Contact sheets of what a row's network really gets: the first thing to look at when it does not learn."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from r2plus1d.clips.items import TestVideos, TrainClips, ValClips
from r2plus1d.config.messages import nearest
from r2plus1d.config.schema import TestedRow
from r2plus1d.datasets.annotations import Sample
from r2plus1d.results.plots import save_figure, styled
from r2plus1d.system.errors import ConfigError
from r2plus1d.system.progress import progress, say
from r2plus1d.zoo.rows import Row, open_row

CLIPS = 12  # of training.png
FRAMES = 8  # of a clip, at even distances
VIDEOS = 24  # of a class
MOST_CLASSES = 50  # that get a sheet
ACROSS = 6  # videos, on the sheet of a class
GAP = 2  # white pixels between frames
LONGEST = 48  # characters of a name on a sheet


def browse(name: str, epoch: int, out: Path, only: Sequence[str] = ()) -> None:
    """Writes below `out` training.png, clips of one epoch as they are augmented; test.png, all views of one video; and
    class_000.png, ...: the middle frames of some of each class's videos.

    `epoch` counts from 0; `only` names the classes that get a sheet, else the first 50. Raises ConfigError for an
    unknown row or class, and the errors of lists and frames.
    """
    row = open_row(name, TestedRow)
    written = ["test.png"]
    if row.splits["train"]:
        training_sheet(row, epoch, out / "training.png")
        written.insert(0, "training.png")
    test_sheet(row, (row.splits["test"] or row.splits["val"])[0], out / "test.png")
    classes = sorted({sample.label for samples in row.splits.values() for sample in samples})
    shown = classes[:MOST_CLASSES]
    if only:
        if unknown := [label for label in only if label not in row.classes]:
            raise ConfigError(f"--classes: {nearest(unknown[0], row.classes[:MOST_CLASSES], 'class')} ({unknown[0]!r})")
        shown = [label for label in classes if row.classes[label] in only]
    for label in progress(shown, len(shown), f"sheets of {name}", "classes"):
        class_sheet(row, label, out / f"class_{label:03}.png")
    rest = f" of {len(shown)} of {len(classes)} classes; --classes names others" if len(shown) < len(classes) else ""
    say(f"{out}: {', '.join(written)}, and a sheet for each class{rest}")


@styled
def training_sheet(row: Row, epoch: int, path: Path) -> None:
    """The very clips that an epoch trains on, of videos at even distances in the list."""
    clips, samples = TrainClips(row.config, row.splits["train"], row.reader), row.splits["train"]
    lines = [(_name(row, samples[index]), clips[(epoch, index)][0].numpy()) for index in _some(len(samples), CLIPS)]
    side = row.config.train.crop
    _sheet(lines, f"{row.config.row}: training views of epoch {epoch + 1}, {side} x {side} pixels", path)


@styled
def test_sheet(row: Row, sample: Sample, path: Path) -> None:
    """Every view of one video."""
    views = TestVideos(row.config, [sample], row.reader)[0].views(row.config).numpy()
    clips = row.config.test.clips
    lines = [(f"crop {number // clips + 1}, clip {number % clips + 1}", view) for number, view in enumerate(views)]
    _sheet(lines, f"{row.config.row}: the {len(lines)} test views of {_name(row, sample)}", path)


@styled
def class_sheet(row: Row, label: int, path: Path) -> None:
    """The middle frame of the validation view of some videos, with their names."""
    own = [(split, sample) for split in row.splits for sample in row.splits[split] if sample.label == label]
    chosen = [own[index] for index in _some(len(own), VIDEOS)]
    clips = ValClips(row.config, [sample for _, sample in chosen], row.reader)
    down = -(-len(chosen) // ACROSS)
    figure = Figure((2 * ACROSS, 2.1 * down + 0.5), layout="constrained")
    grid = figure.subplots(down, ACROSS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for number, (axes, (split, sample)) in enumerate(zip(grid, chosen, strict=False)):
        clip = clips[number][0].numpy()
        axes.imshow(clip[len(clip) // 2])
        axes.set_title(f"{split}: {_short(Path(sample.path).name, LONGEST // 2)}", fontsize=7)
    figure.suptitle(f"{row.classes[label]}: {len(chosen)} of {len(own)} videos")
    save_figure(figure, path)


def _sheet(lines: Sequence[tuple[str, np.ndarray]], title: str, path: Path) -> None:
    """A line of frames for each (name, clip uint8 [T, H, W, 3])."""
    figure = Figure((11, 1.05 * len(lines) + 0.5), layout="constrained")
    for axes, (name, clip) in zip(figure.subplots(len(lines), 1, squeeze=False).ravel(), lines, strict=True):
        axes.imshow(np.hstack(list(_apart(clip[_some(len(clip), FRAMES)]))))
        axes.set_axis_off()
        axes.set_title(name, fontsize=7, loc="left", pad=2)
    figure.suptitle(title)
    save_figure(figure, path)


def _apart(frames: np.ndarray) -> Iterator[np.ndarray]:
    for frame in frames:
        yield frame
        yield np.full((frame.shape[0], GAP, 3), 255, np.uint8)


def _some(count: int, most: int) -> list[int]:
    """Up to `most` of `count` numbers, at even distances."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def _name(row: Row, sample: Sample) -> str:
    return f"{_short(sample.path, LONGEST)} ({row.classes[sample.label]})"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"...{text[3 - most :]}"
