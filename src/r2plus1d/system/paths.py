"""Where files lie, relative to the project's root; the same names as in dvc.yaml."""

from pathlib import Path
from typing import Protocol


class Located(Protocol):
    """A configuration of a dataset or a row."""

    @property
    def dataset(self) -> str: ...
    @property
    def in_place(self) -> str | None: ...


PARAMS = Path("params.yaml")
README = Path("README.md")
RESULTS = Path("docs/results.md")
DATA_CONFIG = Path("configs/data.json")
PUBLISHED = Path("metrics/published.json")
COVERAGE = Path("metrics/coverage.json")
REPORT = Path("metrics/report")
PROFILE = Path("benchmarks/results/profile.json")


def sources(stage: str) -> Path:
    """The files of the stage's code."""
    return Path("sources") / f"{stage}.txt"


def row_config(row: str) -> Path:
    return Path("configs") / f"{row}.json"


def data(dataset: str) -> Path:
    return Path("data") / dataset


def videos(config: Located) -> Path:
    """The folder that the paths in the lists start from."""
    return data(config.dataset) / "videos" if config.in_place is None else Path(config.in_place)


def manifest(dataset: str) -> Path:
    return data(dataset) / "manifest.csv"


def classes(dataset: str) -> Path:
    """Class names in the order of their labels, one a line."""
    return data(dataset) / "classes.txt"


def set_aside(dataset: str) -> Path:
    """Files that `download` did not take."""
    return data(dataset) / "set_aside.csv"


def frames(dataset: str) -> Path:
    return data(dataset) / "frames"


def unreadable(dataset: str) -> Path:
    """Videos that `extract_frames` set aside."""
    return data(dataset) / "unreadable.csv"


def lists(dataset: str) -> Path:
    return data(dataset) / "lists"


def labels(dataset: str) -> Path:
    return lists(dataset) / "label_map.txt"


def model(row: str) -> Path:
    return Path("models") / row


def weights(row: str) -> Path:
    return model(row) / "model.safetensors"


def scores(row: str) -> Path:
    return Path("results") / row / "result.json"


def metrics(row: str, name: str) -> Path:
    return Path("metrics") / row / name


def made_by(row: str, stage: str) -> Path:
    """What made the row's results: beside the metrics, but not an output, since it differs from machine to machine."""
    return metrics(row, f"made_by_{stage}.json")


def timed_log(row: str) -> Path:
    """The training log with wall-clock values, beside the pipeline: not an output, since it never repeats."""
    return Path("logs") / f"{row}.log.json"


def seconds(stage: str, row: str | None) -> Path:
    """What a stage's last run took, beside the pipeline like the timed log."""
    return Path("logs/seconds") / f"{f'{stage}@{row}' if row else stage}.json"


def work(name: str, key: str) -> Path:
    """A folder for unfinished work; the key ties it to the configuration and data that it belongs to."""
    return Path("runs") / f"{name}-{key}"


def lock(stage: str, row: str | None) -> Path:
    """Held by the process that runs the stage."""
    return Path("runs") / f"{f'{stage}-{row}' if row else stage}.lock"
