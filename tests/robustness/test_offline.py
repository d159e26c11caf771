"""No network but for downloads: the pipeline with networking cut off, by the kernel where it lets a user do that."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import OFFLINE, ROOT, Project, tiny_params

WITHOUT = ["unshare", "--user", "--map-root-user", "--net"]


@functools.cache
def cut_off() -> list[str]:
    """What runs a command without network; empty where the machine allows that to nobody but root."""
    able = (
        shutil.which("unshare") and subprocess.run([*WITHOUT, "true"], capture_output=True, check=False).returncode == 0
    )
    return WITHOUT if able else []


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(OFFLINE), **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import urllib.request; urllib.request.urlopen('https://127.0.0.1:9')",
        "import requests; requests.get('http://example.invalid')",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "import socket\ntry: socket.create_connection(('192.0.2.1', 53))\nexcept BaseException: pass",
    ],
)
def test_watch_over_the_network_ends_what_uses_it(code):
    done = python(code)
    assert done.returncode == 86
    assert done.stderr.startswith("network: socket.")


def test_watch_over_the_network_lets_pass_what_uses_none():
    done = python("import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))")
    assert (done.returncode, done.stdout) == (0, "b'x'\n")


@pytest.mark.slow
def test_dvc_repro_runs_without_the_network(tmp_path):
    """DVC itself, its own settings, and the stages that every row shares; the others: pipeline/test_stages.py."""
    project = Project(tmp_path / "project", tiny_params())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment |= {"PYTHONPATH": f"{project.folder / 'src'}:{OFFLINE}"}

    def dvc(*arguments: str) -> subprocess.CompletedProcess:
        command = [*cut_off(), sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, check=False)

    assert dvc("init", "--no-scm", "--quiet").returncode == 0
    settings = (ROOT / ".dvc" / "config").read_text().replace("[core]\n", "[core]\n    no_scm = true\n")
    (project.folder / ".dvc" / "config").write_text(settings)
    done = dvc("repro", "build_lists")
    assert (done.returncode, "network:" in done.stdout + done.stderr) == (0, False), done.stderr
    assert (project.folder / "data/motion/lists/label_map.txt").is_file()
