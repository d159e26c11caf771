"""The original's own environment: MMAction2 0.24.1 with the packages of its time.

Why 0.24.1: its wheel holds the published rows' own configurations. The wheel of 1.2.0 lacks the folder
mmaction/models/localizers/drn and cannot be imported; 1.1.0 runs, but knows none of the three rows with frames.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import BenchmarkError, unpinned
from benchmarks.environments import made, run_quietly

HERE = Path(__file__).resolve().parent
THEIRS = HERE / "theirs"  # the scripts that run in this environment

# numpy 1.23 is the last with np.int, which MMAction2 0.24.1 uses, and Python 3.11 the last that it runs on. mmcv's
# setup needs pkg_resources (setuptools below 81), and MMAction2 refuses an mmcv after 1.7.0.
PACKAGES = (
    "setuptools==80.9.0 wheel==0.48.0 torch==2.14.1 torchvision==0.29.1 numpy==1.23.5 opencv-python-headless==4.8.1.78 "
    "decord==0.6.0 einops==0.8.2 scipy==1.11.4 pillow==13.0.0 addict==2.4.0 packaging==26.3 pyyaml==6.0.3 yapf==0.43.0"
)
ORIGINAL = "mmcv==1.7.0 mmaction2==0.24.1"  # without what they ask for: an OpenCV with another numpy


def ask(parser: argparse.ArgumentParser) -> None:
    """Adds the two options that `ready` needs."""
    help_ = "the original's environment, made at the first run"
    parser.add_argument("--environment", type=Path, default=HERE / ".environment", metavar="DIR", help=help_)
    help_ = "a Python 3.11 to make it from"
    parser.add_argument("--python", default=sys.executable, help=help_)


def ready(options: argparse.Namespace) -> Path:
    """The environment's python, after installing the pinned packages where they are not there yet."""
    python, there = options.python, (options.environment / "ready").is_file()
    if not there and run_quietly(
        [python, "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 11))"], subprocess.DEVNULL
    ):
        raise BenchmarkError(f"the original runs on Python 3.11, and {python} is not one; give one with --python")
    parts = PACKAGES.split(), ["--no-deps", "--no-build-isolation", *ORIGINAL.split()]
    return made(options.environment, python, "the original", "6 GB", *parts)


def their_variables() -> dict[str, str]:
    """For the original, which runs as its users run it: without what pins this project's arithmetic, or its package."""
    return {key: value for key, value in unpinned().items() if key != "PYTHONPATH"}


def called(command: list, side: str, pinned: bool = True) -> Any:
    """The JSON that a command of one side prints last. Only ours can be `pinned`."""
    own = os.environ if pinned else unpinned()
    variables = their_variables() if side == "original" else own
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
