"""Environments of their own for what is compared with: made at the first run, and used again."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import BenchmarkError


def made(folder: Path, python: str, name: str, size: str, *installs: Sequence[str]) -> Path:
    """The python of an environment in `folder`, made by `python`, after `pip install` of each of `installs`, if these
    are not in it yet. Raises BenchmarkError."""
    folder = folder.absolute()
    noted, interpreter = folder / "ready", folder / "bin" / "python"
    wanted = "".join(" ".join(word for word in install if not word.startswith("--")) for install in installs)
    if noted.is_file() and noted.read_text() == wanted:
        return interpreter
    if folder.exists() and any(folder.iterdir()) and not (folder / "install.log").is_file():
        raise BenchmarkError(f"{folder} holds something else than {name}; choose another folder")
    print(f"installing {name} into {folder}: about {size}, some minutes", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [interpreter, "-m", "pip", "install", "--retries", "2", "--disable-pip-version-check"]
    with open(folder / "install.log", "w") as log:
        if any(run_quietly(step, log) for step in ([python, "-m", "venv", folder], *([*pip, *i] for i in installs))):
            raise BenchmarkError(f"{name} could not be installed; is there a network? What pip says: {log.name}")
    noted.write_text(wanted)
    return interpreter


def run_quietly(command: Sequence, output) -> int:
    """The exit status; what the command says goes to `output`."""
    return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
