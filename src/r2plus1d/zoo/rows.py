"""What the per-row stages share: one row's configuration and data, opened from disk."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from r2plus1d.clips.items import Reader
from r2plus1d.clips.lists import SPLITS, measured, read_rates, read_samples
from r2plus1d.config.files import machine, read_params, read_row
from r2plus1d.config.schema import CUSTOM, ROW_FILES, Machine, RowConfig
from r2plus1d.datasets.annotations import Sample
from r2plus1d.system import paths
from r2plus1d.system.errors import ConfigError
from r2plus1d.system.files import digest
from r2plus1d.video.extraction import packed
from r2plus1d.video.loose import LooseFrameReader
from r2plus1d.video.reading import VideoReader
from r2plus1d.video.shards import FrameReader

C = TypeVar("C", bound=RowConfig)


@dataclass(frozen=True)
class Row(Generic[C]):
    config: C
    stage: str  # that reads this configuration
    classes: list[str]
    splits: dict[str, list[Sample]]
    reader: Reader
    machine: Machine

    @property
    def workers(self) -> int | None:
        """Processes that read clips; None: one a core."""
        return self.machine.readers

    @property
    def measured(self) -> str:
        """The split that the tables measure on."""
        return measured(self.splits)

    def key(self) -> str:
        """Differs whenever the configuration or the data differ."""
        return digest(self.sources())

    def sources(self) -> list[Path]:
        """The configuration, and the files that name the data by content."""
        dataset, row = self.config.dataset, self.config.row
        return [
            paths.row_config(row, self.stage),
            paths.manifest(dataset),
            paths.frames(dataset, row) / "index.csv",
            *sorted(paths.lists(dataset).iterdir()),
        ]


def open_row(name: str, kind: type[C]) -> Row[C]:
    """A row for the stage that reads this `kind` of configuration.

    Raises ConfigError for a row without one, and the errors of the lists and frames.
    """
    return of_config(read_row(paths.CONFIGS, name, kind), ROW_FILES[kind])


def of_config(config: C, stage: str) -> Row[C]:
    """The row of a configuration that is read already. Raises the errors of the lists and frames."""
    dataset = config.dataset
    splits = {split: read_samples(paths.lists(dataset), dataset, split) for split in SPLITS}
    if config.clip.frame_rate != "all":
        splits = _with_rates(config, splits)
    return Row(
        config=config,
        stage=stage,
        splits=splits,
        classes=paths.labels(dataset).read_text(encoding="utf-8").splitlines(),
        reader=_reader(config),
        machine=machine(read_params(paths.PARAMS)),
    )


def _with_rates(config: RowConfig, splits: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
    """Raises ConfigError where the frame rate of a video is not known."""
    rates = read_rates(paths.lists(config.dataset))
    known = {
        split: [replace(sample, rate=rates.get(sample.path, 0.0)) for sample in samples]
        for split, samples in splits.items()
    }
    unknown = [sample.path for samples in known.values() for sample in samples if sample.rate <= 0]
    if unknown:
        where = "model" if config.row == CUSTOM else f"zoo.{config.row}"
        rate = float(config.clip.frame_rate)
        given = "give datasets.lists.source.frame_rate, or " if config.loose_frames else ""
        raise ConfigError(
            f"{where}.frame_rate is {rate:g}, and nothing tells the frame rate of {len(unknown)} videos, such as "
            f"{unknown[0]}: {given}count all frames whatever their time with -S {where}.frame_rate=all "
            f"-S {where}.frame_interval={max(1, round(30 / rate))} (which is the same for videos of 30 a second)"
        )
    return known


def _reader(config: RowConfig) -> Reader:
    if config.clip.input == "frames":
        if config.loose_frames is not None:
            return LooseFrameReader(paths.videos(config), config.loose_frames)
        if config.clip.storage == "packed":
            return FrameReader(paths.frames(config.dataset, config.row))
        return VideoReader(paths.videos(config), functools.partial(packed, short_side=config.clip.short_side))
    if config.loose_frames:
        section = "model" if config.row == CUSTOM else f"zoo.{config.row}"
        raise ConfigError(
            f"{section}.input is 'video', but dataset {config.dataset} holds frames; use -S {section}.input=frames"
        )
    return VideoReader(paths.videos(config))
