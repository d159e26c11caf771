"""The features that the last layer of one row is trained on, where it alone is trained: python stages/features.py ROW.

Interrupted, it goes on after the last videos when it is run again.
"""

import sys

from r2plus1d.config import files
from r2plus1d.config.schema import FeaturesConfig, RowConfig
from r2plus1d.system import arithmetic, paths
from r2plus1d.system.files import write_text
from r2plus1d.system.stage import run


def main(name: str) -> None:
    config = files.read_row(paths.CONFIGS, name, FeaturesConfig)
    if config.of is not None:
        compute(config.of)
        return
    write_text(paths.features(config.dataset, name) / "none.txt", "this row trains more than its last layer\n")
    print(f"{name} trains more than its last layer: no features are computed")


def compute(config: RowConfig) -> None:
    from r2plus1d.zoo import features, records  # noqa: PLC0415 (load torch, for rows that have something to compute)
    from r2plus1d.zoo.rows import Row, of_config  # noqa: PLC0415
    from r2plus1d.zoo.weights import starting_network  # noqa: PLC0415

    arithmetic.choose(config.runtime.arithmetic)
    row = of_config(config, "features")
    if records.gives_back("features", row):
        return

    @records.recorded("features")
    def make(row: Row) -> None:
        found = features.features(row, starting_network(config, row.classes, lambda text: print(text, flush=True)))
        features.save(found, paths.features(config.dataset, config.row))

    make(row)


if __name__ == "__main__":
    run(main, sys.argv)
