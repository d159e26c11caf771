"""DVC run as a command, by this Python."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def run(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> int:
    """The exit status of `dvc` in a folder; what it says goes through. Its stages find the commands of this Python.

    What ends this process meanwhile ends DVC and the stage that it runs.
    """
    search = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command, environment = [sys.executable, "-m", "dvc", *arguments], {**environment, "PATH": search}
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)  # the stage too, not DVC alone
        process.wait()
        raise
