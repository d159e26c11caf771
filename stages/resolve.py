"""params.yaml -> configs/data.json, and for each row configs/<row>/<stage>.json: what that stage reads."""

import json
import sys
from pathlib import Path

from r2plus1d.config import files, resolve
from r2plus1d.system import paths
from r2plus1d.system.errors import ConfigError
from r2plus1d.system.files import write_text
from r2plus1d.system.stage import run


def main() -> None:
    published = json.loads(paths.PUBLISHED.read_text(encoding="utf-8"))["rows"]
    weights = {name: row["ckpt"] for name, row in published.items()}
    params = files.read_params(paths.PARAMS)
    resolved = resolve.resolve(params, weights)
    data = resolved.data
    if data.path is not None and not Path(data.path).is_dir():
        hint = "write it without ~" if data.path.startswith("~") else "give it the folder of your videos, or for them"
        raise ConfigError(f"datasets.{data.dataset}.path is {data.path!r}: there is no such folder; {hint}")
    if folder := params["datasets"].get("folder", {}).get("path"):  # DVC reads it, whatever the dataset
        for file in Path(folder).rglob("*"):
            if file.exists() and not (file.is_file() or file.is_dir()):
                raise ConfigError(f"{str(file)!r} is a pipe, socket or device, which DVC would read; remove it")
    for row in resolved.rows:
        if row.checkpoint and "://" not in row.checkpoint and not Path(row.checkpoint).is_file():
            raise ConfigError(f"{row.row}: checkpoint is {row.checkpoint!r}: there is no such file")
    for name, config in resolved.files().items():
        write_text(paths.CONFIGS / name, files.dump(config))


if __name__ == "__main__":
    run(main, sys.argv)
