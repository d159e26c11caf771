"""A tiny project in a temporary folder: the real stages, a few small videos, networks that train in seconds."""

import compileall
import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than cores would wait for each other in busy loops
os.environ["TRITON_INTERPRET"] = "1"  # kernels for GPUs are tested without one; read when torch loads Triton

from r2plus1d.config import files
from r2plus1d.config.schema import CUSTOM
from r2plus1d.datasets import motion
from r2plus1d.datasets.encode import write_h264
from r2plus1d.system import arithmetic
from tests.support.commands import copy_of, make_with_dvc
from tests.support.golden import find_golden
from tests.support.project import ROOT, Project, smaller_params, tiniest_params, tiny_params

arithmetic.pin()


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is not inherited, where ignoring is


@pytest.fixture(scope="session")
def golden():
    """Path of a file of reference vectors; one that is neither committed nor beside the clone skips the test."""

    return find_golden


@pytest.fixture
def params() -> dict:
    """params.yaml as it stands, to be changed by a test."""
    return files.read_params(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def clip_path(tmp_path_factory) -> Path:
    """A real h264 video: 40 frames of 64 x 86 pixels, or a few more."""
    path = tmp_path_factory.mktemp("clip") / "falling.mp4"
    write_h264(path, motion.render(0, 0, 1, 0, 64)[:40], motion.FPS)
    return path


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Project:
    """A project that tests only look at. Where they run beside each other, the first that needs it makes it for all."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / name / "project"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder.parent / "finished").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            compileall.compile_dir(folder / "src", quiet=1)  # for the processes of all copies
            (folder.parent / "finished").touch()
    return Project.at(folder)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Project:
    """A tiny project with videos, frames and lists made."""
    return made_once(tmp_path_factory, "prepared", lambda folder: Project(folder, tiny_params()).prepare())


@pytest.fixture
def project(prepared, tmp_path) -> Project:
    """A copy of the prepared project that a test may spoil."""
    shutil.copytree(prepared.folder, tmp_path / "project")
    return Project.at(tmp_path / "project")


@pytest.fixture(scope="session")
def finished(prepared, tmp_path_factory) -> Project:
    """A project after the stages of the row `custom`; tests only look at it."""

    def make(folder: Path) -> None:
        shutil.copytree(prepared.folder, folder)
        project = Project.at(folder)
        project.set(smaller_params())
        for stage in (("resolve",), ("features", CUSTOM), ("train", CUSTOM), ("test", CUSTOM)):
            project.must(*stage)

    return made_once(tmp_path_factory, "finished", make)


@pytest.fixture
def copied(finished, tmp_path) -> Project:
    """A copy of the finished project that a test may spoil."""
    shutil.copytree(finished.folder, tmp_path / "project")
    return Project.at(tmp_path / "project")


@pytest.fixture(scope="session")
def committed(tmp_path_factory) -> Project:
    """The smallest project as a git clone, all of it made by its stages, noted by DVC and committed; tests only look at
    it."""
    return made_once(tmp_path_factory, "committed", lambda folder: make_with_dvc(Project(folder, tiniest_params())))


@pytest.fixture
def own(committed, tmp_path) -> Project:
    """A copy of the committed project that a test may spoil."""
    return copy_of(committed, tmp_path / "project")
