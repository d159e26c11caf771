"""Weights in files: ours, MMAction's, and those that somebody meant to do harm with."""

import functools
import hashlib
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml

from r2plus1d import checkpoint, training
from r2plus1d.model import build
from r2plus1d.rows import open_row
from tests.test_model import trained_a_little

ROW = "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_256p"
ARGUMENTS = {"depth": 18, "num_classes": 5, "width": 4}


@pytest.fixture(scope="module")
def model():
    return trained_a_little(**ARGUMENTS)


class Harm:
    """A pickle of this runs a command when it is read without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def same(state, model) -> bool:
    own = model.state_dict()
    return set(state) == set(own) and all(torch.equal(state[name], own[name]) for name in own)


def test_exported_weights_are_not_read_back_alike(model, tmp_path):
    checkpoint.export_mmaction(model, tmp_path / "a.pth")
    assert same(checkpoint.load(tmp_path / "a.pth"), model)
    assert set(torch.load(tmp_path / "a.pth", weights_only=True)) == {"meta", "state_dict"}
    checkpoint.export_mmaction(model, tmp_path / "another name.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "another name.pth").read_bytes()


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_layouts_are_not_read(model, tmp_path, legacy, prefix):
    """The zoo's files are of 2020: torch's older container, MMCV's notes beside the weights."""
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    meta = {"mmcv_version": "0.6.2", "epoch": 180, "iter": 676080, "config": "model = dict()", "CLASSES": ["a", "b"]}
    saved = {"meta": meta, "state_dict": state}
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert same(checkpoint.load(tmp_path / "a.pth"), model)


def test_checkpoint_that_runs_code_is_read(model, tmp_path):
    for name, content in (
        ("meta", {"meta": {"hook": Harm(tmp_path / "harm")}, "state_dict": model.state_dict()}),
        ("weights", {"state_dict": {**model.state_dict(), "x": Harm(tmp_path / "harm")}}),
        ("all", Harm(tmp_path / "harm")),
    ):
        for legacy in (True, False):
            torch.save(content, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=not legacy)
            with pytest.raises(checkpoint.CheckpointError, match=f"{name}.pth: refused"):
                checkpoint.load(tmp_path / f"{name}.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Harm(tmp_path / "harm"), protocol=2))
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.load(tmp_path / "plain.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04 no archive", b"\xff" * 1000, b"(lp0\n."])
def test_damaged_checkpoint_ends_in_a_traceback(tmp_path, content):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=r"bad\.pth"):
        checkpoint.load(tmp_path / "bad.pth")
    with pytest.raises(checkpoint.CheckpointError, match=r"gone\.pth: No such file"):
        checkpoint.load(tmp_path / "gone.pth")


@pytest.mark.parametrize("legacy", [True, False])
def test_cut_checkpoint_is_loaded(model, tmp_path, legacy):
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    whole = (tmp_path / "a.pth").read_bytes()
    for size in (*range(0, len(whole) - 10, len(whole) // 50), len(whole) - 10):
        (tmp_path / "cut.pth").write_bytes(whole[:size])
        with pytest.raises(checkpoint.CheckpointError, match=r"cut\.pth"):
            checkpoint.load(tmp_path / "cut.pth")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"state_dict": {"a": 1}}, {"state_dict": [1]}, 5])
def test_something_else_than_named_weights_is_loaded(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(checkpoint.CheckpointError, match="tensors by name under `state_dict`"):
        checkpoint.load(tmp_path / "odd.pth")


def test_weights_of_another_network_are_adopted(model, tmp_path):
    checkpoint.export_mmaction(model, tmp_path / "a.pth")
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.adopt(tmp_path / "a.pth", {**ARGUMENTS, "num_classes": 7})
    assert "cls_head.fc_cls.weight: 5x32, expected 7x32" in str(error.value)
    with pytest.raises(checkpoint.CheckpointError, match=r"expected nothing|nothing, expected|more"):
        checkpoint.adopt(tmp_path / "a.pth", {**ARGUMENTS, "depth": 34})
    assert same(checkpoint.adopt(tmp_path / "a.pth", ARGUMENTS).state_dict(), model)


@pytest.fixture
def served(project, tmp_path, monkeypatch):
    """(project, address of a .pth in the published layout, its network): a row's own network, exported and served."""
    monkeypatch.chdir(project.folder)
    row = open_row(ROW)
    arguments = training.build_arguments(row.config, len(row.classes))
    torch.manual_seed(1)
    network = build(**arguments).eval()
    folder = tmp_path / "served"
    folder.mkdir()
    checkpoint.export_mmaction(network, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    name = f"{ROW}_20200729-{digest[:8]}.pth"
    (folder / "new.pth").rename(folder / name)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield project, f"http://127.0.0.1:{server.server_port}/{name}", network
        server.shutdown()


def give(project, row: str, value) -> None:
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["zoo"][row]["checkpoint"] = value
    project.set(params)


def test_weights_in_the_published_layout_do_not_go_through_dvc_repro(served, tmp_path):
    project, address, network = served
    give(project, ROW, address)
    dvc(project, "init", "--no-scm", "--quiet")
    said = dvc(project, "repro", f"test@{ROW}", f"benchmark@{ROW}", TORCH_HOME=str(tmp_path / "hub"))
    assert "Not trained: these are the weights of http://127.0.0.1" in said
    assert same(checkpoint.load(project.folder / "models" / ROW / "model.safetensors"), network)
    cached = list((tmp_path / "hub/hub/checkpoints").glob("*.pth"))
    assert [f"/{path.name}" for path in cached] == [address[address.rindex("/") :]]
    assert json.loads((project.folder / "metrics" / ROW / "test.json").read_text())["videos"] == 12
    again = content_of(project)
    give(project, ROW, str(cached[0]))
    project.must("resolve")
    project.must("train", ROW)
    project.must("test", ROW)
    assert {name: again[name] for name in ("test.json", "confusion.csv", "curve.csv")} == {
        name: content_of(project)[name] for name in ("test.json", "confusion.csv", "curve.csv")
    }


def dvc(project, *arguments: str, **environment: str) -> str:
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    environment |= {"PYTHONPATH": str(project.folder / "src")}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(
        command, cwd=project.folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def content_of(project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.folder / "metrics" / ROW).iterdir()}


@pytest.mark.parametrize(
    ("value", "words"),
    [("no/such/file.pth", "there is no such file"), ("weights.zip", "expected published, the path"), (7, "is 7")],
)
def test_checkpoint_that_cannot_be_is_found_out_after_the_first_stage(project, value, words):
    give(project, ROW, value)
    failed = project.run("resolve")
    assert failed.returncode == 1
    assert words in failed.stderr
    assert ROW in failed.stderr


def test_published_stands_for_another_file_than_the_row_s_own(project):
    give(project, ROW, "published")
    project.must("resolve")
    resolved = json.loads((project.folder / "configs" / f"{ROW}.json").read_text())
    assert resolved["checkpoint"].endswith("_20200729-aa94765e.pth")


def test_published_weights_are_tested_by_a_network_of_another_size(served, tmp_path):
    project, address, _ = served
    give(project, ROW, address)
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["datasets"]["motion"]["scale"]["width"] = 0.125
    project.set(params)
    project.must("resolve")
    failed = project.run("train", ROW, TORCH_HOME=str(tmp_path / "hub"))
    assert failed.returncode == 1
    assert "does not fit the network (depth 18, conv r2plus1d, width 8" in failed.stderr
    subprocess.run(["rm", "-rf", str(project.folder)], check=True)
