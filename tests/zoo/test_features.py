"""Features that are computed once, and the last layer trained on them."""

import types

import numpy as np
import pytest
import torch
from torch.nn import functional

from r2plus1d.clips.items import TrainClips, ValClips
from r2plus1d.config import resolve
from r2plus1d.config.schema import CUSTOM, RowConfig
from r2plus1d.model import checkpoint
from r2plus1d.zoo import features
from r2plus1d.zoo.rows import open_row
from r2plus1d.zoo.update import normalised
from tests.config.test_params import changed as with_param
from tests.zoo.test_starting import changed, network


@pytest.fixture
def row(request, prepared, tmp_path, monkeypatch):
    """A narrow row that trains its last layer alone; of MMAction's family unless a test says otherwise."""
    monkeypatch.chdir(prepared.folder)
    row, family = open_row(CUSTOM, RowConfig), getattr(request, "param", "mmaction")
    checkpoint.export_mmaction(network(family=family), tmp_path / "start.pth")
    small = {"epochs": 3, "videos_per_gpu": 4, "crop": 16, "freeze": "all", "views": 2, "weight_decay": 0.01}
    config = changed(
        row.config,
        train=small,
        clip={"frames": 4},
        model={"depth": 10, "width": 4, "family": family},
        init=str(tmp_path / "start.pth"),
    )
    return types.SimpleNamespace(config=config, classes=row.classes, splits=row.splits, reader=row.reader)


def computed(row, work, workers=0):
    return features.features(row.config, row.splits, row.reader, row.classes, work, workers)


@pytest.mark.parametrize("row", ["mmaction", "torchvision"], indirect=True)
def test_features_are_what_the_last_layer_takes_of_the_training_and_the_validation_views(row, tmp_path):
    found, start = computed(row, tmp_path / "work"), network(family=row.config.model.family)
    assert (found.train.shape, found.val.shape) == ((12, 2, 32), (12, 32))
    with torch.inference_mode():
        for index in (0, 7):
            clips = [TrainClips(row.config, row.splits["train"], row.reader)[view, index][0] for view in range(2)]
            clips.append(ValClips(row.config, row.splits["val"], row.reader)[index][0])
            x = normalised(torch.stack(clips), torch.device("cpu"), start.family)
            expected = start.backbone(x).mean((2, 3, 4))
            torch.testing.assert_close(found.train[index], expected[:2], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.val[index], expected[2], rtol=1e-4, atol=1e-5)


def test_interrupted_features_go_on_with_any_number_of_readers_to_the_same_bytes(row, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PART", 5)
    features.save(computed(row, tmp_path / "whole"), tmp_path / "whole")
    written, write = [], features.write_bytes

    def write_and_end(path, content):
        write(path, content)
        written.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "write_bytes", write_and_end)
    for workers in (0, 2, 0, 2, 0, 0):
        with pytest.raises(KeyboardInterrupt):
            computed(row, tmp_path / "parts", workers)
    assert len(set(written)) == 6, "each run found what was there"
    monkeypatch.setattr(features, "write_bytes", write)
    features.save(computed(row, tmp_path / "parts"), tmp_path / "parts")
    assert (tmp_path / "parts" / features.FILE).read_bytes() == (tmp_path / "whole" / features.FILE).read_bytes()


@pytest.mark.parametrize("balance", ["none", "classes"])
def test_last_layer_is_the_optimum_of_the_regularised_loss_on_the_features(row, balance):
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 3  # unevenly many below
    labels[:5] = 0
    splits = {split: [types.SimpleNamespace(label=int(label)) for label in labels] for split in ("train", "val")}
    train = torch.from_numpy(rng.normal(3, 2, (12, 2, 32)).astype(np.float32))
    found = features.Features(train, train[:, 0], features.fingerprint(network()))
    config = changed(row.config, train={"epochs": 20, "balance": balance})
    model, log = features.train_last_layer(config, found, splits, row.classes[:3], lambda _: None)
    x, y = train.flatten(0, 1).double(), torch.from_numpy(labels).repeat_interleave(2)
    mean, std = x.mean(0), x.std(0, unbiased=False)
    # The same in terms of the scaled features: gradient of the loss plus that of the penalty is 0.
    weight = (model.cls_head.fc_cls.weight.detach().double() * std).requires_grad_()
    logits = functional.linear((x - mean) / std, weight)
    bias = model.cls_head.fc_cls.bias.detach().double() + functional.linear(mean / std, weight.detach())
    share = 1 / torch.bincount(y).double()[y] / 3 if balance == "classes" else torch.full((24,), 1 / 24)
    loss = (functional.cross_entropy(logits + bias, y, reduction="none") * share).sum() + 0.005 * weight.square().sum()
    loss.backward()
    assert weight.grad.norm() < 1e-4
    last = [entry for entry in log.entries if entry["mode"] == "train"][-1]
    assert last["loss"] == pytest.approx(loss.item(), abs=1e-4)
    shown = functional.linear(train[:, 0], model.cls_head.fc_cls.weight, model.cls_head.fc_cls.bias).argmax(1).numpy()
    assert log.entries[-1]["top1_acc"] == pytest.approx((shown == labels).mean(), abs=1e-5)


def test_last_layer_repeats_to_the_bit_and_leaves_all_else_as_it_was(row, tmp_path):
    found, start = computed(row, tmp_path / "work"), network().state_dict()
    made = [features.train_last_layer(row.config, found, row.splits, row.classes, print) for _ in range(2)]
    (one, log), (other, _) = made
    assert [(entry["mode"], entry["epoch"]) for entry in log.entries] == [
        *(("train", e) for e in (1, 2, 3)),
        ("val", 3),
    ]
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
        assert torch.equal(tensor, start[name]) or name.startswith("cls_head")
    assert [
        entry["epoch"]
        for entry in features.train_last_layer(row.config, found, row.splits, row.classes, print)[1].entries
    ] == [1, 2, 3, 3]


def test_features_of_other_weights_are_refused_with_the_command_that_makes_them_anew(row, tmp_path):
    found = computed(row, tmp_path / "work")
    features.save(found, tmp_path)
    assert features.read(tmp_path).of == found.of
    other = network()
    other.backbone.conv1.bn.bias.data += 1
    checkpoint.export_mmaction(other, tmp_path / "start.pth")
    with pytest.raises(features.FeaturesError, match=r"are of other weights than .*--single-item features@custom"):
        features.train_last_layer(row.config, features.read(tmp_path), row.splits, row.classes, print)


def test_missing_features_are_named_with_the_way_out(tmp_path):
    with pytest.raises(features.FeaturesError, match=r"features\.safetensors: .*; run `dvc repro` to compute"):
        features.read(tmp_path)


def test_features_are_configured_by_what_changes_them_alone(params):
    def configured(params):
        return resolve.resolve(params).files()[f"{CUSTOM}/features.json"]

    assert configured(params).of is None
    params = with_param(with_param(params, "train.freeze", "all"), "model.init", "ig65m_8")
    before = configured(params)
    assert before.of.train.freeze == "all"
    for key, value in (("weight_decay", 0.5), ("epochs", 3), ("balance", "classes"), ("lr", 1.0), ("accumulate", 3)):
        assert configured(with_param(params, f"train.{key}", value)) == before
    for key, value in (("views", 7), ("flip", 0.0), ("crop", 96)):
        assert configured(with_param(params, f"train.{key}", value)) != before
    assert configured(with_param(params, "test.clips", 3)) == before
