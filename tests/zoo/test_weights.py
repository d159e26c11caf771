"""Trained networks for programs and notebooks."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import r2plus1d
from r2plus1d.config.schema import CUSTOM
from r2plus1d.model.checkpoint import CheckpointError
from r2plus1d.system import paths
from r2plus1d.system.errors import UserError
from tests.support.networks import same
from tests.support.project import ROOT

WEIGHTS = paths.weights(CUSTOM)


@pytest.mark.parametrize("source", [CUSTOM, WEIGHTS, str(WEIGHTS)], ids=["row", "path", "path as text"])
def test_trained_network_is_loaded_by_its_row_or_its_file(source, finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    network = r2plus1d.load(source)
    assert same(load_file(WEIGHTS), network)
    assert not any(module.training for module in network.modules())
    with torch.inference_mode():
        logits = network(torch.zeros(1, 3, 8, 32, 32))
    assert logits.shape == (1, len(paths.labels("motion").read_text().splitlines()))


def test_unknown_row_is_answered_with_the_known_ones_in_one_line(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    with pytest.raises(CheckpointError) as error:
        r2plus1d.load("costum")
    assert str(error.value) == f"'costum' is no trained row below {finished.folder / 'models'}; there are {CUSTOM}"
    assert isinstance(error.value, UserError)


def test_row_of_an_untrained_project_is_answered_with_the_command_that_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"'custom' is no trained row below .*; `dvc repro` trains the rows$"):
        r2plus1d.load(CUSTOM)


def test_missing_weights_file_is_named():
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: No such file"):
        r2plus1d.load("gone.safetensors")


def test_network_is_built_in_a_program_that_imported_torch_first():
    code = (
        "import os, torch; before = dict(os.environ); import r2plus1d\n"
        "network = r2plus1d.build(depth=18, num_classes=5)\n"
        "print(network(torch.zeros(2, 3, 8, 32, 32)).shape, os.environ == before)"
    )
    environment = {"PYTHONPATH": str(ROOT / "src"), "OMP_DYNAMIC": "true"}  # which a stage would not leave so
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "torch.Size([2, 5]) True\n", done.stderr


def test_package_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        r2plus1d.train  # noqa: B018
    assert dir(r2plus1d) == ["__version__", "build", "load"]
