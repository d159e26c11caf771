"""Other programs that compute the exported network: OpenVINO and ONNX Runtime, in an environment of their own."""

import argparse
import json
import subprocess
from pathlib import Path

from benchmarks.common import BenchmarkError
from benchmarks.environments import made
from benchmarks.original.environment import their_variables

HERE = Path(__file__).resolve().parent
PACKAGES = "numpy==2.4.6 onnxruntime==1.32.0 openvino==2026.4.1"
PEERS = "ONNX Runtime", "OpenVINO float32", "OpenVINO default"


def ask(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `ready` needs."""
    help_ = "the peers' environment, made at the first run"
    parser.add_argument("--environment", type=Path, default=HERE / ".environment", metavar="DIR", help=help_)
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has them, in the place of that environment")


def ready(options: argparse.Namespace, python: str) -> str:
    """The python that has the peers."""
    return options.peers or str(made(options.environment, python, "the peers", "360 MB", PACKAGES.split()))


def measured(python: str, peer: str, folder: Path, threads: int) -> dict:
    """What the peer says of `model.onnx` and `clips.npy` in the folder: clip by clip or all clips at once, whichever is
    faster. Raises BenchmarkError."""
    found = [
        _measured(python, {"peer": peer, "folder": str(folder), "threads": threads, "clips_at_once": n}) for n in (1, 0)
    ]
    return min(found, key=lambda one: one["seconds"])


def _measured(python: str, job: dict) -> dict:
    command = [python, str(HERE / "theirs.py"), json.dumps(job)]
    done = subprocess.run(command, env=their_variables(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{job['peer']} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
