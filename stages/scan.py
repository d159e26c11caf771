"""What lies in the folder of the user's own videos, by content -> data/<dataset>/scan.csv; nothing for other datasets.

Only this stage depends on that folder, so a file in it makes no other dataset stale.
"""

import sys

from r2plus1d.config import files
from r2plus1d.datasets import folder
from r2plus1d.datasets.manifest import Found, write_table
from r2plus1d.system import paths
from r2plus1d.system.stage import run


def main() -> None:
    data = files.read_data(paths.DATA_CONFIG)
    found = folder.scan(data.path) if data.source.kind == "folder" else []
    write_table(paths.scan(data.dataset), found, Found)
    print(f"{len(found)} files" if data.source.kind == "folder" else f"nothing to look at: dataset {data.dataset}")


if __name__ == "__main__":
    run(main, sys.argv)
