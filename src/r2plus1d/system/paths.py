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
CONFIGS = Path("configs")
DATA_CONFIG = CONFIGS / "data.json"
PUBLISHED = Path("metrics/published.json")
COVERAGE = Path("metrics/coverage.json")
BASELINES = Path("metrics/baselines.csv")
SUMMARY = Path("metrics/summary.json")
REPORT = Path("metrics/report")
RECORDS = Path("metrics/records")
PROFILE = Path("benchmarks/results/profile.json")


def in_experiment(path: str | Path) -> str:
    """What an error about what is not at `path` ends with where DVC runs an experiment in a folder of its own."""
    here = Path.cwd()
    for above in here.parents if not Path(path).is_absolute() else ():
        if above.name == ".dvc" and here.relative_to(above).parts[:2] == ("tmp", "exps"):
            return (
                "; `dvc exp run` with --temp or --queue works in a folder that has what git tracks alone: give "
                f"{above.parent / path} instead, or leave them out"
            )
    return ""


def row_config(row: str, stage: str) -> Path:
    """What a stage of the row reads."""
    return CONFIGS / row / f"{stage}.json"


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


def scan(dataset: str) -> Path:
    """What lies in the folder of the user's own videos."""
    return data(dataset) / "scan.csv"


def probe(dataset: str) -> Path:
    """The videos that can be read, with their number of frames, size and frame rate."""
    return data(dataset) / "probe.csv"


def looks(dataset: str) -> Path:
    """What those videos look like."""
    return data(dataset) / "looks.csv"


def suspected(dataset: str) -> Path:
    """Pairs of videos in two splits that seem to be of one recording."""
    return data(dataset) / "suspected.csv"


def frames(dataset: str, row: str) -> Path:
    """The row's packed frames."""
    return data(dataset) / "frames" / row


def features(dataset: str, row: str) -> Path:
    """The features of the row's videos, where its last layer alone is trained."""
    return data(dataset) / "features" / row


def kept_features(key: str, what: str) -> Path:
    """Features that serve on when other videos come or another last layer is trained: no output of the pipeline."""
    return Path("runs/features") / key / what.replace(" ", "_")


def unreadable(dataset: str) -> Path:
    """Videos that `probe` set aside."""
    return data(dataset) / "unreadable.csv"


def lists(dataset: str) -> Path:
    return data(dataset) / "lists"


def labels(dataset: str) -> Path:
    return lists(dataset) / "label_map.txt"


def model(row: str) -> Path:
    return Path("models") / row


def weights(row: str) -> Path:
    return model(row) / "model.safetensors"


def card(row: str) -> Path:
    """The model card, beside the weights and in git."""
    return model(row) / "README.md"


def scores(row: str) -> Path:
    return Path("results") / row / "result.json"


def views(row: str) -> Path:
    """The scores of every view, where the row keeps them."""
    return Path("results") / row / "views.safetensors"


def metrics(row: str, name: str) -> Path:
    return Path("metrics/rows") / row / name


def made_by(row: str, stage: str) -> Path:
    """What made the row's results: not an output, since it differs from machine to machine. `data` stands for the
    stages that all rows share."""
    return RECORDS / row / f"made_by_{stage}.json"


def timed_log(row: str) -> Path:
    """The training log with wall-clock values: no output of the pipeline, since it never repeats."""
    return Path("logs") / f"{row}.log.json"


def live(row: str) -> Path:
    """DVCLive's files of a training that runs. Git must not ignore them: DVC then would, too."""
    return Path("live") / row


def tensorboard(row: str) -> Path:
    return Path("logs/tensorboard") / row


def seconds(stage: str, row: str | None) -> Path:
    """What a stage's last run took: no output of the pipeline, as the timed log is none."""
    return Path("logs/seconds") / f"{f'{stage}@{row}' if row else stage}.json"


def work(name: str, key: str) -> Path:
    """A folder for unfinished work; the key ties it to the configuration and data that it belongs to."""
    return Path("runs") / f"{name}-{key}"


def lock(stage: str, row: str | None) -> Path:
    """Held by the process that runs the stage."""
    return Path("runs") / f"{f'{stage}-{row}' if row else stage}.lock"
