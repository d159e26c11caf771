"""What simple classifiers reach on the videos that the tables measure on -> metrics/baselines.csv."""

import sys

from r2plus1d.clips.lists import SPLITS, measured, read_samples
from r2plus1d.config import files
from r2plus1d.system import kept, paths, records
from r2plus1d.system.files import write_text
from r2plus1d.system.stage import run
from r2plus1d.video.loose import LooseFrameReader
from r2plus1d.video.reading import VideoReader
from r2plus1d.zoo.baselines import KINDS, baselines


def main() -> None:
    if kept.gives_back("baselines", records.SHARED):
        return
    data = files.read_data(paths.DATA_CONFIG)
    lists, videos = paths.lists(data.dataset), paths.videos(data)
    inputs = [paths.DATA_CONFIG, paths.manifest(data.dataset), *sorted(lists.iterdir())]
    with records.recorded("baselines", records.SHARED, inputs, lambda: [paths.BASELINES]):
        splits = {split: read_samples(lists, data.dataset, split) for split in SPLITS}
        reader = LooseFrameReader(videos, data.loose_frames) if data.loose_frames else VideoReader(videos)
        classes = paths.labels(data.dataset).read_text(encoding="utf-8").splitlines()
        workers = files.machine(files.read_params(paths.PARAMS)).readers
        table = baselines(splits["train"], splits[measured(splits)], reader, classes, workers)
        write_text(paths.BASELINES, table.to_csv(index=False, lineterminator="\n"))
    for kind in KINDS if len(table) else ():
        print(f"{kind}: top-1 {100 * (table[kind] == table['actual']).mean():.2f}")


if __name__ == "__main__":
    run(main, sys.argv)
