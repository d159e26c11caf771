"""params.yaml -> configs/data.json, and for each row configs/<row>/<stage>.json: what that stage reads."""

import sys
from pathlib import Path
from typing import Any

from r2plus1d.config import files, resolve
from r2plus1d.config.schema import FolderSource
from r2plus1d.datasets import folder
from r2plus1d.system import paths
from r2plus1d.system.errors import ConfigError
from r2plus1d.system.files import write_text
from r2plus1d.system.stage import run


def main() -> None:
    params = files.read_params(paths.PARAMS)
    resolved = resolve.resolve(params, resolve.published_weights(), _networks(params))
    data = resolved.data
    if data.path is not None and not Path(data.path).is_dir():
        hint = "write it without ~" if data.path.startswith("~") else "give the folder that holds your videos"
        hint += paths.in_experiment(data.path)
        raise ConfigError(f"datasets.{data.dataset}.path is {data.path!r}: there is no such folder; {hint}")
    rule = data.source.group if isinstance(data.source, FolderSource) else ""
    if rule.lower().endswith(".csv") and not Path(rule).is_file():
        raise ConfigError(f"datasets.folder.source.group is {rule!r}: there is no such file{paths.in_experiment(rule)}")
    if own := params["datasets"].get("folder", {}).get("path"):  # DVC reads it, whatever the dataset
        folder.check(Path(own))
    made = {paths.CONFIGS / name: files.dump(config) for name, config in resolved.files().items()}
    for path, text in made.items():
        write_text(path, text)
    for path in sorted(paths.CONFIGS.rglob("*"), reverse=True):  # those of rows that are gone
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.is_file() and path not in made:
            path.unlink()


def _networks(params: dict) -> dict[str, dict[str, Any]]:
    """What the weights on this machine that rows name are of, by path."""
    found = resolve.paths_of_weights(params)
    if not found:
        return {}
    from r2plus1d.model.checkpoint import network_of  # noqa: PLC0415 (torch, for seconds, and few rows need it)

    return {path: network_of(Path(path)) for path in found}


if __name__ == "__main__":
    run(main, sys.argv)
