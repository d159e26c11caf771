"""Features that are computed once and kept, the last layer trained on them, and its test."""

import dataclasses
import hashlib
import shutil
import types

import numpy as np
import pytest
import torch
from torch.nn import functional

from r2plus1d.clips.items import ValClips, training_clip
from r2plus1d.clips.loader import AUGMENTATION
from r2plus1d.config import resolve
from r2plus1d.config.schema import CUSTOM, TestedRow
from r2plus1d.model import checkpoint
from r2plus1d.system import paths
from r2plus1d.system.kept import AGAIN
from r2plus1d.zoo import evaluation, features, last_layer
from r2plus1d.zoo.rows import Row, open_row
from r2plus1d.zoo.update import normalised
from tests.config.test_params import changed as with_param
from tests.zoo.test_starting import changed, network

CPU = torch.device("cpu")


@pytest.fixture
def row(request, prepared, tmp_path, monkeypatch) -> Row:
    """A narrow row that trains its last layer alone; of MMAction's family unless a test says otherwise. Nothing of it
    is kept yet."""
    monkeypatch.chdir(prepared.folder)
    monkeypatch.setattr(paths, "kept_features", lambda what, key: tmp_path / "kept" / f"{what}-{key}")
    row, family = open_row(CUSTOM, TestedRow), getattr(request, "param", "mmaction")
    checkpoint.export_mmaction(network(family=family), tmp_path / "start.pth")
    train = {"epochs": 3, "videos_per_gpu": 4, "resize": 20, "crop": 16, "freeze": "all", "views": 2}
    config = changed(
        row.config,
        train=train | {"weight_decay": 0.01},
        test={"clips": 3, "crops": 3, "resize": 16, "crop": 16, "keep_views": True},
        clip={"frames": 4},
        model={"depth": 10, "width": 4, "family": family},
        init=str(tmp_path / "start.pth"),
    )
    machine = row.machine.model_copy(update={"workers": 0})
    return dataclasses.replace(row, config=config, machine=machine)


def computed(row, start=None) -> features.Features:
    return features.features(row, start or network(family=row.config.model.family))


def same(one: features.Features, other: features.Features) -> bool:
    return torch.equal(one.train, other.train) and torch.equal(one.val, other.val) and one.of == other.of


def trained(row):
    return last_layer.train(row.config, computed(row), row.splits, row.classes, lambda _: None)[0]


@pytest.fixture
def shown(monkeypatch) -> list[int]:
    """How many clips the network was shown, in order, by the calls."""
    counted: list[int] = []
    inner = features.for_inference

    def counting(model, *arguments, **options):
        fast = inner(model, *arguments, **options)
        forward, from_frames = fast.forward, fast.from_frames
        fast.forward = lambda x: counted.append(len(x)) or forward(x)
        fast.from_frames = lambda x, indices: counted.append(len(indices)) or from_frames(x, indices)
        return fast

    monkeypatch.setattr(features, "for_inference", counting)
    return counted


@pytest.mark.parametrize("row", ["mmaction", "torchvision"], indirect=True)
def test_features_are_what_the_last_layer_takes_of_the_training_and_the_validation_views(row):
    found, start = computed(row), network(family=row.config.model.family)
    assert (found.train.shape, found.val.shape) == ((12, 2, 32), (12, 32))
    with torch.inference_mode():
        for index in (0, 7):
            sample = row.splits["train"][index]
            clips = [training_clip(row.config, sample, row.reader, drawn(row.config.seed, v, sample)) for v in (0, 1)]
            clips.append(ValClips(row.config, row.splits["val"], row.reader)[index][0].numpy())
            x = normalised(torch.from_numpy(np.stack(clips)), CPU, start.family)
            expected = start.backbone(x).mean((2, 3, 4))
            torch.testing.assert_close(found.train[index], expected[:2], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.val[index], expected[2], rtol=1e-4, atol=1e-5)
    assert not torch.equal(found.train[0, 0], found.train[0, 1])


def drawn(seed, view, sample):
    """What a training view of a video is drawn from."""
    path = np.frombuffer(hashlib.sha256(sample.path.encode()).digest(), "<u4")
    return np.random.default_rng([seed, AUGMENTATION, view, *path])


def test_interrupted_features_go_on_with_any_number_of_readers_to_the_same_bytes(row, tmp_path, monkeypatch, shown):
    features.save(computed(row), tmp_path / "whole")
    assert sum(shown) == 12 * 2 + 12
    shutil.rmtree(tmp_path / "kept")
    monkeypatch.setattr(features, "PART", 5)
    written, write = [], features.write_bytes

    def write_and_end(path, content):
        write(path, content)
        written.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "write_bytes", write_and_end)
    shown.clear()
    for workers in (0, 2, 0, 2, 0, 0):
        machine = row.machine.model_copy(update={"workers": workers})
        with pytest.raises(KeyboardInterrupt):
            computed(dataclasses.replace(row, machine=machine))
    assert len(set(written)) == 6
    assert sum(shown) == 12 * 2 + 12, "each run found what was there"
    monkeypatch.setattr(features, "write_bytes", write)
    features.save(computed(row), tmp_path / "parts")
    assert (tmp_path / "parts" / features.FILE).read_bytes() == (tmp_path / "whole" / features.FILE).read_bytes()


def test_test_of_features_is_that_of_the_whole_network(row):
    model = trained(row)
    torch.nn.init.normal_(model.cls_head.fc_cls.weight, std=3)  # or it would take all of them for one class
    whole = evaluation.WholeNetwork(row.config, model, row.reader, 0)
    expected = evaluation.test(row.config, whole, row.splits["val"])
    found = evaluation.test(row.config, features.FrozenNetwork(row, model), row.splits["val"])
    assert found.figures == expected.figures
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.views, expected.views, rtol=1e-2, atol=1e-2)
    for static in (False, True):
        views = [kind.view(row.splits["val"], static) for kind in (whole, features.FrozenNetwork(row, model))]
        np.testing.assert_allclose(*views, rtol=1e-4, atol=1e-4)


def test_another_last_layer_is_trained_and_tested_without_looking_at_a_video_again(row, shown):
    evaluation.test(row.config, features.FrozenNetwork(row, trained(row)), row.splits["val"])
    assert sum(shown) == 12 * 2 + 12 + 12 * 9 + 12, "the test takes the validation view from the training"
    shown.clear()
    other = dataclasses.replace(row, config=changed(row.config, train={"weight_decay": 1.0, "balance": "classes"}))
    evaluation.test(other.config, features.FrozenNetwork(other, trained(other)), row.splits["val"])
    assert shown == []


def test_videos_that_come_or_go_leave_the_features_of_the_others_as_they_are(row, tmp_path, shown):
    fewer = dataclasses.replace(row, splits={**row.splits, "train": row.splits["train"][4:-1][::-1]})
    before = computed(fewer)
    shown.clear()
    after = computed(row)
    assert sum(shown) == 5 * 2, "of the five that came"
    assert torch.equal(after.train[4:-1], before.train.flip(0))
    shown.clear()
    assert same(computed(fewer), before)
    assert shown == []
    shutil.rmtree(tmp_path / "kept")
    assert same(computed(row), after)


def of_row(**changes):
    return lambda row: dataclasses.replace(row, config=changed(row.config, **changes))


def of_content(row):
    """The same path, another video."""
    path = row.splits["val"][3].path
    other = row.content() | {path: "0" * 64}
    return types.SimpleNamespace(**vars(row), workers=0, content=lambda: other)


def of_length(row):
    one = dataclasses.replace(row.splits["val"][3], num_frames=row.splits["val"][3].num_frames - 1)
    return dataclasses.replace(row, splits={**row.splits, "val": [*row.splits["val"][:3], one]})


@pytest.mark.parametrize(
    ("change", "views", "of_train", "of_val", "of_test"),
    [
        (lambda row: row, 2, 0, 0, 0),
        (of_row(seed=9), 2, 12, 0, 0),
        (of_row(train={"views": 3}), 3, 12, 0, 0),
        (of_row(train={"flip": 0.0}), 2, 12, 0, 0),
        (of_row(train={"crop_area": [0.5, 1.0]}), 2, 12, 0, 0),
        (of_row(train={"crop_ratio": [0.9, 1.0]}), 2, 12, 0, 0),
        (of_row(train={"crop": 18}), 2, 12, 12, 0),
        (of_row(train={"resize": 22}), 2, 12, 12, 0),
        (of_row(test={"clips": 2}), 2, 0, 0, 12),
        (of_row(test={"crops": 1}), 2, 0, 0, 12),
        (of_row(test={"resize": [20, 16]}), 2, 0, 0, 12),
        (of_row(test={"spread": "ends"}), 2, 0, 0, 12),
        (of_row(test={"resize": 18, "crop": 18}), 2, 0, 0, 12),
        (of_row(test={"average_clips": "score", "keep_views": False}), 2, 0, 0, 0),
        (of_row(clip={"frames": 5}), 2, 12, 12, 12),
        (of_row(clip={"frame_interval": 1}), 2, 12, 12, 12),
        (of_content, 2, 0, 1, 1),
        (of_length, 2, 0, 1, 1),
    ],
)
def test_features_are_computed_again_for_all_that_decides_them_alone(
    row, shown, change, views, of_train, of_val, of_test
):
    start = network(family=row.config.model.family)
    frozen = features.FrozenNetwork(row, start)
    assert same(computed(row), computed(row))
    frozen.of_test_views(row.splits["val"])
    shown.clear()
    other = change(row)
    again = features.FrozenNetwork(other, start)
    again.of_training_views(other.splits["train"])
    assert sum(shown) == of_train * views
    shown.clear()
    again.of_view(other.splits["val"])
    assert sum(shown) == of_val
    shown.clear()
    again.of_test_views(other.splits["val"])
    assert sum(shown) == of_test * other.config.test.clips * other.config.test.crops


@pytest.mark.parametrize("change", ["weights", "code", "versions", "processor"])
def test_features_of_other_weights_code_versions_or_hardware_are_not_taken(row, monkeypatch, shown, change):
    start = network()
    before = computed(row, start)
    shown.clear()
    if change == "weights":
        start.backbone.conv1.bn.bias.data += 1
    elif change == "code":
        monkeypatch.setattr(features.code, "below", lambda wing: {f"r2plus1d/{wing}/a.py": "another"})
    elif change == "versions":
        monkeypatch.setattr(features.code, "libraries", lambda: {"torch": "another"})
    else:
        monkeypatch.setattr(features, "deciding", lambda runtime: {"device": "another"})
    found = computed(row, start)
    assert sum(shown) == 12 * 2 + 12
    assert same(found, before) == (change != "weights")


def test_kept_features_that_are_damaged_or_not_wanted_are_computed_again(row, tmp_path, monkeypatch, shown):
    before = computed(row)
    monkeypatch.setenv(AGAIN, "1")
    for _ in range(2):
        shown.clear()
        assert same(computed(row), before)
        assert sum(shown) == 12 * 2 + 12
    monkeypatch.delenv(AGAIN)
    (training,) = (tmp_path / "kept").glob("training_views-*/*.safetensors")
    training.write_bytes(training.read_bytes()[:-1])
    shown.clear()
    assert same(computed(row), before)
    assert sum(shown) == 12 * 2


@pytest.mark.parametrize("balance", ["none", "classes"])
def test_last_layer_is_the_optimum_of_the_regularised_loss_on_the_features(row, balance):
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 3  # unevenly many below
    labels[:5] = 0
    splits = {split: [types.SimpleNamespace(label=int(label)) for label in labels] for split in ("train", "val")}
    train = torch.from_numpy(rng.normal(3, 2, (12, 2, 32)).astype(np.float32))
    found = features.Features(train, train[:, 0], features.fingerprint(network()))
    config = changed(row.config, train={"epochs": 20, "balance": balance})
    model, log = last_layer.train(config, found, splits, row.classes[:3], lambda _: None)
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


def test_last_layer_repeats_to_the_bit_and_leaves_all_else_as_it_was(row):
    found, start = computed(row), network().state_dict()
    made = [last_layer.train(row.config, found, row.splits, row.classes, print) for _ in range(2)]
    (one, log), (other, _) = made
    assert [(entry["mode"], entry["epoch"]) for entry in log.entries] == [
        *(("train", e) for e in (1, 2, 3)),
        ("val", 3),
    ]
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
        assert torch.equal(tensor, start[name]) or name.startswith("cls_head")
    assert [
        entry["epoch"] for entry in last_layer.train(row.config, found, row.splits, row.classes, print)[1].entries
    ] == [1, 2, 3, 3]


def test_features_of_other_weights_are_refused_with_the_command_that_makes_them_anew(row, tmp_path):
    found = computed(row)
    features.save(found, tmp_path)
    assert features.read(tmp_path).of == found.of
    other = network()
    other.backbone.conv1.bn.bias.data += 1
    checkpoint.export_mmaction(other, tmp_path / "start.pth")
    with pytest.raises(features.FeaturesError, match=r"are of other weights than .*--single-item features@custom"):
        last_layer.train(row.config, features.read(tmp_path), row.splits, row.classes, print)


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
