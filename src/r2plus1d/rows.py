"""What the per-row stages share: one row's configuration and data, opened from disk."""

from dataclasses import dataclass
from pathlib import Path

from r2plus1d import config, paths
from r2plus1d.clips import Reader
from r2plus1d.files import digest
from r2plus1d.frames import FrameReader
from r2plus1d.lists import Sample, read_samples
from r2plus1d.loose import LooseFrameReader
from r2plus1d.video import VideoReader


@dataclass(frozen=True)
class Row:
    config: config.RowConfig
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
            paths.packed(self.config) / "index.csv",
            *sorted(paths.lists(dataset).iterdir()),
        ]


def open_row(name: str) -> Row:
    """Raises ConfigError for a row without a configuration, and the errors of the lists and frames."""
    path = paths.row_config(name)
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.json") if p != paths.DATA_CONFIG)
        hint = f"there are {', '.join(known)}" if known else "run `dvc repro resolve` first"
        raise config.ConfigError(f"{path} is missing: no row {name!r}; {hint}")
    row = config.read_row(path)
    dataset = row.dataset
    return Row(
        config=row,
        splits={split: read_samples(paths.lists(dataset), dataset, split) for split in ("train", "val")},
        classes=paths.labels(dataset).read_text(encoding="utf-8").splitlines(),
        reader=_reader(row),
        workers=config.workers(config.read_params(paths.PARAMS)),
    )


def _reader(row: config.RowConfig) -> Reader:
    if row.clip.input == "frames" and row.loose_frames is None:
        return FrameReader(paths.packed(row))
    if row.clip.input == "frames":
        return LooseFrameReader(paths.videos(row), row.loose_frames)
    if row.loose_frames:
        section = "model" if row.row == config.CUSTOM else f"zoo.{row.row}"
        raise config.ConfigError(
            f"{section}.input is 'video', but dataset {row.dataset} holds frames; use -S {section}.input=frames"
        )
    return VideoReader(paths.videos(row))
