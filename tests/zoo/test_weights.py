"""Trained networks for programs and notebooks."""

import json
import shutil
import subprocess
import sys
import types

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import video

import r2plus1d
from r2plus1d.config import origins
from r2plus1d.config.resolve import full_name
from r2plus1d.config.schema import CUSTOM
from r2plus1d.datasets.fetch import FetchError
from r2plus1d.model.checkpoint import CheckpointError
from r2plus1d.model.families import FAMILIES, View
from r2plus1d.system import paths
from r2plus1d.system.errors import UserError
from r2plus1d.zoo import weights
from tests.support.cases import slow
from tests.support.networks import as_trained, same, to_torchvision
from tests.support.project import ROOT
from tests.support.server import serving

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


def test_loaded_row_knows_its_classes_and_its_own_test_and_the_file_alone_its_training_view(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    network, alone = r2plus1d.load(CUSTOM), r2plus1d.load(WEIGHTS)
    assert network.classes == alone.classes == paths.labels("motion").read_text().splitlines()
    assert network.family == FAMILIES["mmaction"]
    assert network.view == View(frames=8, frame_interval=8, resize=28, crop=28, clips=1, crops=1, stored=40)
    assert alone.view == View(frames=8, frame_interval=8, resize=32, crop=28, clips=10, crops=1, stored=40)


def test_loaded_row_looks_at_videos_as_its_own_test_says(copied, monkeypatch):
    monkeypatch.chdir(copied.folder)
    file = paths.row_config(CUSTOM, "test")
    config = json.loads(file.read_text())
    config["test"] |= {"resize": [30, 40], "crop": 24, "clips": 7, "spread": "ends", "average_clips": "score"}
    file.write_text(json.dumps(config))
    view = r2plus1d.load(CUSTOM).view
    assert (view.resize, view.crop, view.clips, view.spread, view.average) == ((30, 40), 24, 7, "ends", "score")


@pytest.mark.parametrize(
    ("name", "family", "clip", "classes"),
    [
        ("torchvision", "torchvision", (16, 1), ["a", "b", "c", "d", "e"]),
        ("ig65m_8_kinetics", "ig65m", (8, 1), ["a", "b", "c", "d", "e"]),
        ("ig65m_32", "ig65m", (32, 1), None),
        ("published", "mmaction", (32, 2), ["a", "b", "c", "d", "e"]),
        ("published_1x", "mmaction", (32, 2), ["a", "b", "c", "d", "e"]),
    ],
)
def test_name_of_published_weights_gives_their_network_classes_and_view(
    name, family, clip, classes, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    start = as_trained(r2plus1d.build(depth=18, width=8, num_classes=5, family=family))
    state = start.state_dict() if family == "mmaction" else to_torchvision(start.state_dict())
    torch.save(state, tmp_path / "theirs.pth")
    with serving(tmp_path) as address:
        url = f"{address}/theirs.pth"
        record = types.SimpleNamespace(url=url, meta={"categories": ["a", "b", "c", "d", "e"]})
        monkeypatch.setattr(weights, "_of_torchvision", lambda _: record)
        monkeypatch.setattr(weights, "_best_published", lambda: url)
        monkeypatch.setattr(origins, "IG65M", dict.fromkeys(origins.IG65M, url))
        monkeypatch.setattr(origins, "PUBLISHED_1X", dict.fromkeys(origins.PUBLISHED_1X, url))
        network = r2plus1d.load(name)
    assert all(torch.equal(tensor, start.state_dict()[key]) for key, tensor in network.state_dict().items())
    assert (network.family, network.classes) == (FAMILIES[family], classes)
    assert (network.view.frames, network.view.frame_interval) == clip
    assert not network.training


def test_torchvision_says_where_its_weights_lie_and_what_their_classes_are():
    for source, file in (
        ("torchvision:r2plus1d_18", "r2plus1d_18-91a641e6"),
        ("torchvision:mc3_18", "mc3_18-a90a0ba3"),
    ):
        record = weights._of_torchvision(source)
        assert record.url == f"https://download.pytorch.org/models/{file}.pth"
        assert len(record.meta["categories"]) == 400


def test_most_accurate_published_row_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert weights._best_published().endswith("-63462eb3.pth")


def test_unknown_row_is_answered_with_the_known_ones_in_one_line(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    with pytest.raises(CheckpointError) as error:
        r2plus1d.load("costum")
    assert str(error.value) == f"'costum' is no trained row below {finished.folder / 'models'}; did you mean 'custom'?"
    assert isinstance(error.value, UserError)


def test_row_of_an_untrained_project_is_answered_with_the_command_that_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no params.yaml here: run it in the folder of the project, or"):
        r2plus1d.load(CUSTOM)
    paths.PARAMS.touch()
    words = r"'custom' is no trained row below .*; `r2plus1d finetune VIDEOS` trains custom, .* `dvc exp apply NAME`"
    with pytest.raises(CheckpointError, match=words):
        r2plus1d.load(CUSTOM)


def test_row_whose_training_is_not_finished_is_answered_with_the_ways_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "custom-1f").mkdir(parents=True)
    (tmp_path / "runs" / "train-other.lock").touch()
    with pytest.raises(
        CheckpointError, match=r"'custom' is being trained, or .*`dvc repro train@custom`, goes on .*apply"
    ):
        r2plus1d.load(CUSTOM)
    for name in ("other", "train", "custom-", "/nothing/there"):
        with pytest.raises(CheckpointError, match=f"{name!r} is no trained row"):
            r2plus1d.load(name)


def test_trained_row_comes_before_a_file_of_its_name(finished, tmp_path, monkeypatch):
    shutil.copytree(finished.folder / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    (tmp_path / CUSTOM).write_bytes(b"an export")
    assert r2plus1d.load(CUSTOM).arguments == r2plus1d.load(f"row:{CUSTOM}").arguments


def test_row_is_known_by_the_short_name_of_the_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert full_name("8x8_256p") == "8x8_256p", "no project here"
    (tmp_path / "metrics").mkdir()
    shutil.copy(ROOT / paths.PUBLISHED, paths.PUBLISHED)
    assert full_name("8x8_256p") == "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_256p"
    assert full_name(CUSTOM) == CUSTOM
    paths.row_config("8x8_256p", "train").parent.mkdir(parents=True)
    paths.row_config("8x8_256p", "train").write_text("{}")
    assert full_name("8x8_256p") == "8x8_256p", "a row of that very name"
    with pytest.raises(CheckpointError, match="'r2plus1d_r34_8x8x1_180e_kinetics400_rgb_320p' is no trained row"):
        r2plus1d.load("8x8_320p")


def test_missing_weights_file_is_named():
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: No such file .*; give the path of a file"):
        r2plus1d.load("gone.safetensors")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A network of torchvision's and its weights as torchvision publishes them."""
    torch.manual_seed(0)
    network = video.mc3_18(num_classes=5).eval()
    file = tmp_path_factory.mktemp("theirs") / "mc3_18.pth"
    torch.save(network.state_dict(), file)
    return network, file


def test_weights_of_another_library_are_loaded_from_a_file_or_an_address(theirs, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network, file = theirs
    x = torch.randn(1, 3, 8, 32, 32)
    with serving(file.parent) as address, torch.inference_mode():
        for source in (file, f"{address}/{file.name}"):
            loaded = r2plus1d.load(source)
            torch.testing.assert_close(loaded(x), network(x), rtol=1e-5, atol=1e-5)
            assert loaded.family == FAMILIES["torchvision"]
    assert len(list(tmp_path.rglob(file.name))) == 1


@pytest.mark.parametrize("name", ["mc3_18.safetensors", slow("mc3_18.pt"), slow("weights")])
def test_weights_are_known_by_their_content_whatever_the_name(theirs, tmp_path, name):
    network, file = theirs
    (tmp_path / name).write_bytes(file.read_bytes())
    x = torch.randn(1, 3, 8, 32, 32)
    save_file(network.state_dict(), tmp_path / "plain.pth")
    with torch.inference_mode():
        for source in (tmp_path / name, tmp_path / "plain.pth"):
            torch.testing.assert_close(r2plus1d.load(source)(x), network(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("fc.bias"), "it has no cls_head.fc_cls.bias"),
        (lambda state: state.pop("stem.0.weight"), "its four stages have 0, 0, 0, 0 blocks"),
        (lambda state: state.pop("layer4.1.conv2.1.bias"), "layer4.1.conv2.bn.bias is nothing, not 512"),
        (lambda state: state.update({"layer2.2.conv1.1.bias": torch.ones(1)}), "stages have 2, 3, 2, 2 blocks"),
        (lambda state: state.update({"layer3.0.conv2.0.weight": torch.ones(1, 1, 7, 3, 3)}), "span 3, 3, 1, 7, 1"),
        (lambda state: state.update({"layer3.0.conv2.0.weight": torch.ones(1)}), "not the weights of an R"),
        (lambda state: state.update({"fc.weight": torch.ones(5, 7)}), "fc_cls.weight is 5x7, not 5x512"),
    ],
)
def test_weights_of_no_known_network_are_refused_with_what_differs(theirs, tmp_path, change, words):
    state = dict(theirs[0].state_dict())
    change(state)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError) as error:
        r2plus1d.load(tmp_path / "odd.pth")
    assert str(error.value).startswith(str(tmp_path / "odd.pth"))
    assert words in str(error.value)


def test_address_that_gives_nothing_is_named_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with serving(tmp_path) as address, pytest.raises(FetchError, match="fetch the file yourself and give its path"):
        r2plus1d.load(f"{address}/gone.pth")


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
