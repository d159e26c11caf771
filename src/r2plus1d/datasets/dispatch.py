"""Where videos come from: brings those of a dataset to one folder, or finds them where they lie, with a manifest."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from r2plus1d.config.schema import (
    DataConfig,
    FolderSource,
    KineticsSource,
    ListsSource,
    Machine,
    MotionSource,
    OfficialSource,
)
from r2plus1d.datasets.catalogue import Catalogue
from r2plus1d.datasets.manifest import Entry, SetAside
from r2plus1d.system.files import held, remove_partials


def bring(
    config: DataConfig, work: Path, machine: Machine, scanned: Mapping[str, str] | None = None
) -> tuple[list[Entry], list[SetAside], list[str]]:
    """Fills `work` with the videos and returns the rows of the manifest, those of the files set aside, and the class
    names.

    `work` stays empty where files are used in place: those of existing lists, and downloaded ones, which are kept
    outside the pipeline's own folders. What an interrupted run left in `work` is reused. `scanned` are the digests of
    the user's own videos, as `scan` found them. Raises DataError where there are not at least two classes.
    """
    work.mkdir(parents=True, exist_ok=True)
    remove_partials(work)
    return _brought(config, work, machine, scanned)


def given(config: DataConfig) -> list[Path]:
    """The user's own lists, which the manifest follows."""
    source = config.source
    if not isinstance(source, ListsSource):
        return []
    return [Path(file) for file in (source.train, source.val, source.test, source.labels) if file is not None]


def _brought(
    config: DataConfig, work: Path, machine: Machine, scanned: Mapping[str, str] | None
) -> tuple[list[Entry], list[SetAside], list[str]]:
    """By the kind of source, of whose modules only the one that is needed is loaded: a change of another one is then
    no change of this dataset's code."""
    # ruff: noqa: PLC0415
    if isinstance(config.source, MotionSource):
        from r2plus1d.datasets import motion

        return motion.generate(config.source, work, machine.readers), [], sorted(motion.CLASSES)
    if isinstance(config.source, FolderSource):
        from r2plus1d.datasets import folder

        return folder.copy(config.path, work, scanned)
    if isinstance(config.source, ListsSource):
        from r2plus1d.datasets import existing

        return existing.find(config.source, Path(str(config.path)), machine.readers)
    if isinstance(config.source, KineticsSource):
        from r2plus1d.datasets import kinetics

        return _download(config, kinetics.catalogue, machine.connections)
    from r2plus1d.datasets import ucf_hmdb

    return _download(config, ucf_hmdb.catalogue, machine.connections)


def _download(
    config: DataConfig, catalogue_of: Callable[[Any, Path], Catalogue], connections: int
) -> tuple[list[Entry], list[SetAside], list[str]]:
    from r2plus1d.datasets import downloads

    source, store = config.source, Path(str(config.in_place)).parent
    assert isinstance(source, KineticsSource | OfficialSource)
    with held(store / "incoming.lock", f"the download to {store}"):
        catalogue = catalogue_of(source, store / "annotations")
        rows, aside = downloads.bring(catalogue, source.limit, source.skip, store, connections)
    return rows, aside, catalogue.classes
