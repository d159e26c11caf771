"""Where results come from: the record of what made a row, and what is shown of it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from r2plus1d.model import checkpoint
from r2plus1d.model.network import build
from r2plus1d.results import provenance
from r2plus1d.system import arithmetic, paths, records
from r2plus1d.system.files import sha256
from r2plus1d.zoo import records
from r2plus1d.zoo.rows import open_row
from tests.support.commands import git
from tests.support.project import ROOT, Project

ROW = "custom"
PINS = tuple(arithmetic.PINNED)


@pytest.fixture
def recorded(project, monkeypatch) -> Project:
    """A clone with a model and its record, made without training."""
    monkeypatch.chdir(project.folder)
    git(project, "init", "--quiet")
    git(project, "add", "--all", "--", "src", "stages", "params.yaml", "dvc.yaml")
    git(project, "commit", "--quiet", "--message", "all")
    make_model(open_row(ROW))
    return project


@records.recorded("train")
def make_model(row) -> None:
    arguments = {"depth": 10, "conv": "r2plus1d", "width": 4, "num_classes": 3, "dropout": 0.0, "frames": 8}
    checkpoint.save(build(**arguments), paths.weights(row.config.row), arguments)


def read_record() -> dict:
    return json.loads(paths.made_by(ROW, "train").read_text())


def test_record_names_all_that_made_a_model(recorded):
    record = read_record()
    weights, lists = paths.weights(ROW), sorted(paths.lists("motion").iterdir())
    assert record["outputs"] == {str(weights): sha256(weights)}
    named = [paths.row_config(ROW), paths.manifest("motion"), paths.frames("motion") / "320p" / "index.csv", *lists]
    assert record["inputs"] == {str(path): sha256(path) for path in named}
    assert len(record["code"]["commit"]) == 40
    assert record["code"]["changed"] == []
    assert record["code"]["package"] == str(ROOT / "src" / "r2plus1d")  # not that of the project: this process's own
    assert record["environment"] == {key: os.environ[key] for key in PINS}
    assert record["libraries"]["torch"] == torch.__version__
    assert record["libraries"]["av"] == "18.1.0"
    assert (record["seed"], record["machine"]["processes"], record["machine"]["type"]) == (0, 1, "cpu")


def test_code_that_was_changed_is_named(recorded):
    (recorded.folder / "params.yaml").write_text("seed: 1\n")
    (recorded.folder / "src" / "new file.py").touch()
    (recorded.folder / "elsewhere.txt").touch()
    assert records.code()["changed"] == ["params.yaml", '"src/new file.py"']


def test_clone_around_the_project_counts_for_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert records.code() is None
    outer = Project.__new__(Project)
    outer.folder = tmp_path
    git(outer, "init", "--quiet")
    git(outer, "commit", "--quiet", "--allow-empty", "--message", "of something else")
    assert records.code() is None


def test_failed_stage_leaves_the_record_as_it_was(recorded):
    before = paths.made_by(ROW, "train").read_bytes()
    row = open_row(ROW)

    @records.recorded("train")
    def fail(row):
        paths.weights(ROW).write_bytes(b"half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail(row)
    assert paths.made_by(ROW, "train").read_bytes() == before


@pytest.mark.parametrize("target", [ROW, f"models/{ROW}", f"metrics/{ROW}/", f"models/{ROW}/model.safetensors"])
def test_show_finds_a_row_by_all_its_names(recorded, target):
    shown = provenance.show(target)
    assert f"commit {read_record()['code']['commit']}, clean" in shown
    assert f"made         {sha256(paths.weights(ROW))[:16]} models/{ROW}/model.safetensors: as on disk" in shown


def test_show_of_another_projects_row_reads_the_files_there(recorded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "model.safetensors: as on disk" in provenance.show(str(recorded.folder / "models" / ROW))


def test_show_tells_other_files_from_those_of_the_record(recorded):
    assert "not of the files on disk" not in provenance.show(ROW)
    with open(paths.weights(ROW), "ab") as file:
        file.write(b"more")
    paths.manifest("motion").unlink()
    shown = provenance.show(ROW)
    assert f"model.safetensors: ANOTHER on disk, {sha256(paths.weights(ROW))[:16]}" in shown
    assert "data/motion/manifest.csv: not on disk" in shown
    assert "The record is not of the files on disk" in shown


def test_copied_model_file_leads_to_its_row(recorded, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(paths.weights(ROW).read_bytes())
    shown = provenance.show(str(copy))
    assert sha256(copy) in shown
    assert "depth 10" in shown
    assert f"that of {ROW} here" in shown
    shutil.rmtree(paths.made_by(ROW, "train").parent)
    assert "none of the same bytes here" in provenance.show(str(copy))
    assert "depth 10" in provenance.show(ROW)  # of which there is no record either


@pytest.mark.parametrize(
    ("spoil", "target", "words"),
    [
        ({}, "no_such_row", f"no_such_row: no record of what made it.* there are records of {ROW}"),
        ({"x.safetensors": "no tensors"}, "x.safetensors", "x.safetensors: not a model file"),
        ({f"metrics/{ROW}/made_by_train.json": '{"row": 1'}, ROW, r"made_by_train.json is damaged"),
        ({f"metrics/{ROW}/made_by_train.json": '{"inputs": []}'}, ROW, r"made_by_train.json is damaged"),
    ],
)
def test_show_of_what_is_no_row_or_model_says_so(recorded, spoil, target, words):
    for name, text in spoil.items():
        Path(name).write_text(text)
    with pytest.raises(provenance.ProvenanceError, match=words):
        provenance.show(target)


def test_machine_that_makes_other_bytes_is_told_from_the_same(recorded, monkeypatch):
    record, here = read_record(), {"device": "cpu", "threads": 2}
    assert records.differences(record, here) == []
    record["libraries"] |= {"torch": "1.0", "python": "3.0"}
    record["machine"] |= {"cpu_kernels": "DEFAULT", "threads": 99}
    torch_differs, kernels_differ, threads_differ = records.differences(record, here | {"threads": None})
    assert torch_differs == f"torch {torch.__version__} here, 1.0 there"
    assert "DEFAULT there" in kernels_differ
    assert "99 there" in threads_differ
    assert "a CUDA device computes" in records.differences(record, {"device": "cuda", "threads": 2})[-1]
