"""What DVC does between folders and machines: a remote without the frames, experiments without a new extraction."""

import shutil
from types import SimpleNamespace

import pytest

from r2plus1d.system import paths
from r2plus1d.system.files import sha256
from tests.support.commands import dvc, git
from tests.support.project import ROOT


@pytest.fixture
def committed(project):
    """The prepared project with something in the place of a trained model, as a git commit."""
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, project.folder / name)
    (project.folder / paths.weights("custom")).parent.mkdir(parents=True)
    (project.folder / paths.weights("custom")).write_bytes(b"weights")
    git(project, "init", "--quiet")
    dvc(project, "init", "--quiet")
    stages = ("sources", "resolve", "download", "extract_frames", "build_lists", "train@custom")
    dvc(project, "commit", "--quiet", "--force", *stages)
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "all")
    return project


def test_all_but_videos_and_frames_is_pushed_and_pulled(committed, tmp_path):
    dvc(committed, "remote", "add", "--quiet", "--default", "store", str(tmp_path / "store"))
    dvc(committed, "push", "--quiet")
    pushed = {sha256(file) for file in (tmp_path / "store").rglob("*") if file.is_file()}
    data = committed.folder / "data" / "motion"
    for left_out in [*data.glob("frames/*/*"), *data.glob("videos/*/*/*")]:
        assert sha256(left_out) not in pushed
    git(committed, "add", "--all")
    git(committed, "commit", "--quiet", "--message", "remote")
    git(committed, "clone", "--quiet", ".", str(tmp_path / "clone"))
    clone = SimpleNamespace(folder=tmp_path / "clone")
    dvc(clone, "pull", "--allow-missing")
    for brought in (paths.weights("custom"), paths.manifest("motion"), paths.labels("motion"), paths.COVERAGE):
        assert (clone.folder / brought).read_bytes() == (committed.folder / brought).read_bytes()
    assert not (clone.folder / paths.frames("motion")).exists()
    assert "Running stage" not in dvc(clone, "repro", "--allow-missing", "train@custom")


def test_experiment_in_a_folder_of_its_own_reuses_the_frames(committed):
    said = dvc(committed, "exp", "run", "--temp", "--set-param", "test.clips=5", "build_lists")
    assert "Running stage 'resolve'" in said
    assert "Stage 'extract_frames' didn't change, skipping" in said
    assert "Running stage 'extract_frames'" not in said
