"""What the per-row stages share: one row's configuration and data, opened from disk."""

from dataclasses import dataclass
from pathlib import Path

from r2plus1d.clips.items import Reader
from r2plus1d.clips.lists import read_samples
from r2plus1d.config import files, schema
from r2plus1d.datasets.annotations import Sample
from r2plus1d.system import paths
from r2plus1d.system.errors import ConfigError
from r2plus1d.system.files import digest
from r2plus1d.video.decoding import VideoReader
from r2plus1d.video.loose import LooseFrameReader
from r2plus1d.video.shards import FrameReader


@dataclass(frozen=True)
class Row:
    config: schema.RowConfig
    classes: list[str]
    splits: dict[str, list[Sample]]
    reader: Reader
    workers: int | None

    def key(self) -> str:
        """Differs whenever the configuration or the data differ."""
        return digest(self.sources())

    def sources(self) -> list[Path]:
        """The configuration, and the files that name the data by content."""
        dataset = self.config.dataset
        return [
            paths.row_config(self.config.row),
            paths.manifest(dataset),
            packed(self.config) / "index.csv",
            *sorted(paths.lists(dataset).iterdir()),
        ]


def open_row(name: str) -> Row:
    """Raises ConfigError for a row without a configuration, and the errors of the lists and frames."""
    path = paths.row_config(name)
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.json") if p != paths.DATA_CONFIG)
        hint = f"there are {', '.join(known)}" if known else "run `dvc repro resolve` first"
        raise ConfigError(f"{path} is missing: no row {name!r}; {hint}")
    row = files.read_row(path)
    dataset = row.dataset
    return Row(
        config=row,
        splits={split: read_samples(paths.lists(dataset), dataset, split) for split in ("train", "val")},
        classes=paths.labels(dataset).read_text(encoding="utf-8").splitlines(),
        reader=_reader(row),
        workers=files.workers(files.read_params(paths.PARAMS)),
    )


def _reader(row: schema.RowConfig) -> Reader:
    if row.clip.input == "frames" and row.loose_frames is None:
        return FrameReader(packed(row))
    if row.clip.input == "frames":
        return LooseFrameReader(paths.videos(row), row.loose_frames)
    if row.loose_frames:
        section = "model" if row.row == schema.CUSTOM else f"zoo.{row.row}"
        raise ConfigError(
            f"{section}.input is 'video', but dataset {row.dataset} holds frames; use -S {section}.input=frames"
        )
    return VideoReader(paths.videos(row))


def packed(row: schema.RowConfig) -> Path:
    """The folder of the row's packed frames."""
    return paths.frames(row.dataset) / row.frames
