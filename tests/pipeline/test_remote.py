"""What DVC does between folders and machines: a remote without the frames, experiments without a new extraction."""

import os
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from r2plus1d.system import paths
from r2plus1d.system.files import sha256
from r2plus1d.zoo import weights
from tests.support.commands import clone_of, commit_all, copy_of, dvc, git, ran
from tests.support.project import Project


@pytest.fixture(scope="module")
def pushed(committed, tmp_path_factory) -> Project:
    """The committed project after `dvc push` to the folder `store` next to it; tests only look at it."""
    folder = tmp_path_factory.mktemp("pushed")
    project = copy_of(committed, folder / "project")
    dvc(project, "remote", "add", "--quiet", "--default", "store", str(folder / "store"))
    dvc(project, "push", "--quiet")
    commit_all(project, "remote")
    return project


@pytest.fixture
def clone(pushed, tmp_path) -> Project:
    return clone_of(pushed, tmp_path / "clone")


def left_here(name: str) -> bool:
    return name.startswith((str(paths.data("motion") / "videos"), str(paths.data("motion") / "frames")))


def test_all_but_videos_and_frames_is_pushed(pushed):
    stored = {sha256(file) for file in (pushed.folder.parent / "store").rglob("*") if file.is_file()}
    made = pushed.results()
    outside_git = {name for name in made if not name.startswith("metrics/") and not name.endswith("/README.md")}
    assert {name for name in outside_git if made[name] not in stored} == {name for name in made if left_here(name)}


def test_pull_brings_all_that_was_pushed_and_nothing_is_left_to_run(clone, pushed):
    dvc(clone, "pull", "--allow-missing")
    made = pushed.results()
    assert clone.results() == {name: digest for name, digest in made.items() if not left_here(name)}
    assert ran(dvc(clone, "repro", "--allow-missing")) == []
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.slow
def test_plain_pull_brings_the_same_and_names_what_stays_away(clone, pushed):
    """DVC ends it as an error: it has no way to tell an output that is never pushed from one that was lost."""
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", "pull"]
    done = subprocess.run(command, cwd=clone.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    named = done.stderr.partition("Checkout failed for following targets:")[2].splitlines()
    assert set(named[1:3]) == {"data/motion/frames/custom", "data/motion/videos"}
    assert clone.results() == {name: digest for name, digest in pushed.results().items() if not left_here(name)}


def test_published_row_is_fetched_by_its_name_and_used_alone(clone, tmp_path):
    git(clone, "tag", "--annotate", "--message", "the first", "custom@v1.0.0")  # as `gto register custom` does
    (tmp_path / "elsewhere").mkdir()
    dvc(Project.at(tmp_path / "elsewhere"), "artifacts", "get", str(clone.folder), "custom", "--out", "given")
    given = tmp_path / "elsewhere" / "given"
    assert {file.name for file in given.iterdir()} == {"README.md", "model.safetensors", "train.log", "train.log.json"}
    card = ModelCard.load(given / "README.md")
    assert sha256(given / "model.safetensors") in card.text
    network = weights.load(str(given / "model.safetensors"))
    assert network.classes


@pytest.mark.slow
def test_change_after_a_pull_runs_what_it_asks_for_and_what_was_not_pulled(clone, pushed):
    dvc(clone, "pull", "--allow-missing")
    params = clone.folder / "params.yaml"
    params.write_text(params.read_text().replace("clips: null", "clips: 2", 1))
    made = ["resolve", "download", "extract_frames@custom", "test@custom", "card@custom", "report"]
    assert ran(dvc(clone, "repro")) == made
    stays = ("data/", "models/")  # but for the card, which tells the test
    kept = [name for name in pushed.results() if name.startswith(stays) and not name.endswith("/README.md")]
    assert {name: clone.results()[name] for name in kept} == {name: pushed.results()[name] for name in kept}


@pytest.mark.slow
def test_experiment_in_a_folder_of_its_own_reuses_the_frames(own):
    said = dvc(own, "exp", "run", "--temp", "--set-param", "test.clips=2", "train@custom", "build_lists")
    assert ran(said) == ["resolve"]
    assert "Stage 'extract_frames@custom' didn't change, skipping" in said
