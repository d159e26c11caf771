"""Exports: files that other programs run, which say what the network says."""

import argparse
import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from r2plus1d import cli
from r2plus1d.datasets import motion
from r2plus1d.datasets.encode import write_h264
from r2plus1d.model import checkpoint
from r2plus1d.model.families import View
from r2plus1d.video import views
from r2plus1d.zoo import export
from r2plus1d.zoo.prediction import Looker
from tests.support.commands import console
from tests.support.networks import tiny_network
from tests.support.project import ROOT

VIEW = View(frames=4, frame_interval=2, resize=36, crop=32, clips=3, crops=1, frame_rate=15.0)
CLASSES = ["naïve", "pull ups", "$1"]


@pytest.fixture(scope="module")
def network():
    return tiny_network(CLASSES, VIEW)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "é 1.mp4"
    write_h264(path, motion.render(0, 0, 1, 0, 64)[:40], motion.FPS)
    return path


@pytest.fixture(scope="module")
def clips(network, video):
    return export.clips_of(network, [video, video])


@pytest.fixture(scope="module")
def exported(network, clips, tmp_path_factory):
    """A function of a kind: its file, made once, and by how much it differs."""

    @functools.cache
    def made(kind: str) -> tuple[Path, float]:
        out = tmp_path_factory.mktemp("exported") / f"a model.{kind}"
        return out, export.export(network, kind, out, clips)

    return made


def probabilities(network, clips) -> np.ndarray:
    """As `predict` computes them: normalised by the family's figures, then the plain network."""
    x = views.to_input(torch.from_numpy(clips), torch.device("cpu"), network.family.mean, network.family.std)
    with torch.inference_mode():
        return network(x).softmax(1).numpy()


def test_check_clips_are_views_of_the_videos(network, clips):
    assert (clips.shape, clips.dtype) == ((4, 4, 32, 32, 3), np.uint8)
    assert not np.array_equal(clips[0], clips[1])


@pytest.mark.parametrize("kind", export.FORMATS)
def test_exported_file_says_what_the_network_says_for_any_number_of_clips(network, clips, exported, kind):
    out, worst = exported(kind)
    assert worst <= 1e-5
    run = {"onnx": export._open_onnx, "pt2": export._open_pt2, "torchscript": export._open_ts}[kind](out)
    for number in (1, 3, 7):
        some = np.concatenate([clips, clips])[:number]
        np.testing.assert_allclose(run(some), probabilities(network, some), rtol=0, atol=1e-5)


def test_onnx_file_alone_tells_how_to_use_it(network, exported):
    file, _ = exported("onnx")
    onnx.checker.check_model(str(file))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (asked,), (given,) = session.get_inputs(), session.get_outputs()
    assert (asked.name, asked.type, asked.shape[1:]) == ("clips", "tensor(uint8)", [4, 32, 32, 3])
    assert (given.name, given.type, given.shape[1:]) == ("probabilities", "tensor(float)", [3])
    told = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert told["classes"] == CLASSES
    assert told["clip"] == ["N", 4, 32, 32, 3]
    assert told["view"]["frame_rate"] == 15.0
    assert told["normalisation"]["mean"] == list(network.family.mean)


FAKE = """
import numpy as np
from types import SimpleNamespace

class InferenceSession:
    def __init__(self, model, providers):
        self.told = dict(np.load(model))
    def get_modelmeta(self):
        return SimpleNamespace(custom_metadata_map={key: str(value) for key, value in self.told.items()})
    def run(self, names, given):
        np.save("clips.npy", given["clips"])
        return [np.full((len(given["clips"]), 3), 1 / 3)]
"""


@pytest.fixture
def serve(tmp_path):
    """A function of arguments: runs the program that docs/predict.md prints; what it says."""
    page = (ROOT / "docs" / "predict.md").read_text()
    (tmp_path / "serve.py").write_text(page.split("<!-- serve.py -->")[1].split("```python\n")[1].split("```")[0])

    def run(*words) -> list[str]:
        command = [sys.executable, tmp_path / "serve.py", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({}, 0),
        ({"frame_rate": None, "spread": "ends", "resize": (40, 48)}, 0),
        ({"frame_interval": 9, "clips": 2}, 0),  # longer than the short video
        ({"stored": 48}, 12),  # grey levels on average: as JPEG, and made smaller another way
    ],
)
def test_documented_program_shows_the_clips_that_predict_shows(serve, video, tmp_path, changed, differs):
    view = dataclasses.replace(VIEW, **changed)
    shown = tiny_network(CLASSES, view)
    (tmp_path / "onnxruntime.py").write_text(FAKE)
    with open(tmp_path / "model", "wb") as file:
        np.savez(file, **export.described(shown))
    short = tmp_path / "short.mp4"
    write_h264(short, motion.render(0, 0, 1, 0, 64)[:9], motion.FPS)
    for file in (video, short):
        serve("model", file)
        clips, expected = np.load(tmp_path / "clips.npy"), Looker(shown, torch.device("cpu")).views(file)
        assert clips.shape == expected.shape
        assert np.abs(clips.astype(float) - expected).mean() <= differs


def test_documented_program_runs_an_exported_file(serve, exported, video):
    said = serve(exported("onnx")[0], video)
    assert {line.rsplit(": ", 1)[0] for line in said} == set(CLASSES)
    assert sum(float(line.rsplit(": ", 1)[1].rstrip("%")) for line in said) == pytest.approx(100, abs=0.2)


def test_files_of_torch_tell_the_same(exported):
    extra = {export.METADATA: ""}
    torch.export.load(exported("pt2")[0], extra_files=extra)
    first = json.loads(extra[export.METADATA])
    extra = {export.METADATA: ""}
    torch.jit.load(exported("torchscript")[0], _extra_files=extra)
    assert first == json.loads(extra[export.METADATA])
    assert first["classes"] == CLASSES


def test_file_that_says_something_else_is_not_written(network, clips, tmp_path, monkeypatch):
    opened = export._open_pt2
    monkeypatch.setattr(export, "_open_pt2", lambda file: lambda x: opened(file)(x) + np.float32(2e-4))
    with pytest.raises(export.ExportError, match=r"differ from the network's by 0\.0002"):
        export.export(network, "pt2", tmp_path / "m.pt2", clips)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package_is_named_with_the_extra_before_weights_are_looked_for(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    asked = argparse.Namespace(source="no row", format="onnx", out=tmp_path / "m.onnx", check=None)
    with pytest.raises(export.ExportError, match=rf"{package}.*: install the extra, pip install -e '\.\[onnx\]'"):
        cli._export(asked)
    assert list(tmp_path.iterdir()) == []


def test_command_exports_a_model_file_and_says_how_far_it_is_from_the_network(network, video, tmp_path):
    checkpoint.save(network, tmp_path / "model.safetensors")
    words = ["export", tmp_path / "model.safetensors", "--format", "pt2", "--out", tmp_path / "m.pt2"]

    def ran(*more):
        return console(*words, *more, cwd=tmp_path)

    (tmp_path / "m.txt").touch()
    for wrong, said in (
        (tmp_path / "m.txt", "expected a name that ends with .pt2"),
        (video.with_suffix(".pt2"), "made from"),
    ):
        shutil.copy(video, video.with_suffix(".pt2"))
        refused = console(*words[:-1], wrong, "--check", video.with_suffix(".pt2"), cwd=tmp_path)
        assert refused.returncode == 1
        assert said in refused.stderr
    assert video.with_suffix(".pt2").read_bytes() == video.read_bytes()
    without = ran()
    assert without.returncode == 1
    assert (
        "model.safetensors has no videos of its own here: give some to check the file with, --check" in without.stderr
    )
    done = ran("--check", video)
    assert done.returncode == 0, done.stderr
    assert "uint8 clips [N, 4, 32, 32, 3] to 3 probabilities; on 2 clips of videos they differ" in done.stdout
    assert (tmp_path / "m.pt2").is_file()
