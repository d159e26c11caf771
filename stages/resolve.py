"""params.yaml -> configs/<row>.json, one complete configuration per row, and configs/data.json."""

import json
import sys
from pathlib import Path

from r2plus1d.config import files, resolve
from r2plus1d.system import paths
from r2plus1d.system.files import write_text
from r2plus1d.system.stage import run


def main() -> None:
    published = json.loads(paths.PUBLISHED.read_text(encoding="utf-8"))["rows"]
    weights = {name: row["ckpt"] for name, row in published.items()}
    data, rows = resolve.resolve(files.read_params(paths.PARAMS), weights)
    if data.path is not None and not Path(data.path).is_dir():
        hint = "write it without ~" if data.path.startswith("~") else "give it the folder of your videos, or for them"
        raise resolve.ConfigError(f"datasets.{data.dataset}.path is {data.path!r}: there is no such folder; {hint}")
    if data.source.kind == "folder" and data.path is not None:
        for file in Path(data.path).rglob("*"):
            if file.exists() and not (file.is_file() or file.is_dir()):
                raise resolve.ConfigError(f"{str(file)!r} is a pipe, socket or device, which DVC would read; remove it")
    for row in rows:
        if row.checkpoint and "://" not in row.checkpoint and not Path(row.checkpoint).is_file():
            raise resolve.ConfigError(f"{row.row}: checkpoint is {row.checkpoint!r}: there is no such file")
        write_text(paths.row_config(row.row), files.dump(row))
    write_text(paths.DATA_CONFIG, files.dump(data))


if __name__ == "__main__":
    run(main, sys.argv)
