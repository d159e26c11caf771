"""Stages that are ended, or whose disk or memory runs out: the same bytes afterwards, and one line with the way out."""

import os
import random
import shutil
import signal
import time

import pytest

from r2plus1d import config
from tests.conftest import Project, smaller_params

ROW = config.CUSTOM
STAGES = {"download": (), "extract_frames": (), "build_lists": (), "train": (ROW,), "test": (ROW,)}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Runs its arguments where it may mount, and nobody else sees it.
MOUNTING = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory) -> Project:
    """A project after all stages of one row, undisturbed, and how long each of them took; tests only look at it."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(prepared.folder, folder)
    project = Project.at(folder)
    project.set(smaller_params())
    project.seconds = {}
    for name, row in {"resolve": (), **STAGES}.items():
        project.clear(name, ROW)
        began = time.monotonic()
        project.must(name, *row)
        project.seconds[name] = time.monotonic() - began
    return project


@pytest.fixture
def copied(finished, tmp_path) -> Project:
    shutil.copytree(finished.folder, tmp_path / "project")
    return Project.at(tmp_path / "project")


@pytest.mark.parametrize(("number", "name"), list(enumerate(STAGES)))
def test_killed_stage_leaves_something_half_written_or_ends_with_other_bytes(number, name, finished, copied):
    sign = SIGNALS[number % 3]
    copied.clear(name, ROW)
    process = copied.start(f"stages/{name}.py", *STAGES[name])
    time.sleep(random.Random(number).uniform(0.2, 0.9) * finished.seconds[name])
    os.killpg(process.pid, sign) if sign == signal.SIGINT else process.send_signal(sign)
    process.communicate()
    assert copied.whole().items() <= finished.results().items()
    copied.must(name, *STAGES[name])
    assert copied.results() == finished.results()
