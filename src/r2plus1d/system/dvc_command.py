"""DVC run as a command, by this Python."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path


def run(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> int:
    """The exit status of `dvc` in a folder; what it says goes through. Its stages find the commands of this Python.

    What ends this process meanwhile ends DVC and the stage that it runs.
    """
    process = subprocess.Popen(_command(arguments), cwd=folder, env=_found(environment), start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)  # the stage too, not DVC alone
        process.wait()
        raise


def answer(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """(the exit status of a short `dvc` command, what it says). It ends by itself also where this process is ended
    meanwhile: while DVC queues an experiment, it has put the folder's changes aside."""
    with tempfile.TemporaryFile() as said:  # a pipe would stay open as long as the workers that DVC starts
        process = subprocess.Popen(
            _command(arguments),
            cwd=folder,
            env=_found(environment),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait()
        except BaseException:
            process.wait()
            raise
        said.seek(0)
        return process.returncode, said.read().decode(errors="replace")


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "dvc", *arguments]


def _found(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which the commands of this Python are found first."""
    return {**environment, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}
