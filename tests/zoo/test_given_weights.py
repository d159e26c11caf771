"""Rows whose weights are given: published ones, or a file's."""

import hashlib
import json
import subprocess

import pytest
import torch
import yaml

from r2plus1d.config import files
from r2plus1d.config.schema import RowConfig
from r2plus1d.model import checkpoint
from r2plus1d.model.network import build
from r2plus1d.system import paths, records
from r2plus1d.zoo import update
from tests.support.commands import dvc
from tests.support.networks import same
from tests.support.server import serving

ROW = "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_256p"


@pytest.fixture
def served(project, tmp_path, monkeypatch):
    """(project, address of a .pth in the published layout, its network): a row's own network, exported and served."""
    monkeypatch.chdir(project.folder)
    classes = paths.labels("motion").read_text().splitlines()
    arguments = update.build_arguments(files.read_row(paths.CONFIGS, ROW, RowConfig), len(classes))
    torch.manual_seed(1)
    network = build(**arguments).eval()
    folder = tmp_path / "served"
    folder.mkdir()
    checkpoint.export_mmaction(network, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    name = f"{ROW}_20200729-{digest[:8]}.pth"
    (folder / "new.pth").rename(folder / name)
    with serving(folder) as address:
        yield project, f"{address}/{name}", network


def give(project, row: str, value) -> None:
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["zoo"][row]["checkpoint"] = value
    project.set(params)


@pytest.mark.slow
def test_weights_in_the_published_layout_go_through_dvc_repro(served, tmp_path):
    project, address, network = served
    give(project, ROW, address)
    dvc(project, "init", "--no-scm", "--quiet")
    said = dvc(project, "repro", f"test@{ROW}", f"benchmark@{ROW}", TORCH_HOME=str(tmp_path / "hub"))
    assert "Not trained: these are the weights of http://127.0.0.1" in said
    assert same(checkpoint.load(project.folder / "models" / ROW / "model.safetensors"), network)
    cached = list((tmp_path / "hub/hub/checkpoints").glob("*.pth"))
    assert [f"/{path.name}" for path in cached] == [address[address.rindex("/") :]]
    assert json.loads((project.folder / paths.metrics(ROW, "test.json")).read_text())["videos"] == 12
    again = content_of(project)
    give(project, ROW, str(cached[0]))
    project.must("resolve")
    project.must("train", ROW)
    project.must("test", ROW)
    assert {name: again[name] for name in ("test.json", "predictions.csv", "per_class.csv", "curve.csv")} == {
        name: content_of(project)[name] for name in ("test.json", "predictions.csv", "per_class.csv", "curve.csv")
    }


def test_overwritten_file_of_weights_is_no_longer_that_of_the_record(served, tmp_path):
    """So that `dvc repro --force` takes the new ones, though only code has changed."""
    project, address, _ = served
    file = tmp_path / "served" / address.rpartition("/")[2]
    give(project, ROW, str(file))
    project.must("resolve")
    project.must("extract_frames", ROW)
    project.must("train", ROW)
    record = records.read("train", ROW)
    assert record["weights_of"] == str(file)
    assert records.of_files_on_disk(record)
    file.write_bytes(file.read_bytes() + b"more")
    assert not records.of_files_on_disk(record)


def content_of(project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.folder / "metrics" / "rows" / ROW).iterdir()}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no/such/file.pth", "there is no such file"),
        ("weights.zip", "there is no such file"),
        (f"models/{ROW}/model.safetensors", "itself makes that file, and DVC removes it before; copy it to another"),
        ("publishd", "did you mean 'published'"),
        (7, "is 7"),
    ],
)
def test_checkpoint_that_cannot_be_is_found_out_in_the_first_stage(project, value, words):
    give(project, ROW, value)
    failed = project.run("resolve")
    assert failed.returncode == 1
    assert words in failed.stderr
    assert ROW in failed.stderr


def test_published_stands_for_the_row_s_own_file(project):
    give(project, ROW, "published")
    project.must("resolve")
    resolved = json.loads((project.folder / paths.row_config(ROW, "train")).read_text())
    assert resolved["checkpoint"].endswith("_20200729-aa94765e.pth")


def test_published_weights_of_another_size_are_refused_by_the_stage(served, tmp_path):
    project, address, _ = served
    give(project, ROW, address)
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["datasets"]["motion"]["scale"]["width"] = 0.125
    project.set(params)
    project.must("resolve")
    project.must("extract_frames", ROW)
    failed = project.run("train", ROW, TORCH_HOME=str(tmp_path / "hub"), OFFLINE="but-this-machine")
    assert failed.returncode == 1
    assert "does not fit the network (depth 10, conv r2plus1d, width 8" in failed.stderr
    subprocess.run(["rm", "-rf", str(project.folder)], check=True)
