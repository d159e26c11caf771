"""Where videos come from: brings those of a dataset to one folder, or finds them where they lie, with a manifest."""

from pathlib import Path

from r2plus1d.config.schema import DataConfig, FolderSource, KineticsSource, ListsSource, MotionSource
from r2plus1d.datasets import downloads, folder, kinetics, motion, ucf_hmdb
from r2plus1d.datasets.existing import find
from r2plus1d.datasets.manifest import Entry, SetAside
from r2plus1d.system.files import held, remove_partials, replace_folder


def bring(
    config: DataConfig, work: Path, videos: Path, workers: int | None, connections: int = 1
) -> tuple[list[Entry], list[SetAside], list[str]]:
    """Fills `videos` and returns the rows of the manifest, those of the files set aside, and the class names.

    `videos` stays empty where files are used in place: those of existing lists, and downloaded ones, which are kept
    outside the pipeline's own folders. What an interrupted run left in `work` is reused. Raises DataError where there
    are not at least two classes.
    """
    work.mkdir(parents=True, exist_ok=True)
    remove_partials(work)
    if isinstance(config.source, MotionSource):
        rows, aside = motion.generate(config.source, config.seed, work, workers), []
        classes = sorted(motion.CLASSES)
    elif isinstance(config.source, FolderSource):
        rows, aside, classes = folder.copy(config.source, config.seed, config.path, work)
    elif isinstance(config.source, ListsSource):
        rows, aside, classes = find(config.source, Path(config.path), workers)
    else:
        rows, aside, classes = _download(config, connections)
    replace_folder(work, videos)
    return rows, aside, classes


def _download(config: DataConfig, connections: int) -> tuple[list[Entry], list[SetAside], list[str]]:
    source, store = config.source, Path(config.in_place).parent
    layout = kinetics if isinstance(source, KineticsSource) else ucf_hmdb
    with held(store / "incoming.lock", f"the download to {store}"):
        catalogue = layout.catalogue(source, store / "annotations")
        rows, aside = downloads.bring(catalogue, source.limit, source.skip, store, connections)
    return rows, aside, catalogue.classes
