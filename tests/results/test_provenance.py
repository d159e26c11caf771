"""Where results come from: the record of what made a row, and what is shown of it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from r2plus1d.config.schema import RowConfig, Runtime
from r2plus1d.model import checkpoint
from r2plus1d.model.network import build
from r2plus1d.results import provenance
from r2plus1d.system import arithmetic, code, paths
from r2plus1d.system.files import sha256
from r2plus1d.system.machine import processor
from r2plus1d.system.records import commit
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
    git(project, "add", "--all", "--", "src", "stages", "params.yaml", "dvc.yaml", "constraints.txt")
    git(project, "commit", "--quiet", "--message", "all")
    make_model(open_row(ROW, RowConfig))
    return project


@records.recorded("train")
def make_model(row) -> None:
    arguments = {"depth": 10, "conv": "r2plus1d", "width": 4, "num_classes": 3, "dropout": 0.0, "frames": 8}
    torch.manual_seed(0)
    checkpoint.save(build(**arguments), paths.weights(row.config.row))


def read_record() -> dict:
    return json.loads(paths.made_by(ROW, "train").read_text())


def test_record_names_all_that_made_a_model(recorded):
    record = read_record()
    weights, lists = paths.weights(ROW), sorted(paths.lists("motion").iterdir())
    assert record["outputs"] == {str(weights): sha256(weights)}
    config, index = paths.row_config(ROW, "train"), paths.frames("motion", ROW) / "index.csv"
    named = [config, paths.manifest("motion"), index, *lists]
    assert record["inputs"] == {str(path): sha256(path) for path in named}
    assert len(record["commit"]["id"]) == 40
    assert record["commit"]["changed"] == []
    assert record["commit"]["package"] == str(ROOT / "src" / "r2plus1d")  # not the project's: this process's own
    assert record["code"]["r2plus1d/model/network.py"] == code.tree(ROOT / "src/r2plus1d/model/network.py")
    assert record["environment"] == {key: os.environ[key] for key in PINS}
    assert record["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert record["libraries"]["av"] == "18.1.0"
    assert (record["seed"], record["machine"]["processes"], record["machine"]["type"]) == (0, 1, "cpu")


def test_record_is_written_again_only_if_more_than_commit_and_machine_changed(recorded):
    file = paths.made_by(ROW, "train")
    before = read_record()
    elsewhere = before | {"commit": before["commit"] | {"id": "0" * 40}, "machine": {"device": "another"}}
    file.write_text(json.dumps(elsewhere))
    make_model(open_row(ROW, RowConfig))
    assert read_record() == elsewhere
    for key, value in (("seed", 1), ("outputs", {}), ("code", {}), ("libraries", {}), ("inputs", {})):
        file.write_text(json.dumps(elsewhere | {key: value}))
        make_model(open_row(ROW, RowConfig))
        assert read_record()[key] == before[key]
        assert read_record()["commit"] == before["commit"]


def test_code_that_was_changed_is_named(recorded):
    (recorded.folder / "params.yaml").write_text("seed: 1\n")
    (recorded.folder / "src" / "new file.py").touch()
    (recorded.folder / "elsewhere.txt").touch()
    assert commit()["changed"] == ["params.yaml", '"src/new file.py"']


def test_clone_around_the_project_counts_for_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commit() is None
    outer = Project.at(tmp_path)
    git(outer, "init", "--quiet")
    git(outer, "commit", "--quiet", "--allow-empty", "--message", "of something else")
    assert commit() is None


def test_failed_stage_leaves_the_record_as_it_was(recorded):
    before = paths.made_by(ROW, "train").read_bytes()
    row = open_row(ROW, RowConfig)

    @records.recorded("train")
    def fail(row):
        paths.weights(ROW).write_bytes(b"half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail(row)
    assert paths.made_by(ROW, "train").read_bytes() == before


@pytest.mark.parametrize("target", [ROW, f"models/{ROW}", f"metrics/rows/{ROW}/", f"models/{ROW}/model.safetensors"])
def test_show_finds_a_row_by_all_its_names(recorded, target):
    shown = provenance.show(target)
    assert f"commit {read_record()['commit']['id']}, clean" in shown
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
        ({f"metrics/records/{ROW}/made_by_train.json": '{"row": 1'}, ROW, r"made_by_train.json is damaged"),
        ({f"metrics/records/{ROW}/made_by_train.json": '{"inputs": []}'}, ROW, r"made_by_train.json is damaged"),
    ],
)
def test_show_of_what_is_no_row_or_model_says_so(recorded, spoil, target, words):
    for name, text in spoil.items():
        Path(name).write_text(text)
    with pytest.raises(provenance.ProvenanceError, match=words):
        provenance.show(target)


def test_machine_that_makes_other_bytes_is_told_from_the_same(recorded, monkeypatch):
    record, here = read_record(), Runtime(device="cpu", gpus=1, threads=2, lowered="auto", arithmetic="exact")
    assert records.differences(record, here) == []
    record["libraries"] |= {"torch": "1.0", "python": "3.0"}
    record["machine"] |= {"cpu_kernels": "DEFAULT", "threads": 99}
    unset, cuda = (here.model_copy(update=update) for update in ({"threads": None}, {"device": "cuda"}))
    torch_differs, kernels_differ, threads_differ = records.differences(record, unset)
    assert torch_differs == f"torch {code.libraries()['torch']} here, 1.0 there"
    assert "DEFAULT there" in kernels_differ
    assert "99 there" in threads_differ
    assert "a CUDA device computes" in records.differences(record, cuda)[-1]


def test_bytes_of_native_arithmetic_are_expected_of_the_same_processor_alone(recorded):
    record, here = read_record(), Runtime(device="cpu", gpus=1, threads=2, lowered="auto", arithmetic="native")
    assert records.differences(record, here) == []
    record["machine"]["device"] = "CPU Other"
    assert records.differences(record, here) == [], "it was computed exactly"
    record["arithmetic"] = "native"
    record["machine"]["cpu_kernels"] = "AVX512"
    (differs,) = records.differences(record, here)
    assert differs.startswith("computed in the native arithmetic of CPU Other, and here is another: CPU ")
    record["machine"]["device"] = processor()
    assert records.differences(record, here) == [], "those are the processor's own, not those of this process"
    record["machine"]["instructions"] = "avx2 amx_bf16"
    assert len(records.differences(record, here)) == 1


def test_show_names_the_arithmetic(recorded):
    assert f"  arithmetic   {read_record()['arithmetic']}\n" in provenance.show(ROW)
