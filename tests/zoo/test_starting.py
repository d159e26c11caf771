"""Trainings that start from weights: what is taken, what stays fixed, what repeats."""

import itertools
import re
import types

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional

from r2plus1d.clips.items import TrainClips
from r2plus1d.config import origins
from r2plus1d.config.schema import CUSTOM, RowConfig, TestedRow
from r2plus1d.model import checkpoint
from r2plus1d.model.checkpoint import LAST, CheckpointError
from r2plus1d.model.network import build
from r2plus1d.system import paths
from r2plus1d.zoo import evaluation, training, weights
from r2plus1d.zoo.accuracy import ScoresError
from r2plus1d.zoo.rows import open_row
from r2plus1d.zoo.update import build_model, learning_rate, normalised
from tests.support.commands import copy_of, dvc, ran
from tests.support.networks import as_trained, to_torchvision
from tests.support.project import Project
from tests.support.server import serving

NARROW = {"depth": 10, "width": 4, "num_classes": 5}


def changed(config: RowConfig, **sections) -> RowConfig:
    """With other values in its sections."""
    return config.model_copy(
        update={
            name: getattr(config, name).model_copy(update=value) if isinstance(value, dict) else value
            for name, value in sections.items()
        }
    )


def network(**arguments):
    torch.manual_seed(7)
    return as_trained(build(**NARROW | arguments))


@pytest.fixture
def row(prepared, monkeypatch):
    """The row `custom` of a tiny project, as narrow as the networks here."""
    monkeypatch.chdir(prepared.folder)
    row = open_row(CUSTOM, RowConfig)
    small = {"epochs": 3, "videos_per_gpu": 4, "dropout": 0.5, "crop": 16, "val_interval": 1, "warmup_epochs": 1}
    config = changed(row.config, train=small, clip={"frames": 4}, model={"depth": 10, "width": 4})
    return types.SimpleNamespace(config=config, classes=row.classes, splits=row.splits, reader=row.reader)


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as address:
        yield tmp_path / "served", address


KINDS = ["row", "mmaction", "torchvision", "torchvision by name", "ig65m by name", "ig65m file"]


def given(kind: str, row, served) -> tuple[RowConfig, torch.nn.Module]:
    """The row's configuration with weights of that kind to start from, and their network."""
    folder, address = served
    family = next((name for name in ("torchvision", "ig65m") if kind.startswith(name)), "mmaction")
    start = network(family=family)
    if kind == "row":
        start.classes = [f"class {number}" for number in range(5)]
        checkpoint.save(start, folder / "model.safetensors")
        source = str(folder / "model.safetensors")
    else:
        state = start.state_dict() if family == "mmaction" else to_torchvision(start.state_dict())
        torch.save({"state_dict": state} if family == "mmaction" else state, folder / "weights.pth")
        source = str(folder / "weights.pth") if kind.endswith("file") else f"{address}/weights.pth"
    return changed(row.config, init=source, model={"family": family}), start


@pytest.mark.parametrize("kind", KINDS)
def test_training_starts_from_the_weights_but_for_the_last_layer(kind, row, served, monkeypatch):
    config, start = given(kind, row, served)
    if kind == "torchvision by name":
        record = types.SimpleNamespace(url=config.init)
        monkeypatch.setattr(weights, "_of_torchvision", lambda source: {"torchvision:r2plus1d_18": record}[source])
        config = changed(config, init="torchvision:r2plus1d_18")
    if kind == "ig65m by name":
        monkeypatch.setitem(origins.IG65M, "ig65m_8", config.init)
        config = changed(config, init=origins.origin("ig65m_8", "r2plus1d", (8, 8), {}, None, {}).source)
    said: list[str] = []
    made, fresh = weights.starting_network(config, row.classes, said.append), build_model(config, len(row.classes))
    for name, tensor in made.state_dict().items():
        expected = fresh.state_dict()[name] if name in LAST else start.state_dict()[name]
        assert torch.equal(tensor, expected), name
    assert len(said) == 1
    assert re.search(r"starting from \S+: \d+ tensors, a new last layer for 12 classes$", said[0])
    assert (made.classes, made.view.frames, made.view.crop) == (row.classes, 4, 16)


def test_network_has_the_row_s_dropout(row):
    config = changed(row.config, train={"dropout": 0.3})
    assert build_model(config, 12).cls_head.dropout.p == 0.3


def test_last_layer_is_taken_where_the_classes_are_the_same(row, tmp_path):
    start = network(num_classes=12)
    said: list[str] = []
    for classes, taken in ((row.classes, True), (row.classes[::-1], False), (None, True)):
        start.classes = classes
        checkpoint.save(start, tmp_path / "model.safetensors")
        config = changed(row.config, init=str(tmp_path / "model.safetensors"))
        made = weights.starting_network(config, row.classes, said.append)
        assert torch.equal(made.cls_head.fc_cls.weight, start.cls_head.fc_cls.weight) == taken
    same, other = "its last layer too", "a new last layer for 12 classes"
    assert [line.rpartition(", ")[2] for line in said] == [same, other, same]


def test_weights_of_other_classes_are_trained_on_but_not_tested(row, tmp_path):
    start = network(num_classes=12)
    for classes in (row.classes, row.classes[::-1]):
        start.classes = classes
        checkpoint.save(start, tmp_path / "model.safetensors")
        config = changed(row.config, checkpoint=str(tmp_path / "model.safetensors"))
        if classes == row.classes:
            assert weights.finished_network(config, row.classes).classes == row.classes
        else:
            with pytest.raises(CheckpointError, match="trained on other classes, or on these in another order"):
                weights.finished_network(config, row.classes)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"depth": 18}, r"backbone\.layer1\.1\S+ is \S+, not nothing; .*; .* and \d+ more\. The network follows"),
        ({"width": 8}, "backbone.conv1.conv.conv_s.weight is "),
        ({"family": "torchvision"}, "conv_s.weight is 2x3x1x7x7, not 11x3x1x7x7; "),
    ],
)
def test_weights_of_another_network_are_refused_in_one_line(row, tmp_path, other, words):
    checkpoint.export_mmaction(network(**other), tmp_path / "other.pth")
    config = changed(row.config, init=str(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match=words) as error:
        weights.starting_network(config, row.classes, print)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "other.pth"))


def train(config, row, work, say=lambda _: None):
    made = training.Training(config, row.splits, row.reader, row.classes, work, 0, say)
    return made, made.run()


def fine_tuned(row, tmp_path, **train) -> RowConfig:
    checkpoint.export_mmaction(network(), tmp_path / "start.pth")
    values = {"freeze": 3, "head_lr": 10.0, "balance": "classes", "keep": "best"} | train
    return changed(row.config, init=str(tmp_path / "start.pth"), train=values)


def test_fine_tuning_resumed_after_every_epoch_gives_the_same_bytes(row, tmp_path, monkeypatch):
    config = fine_tuned(row, tmp_path)
    _, (expected, log) = train(config, row, tmp_path / "whole")
    save = training.Training.save

    def save_and_end(self, epoch):
        save(self, epoch)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "save", save_and_end)
    for _ in range(config.train.epochs):
        with pytest.raises(KeyboardInterrupt):
            train(config, row, tmp_path / "parts")
    _, (model, again) = train(config, row, tmp_path / "parts")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in expected.state_dict().items())
    assert again.entries == log.entries


def test_frozen_stages_stay_as_they_were_and_the_others_move(row, tmp_path):
    start = network().state_dict()
    for count in (0, 3, 5):
        _, (model, _) = train(fine_tuned(row, tmp_path, freeze=count, keep="last"), row, tmp_path / str(count))
        frozen = ("backbone.conv1", "backbone.layer1", "backbone.layer2", "backbone.layer3", "backbone.layer4")[:count]
        for name, tensor in model.state_dict().items():
            if name not in LAST:
                assert torch.equal(tensor, start[name]) == name.startswith(frozen), (count, name)


def test_kept_weights_are_those_of_the_best_epoch_on_the_validation_videos(row, tmp_path, monkeypatch):
    accuracies, said = iter([0.25, 0.5, 0.5]), []
    states: list[dict] = []

    def validated(config, model, *_, **__):
        states.append({name: tensor.clone() for name, tensor in made.model.state_dict().items()})
        return {"top1_acc": next(accuracies), "top5_acc": 1.0, "mean_class_accuracy": 0.5}

    monkeypatch.setattr(training, "validate", validated)
    config = fine_tuned(row, tmp_path)
    made = training.Training(config, row.splits, row.reader, row.classes, tmp_path / "work", 0, said.append)
    model, _ = made.run()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in model.state_dict().items())
    assert said[-1] == "kept: the weights after epoch 2, the best on the validation videos"


def test_last_layer_learns_at_its_own_rate_after_warming_up(row, tmp_path):
    config = fine_tuned(row, tmp_path, freeze=0, epochs=5, warmup_epochs=2)
    made = training.Training(config, row.splits, row.reader, row.classes, tmp_path / "work", 0, print)
    rates = []
    for epoch in range(5):
        training.set_rate(made.optimizer, learning_rate(config, epoch))
        rates.append([group["lr"] for group in made.optimizer.param_groups])
    whole = config.learning_rate
    np.testing.assert_allclose([rest for rest, _ in rates], [whole / 3, whole * 2 / 3, whole, whole * 3 / 4, whole / 4])
    np.testing.assert_allclose([head for _, head in rates], [10 * rest for rest, _ in rates])
    held = [{id(p) for p in group["params"]} for group in made.optimizer.param_groups]
    assert held[1] == {id(p) for p in made.model.cls_head.parameters()}
    assert held[0] | held[1] == {id(p) for p in made.model.parameters()}


def test_update_in_parts_is_the_update_of_the_whole_where_no_batch_norm_sees_the_batch(row, tmp_path):
    """All stages frozen: their batch norms are as they were."""
    found = []
    for videos, parts in ((4, 1), (1, 4), (2, 2), (1, 5)):
        config = fine_tuned(row, tmp_path, freeze=5, dropout=0.0, keep="last", videos_per_gpu=videos, accumulate=parts)
        said: list[str] = []
        _, (model, log) = train(config, row, tmp_path / f"{videos}x{parts}", said.append)
        found.append((model.cls_head.fc_cls.weight.detach(), [e["loss"] for e in log.entries if e["mode"] == "train"]))
        told = f"1 process x {videos} videos x {parts} parts = {videos * parts} videos a step"
        assert any(told in line for line in said) == (parts > 1)
    (whole, losses), *others, (five, _) = found
    for weight, own in others:
        torch.testing.assert_close(weight, whole, rtol=1e-5, atol=1e-7)
        assert own == pytest.approx(losses, rel=1e-4)
    assert not torch.allclose(five, whole, rtol=1e-3), "steps of five videos"


def test_dropout_is_drawn_anew_in_every_epoch(row, tmp_path, monkeypatch):
    seeds: dict[int, set[int]] = {}
    step = training.Training.step

    def noted(self, epoch, *rest):
        seeds.setdefault(epoch, set()).add(torch.initial_seed())
        return step(self, epoch, *rest)

    monkeypatch.setattr(training.Training, "step", noted)
    train(row.config, row, tmp_path)
    assert len(seeds) == row.config.train.epochs
    assert len(set.union(*seeds.values())) == len(seeds)


def test_log_has_the_means_of_the_steps_since_the_entry_before(row, tmp_path, monkeypatch):
    """Of three steps an epoch, whose classes are first and third in turn."""
    count = itertools.count(1)

    def updates(*_):
        def update(parts, _):
            ((_, labels),) = parts
            number, shown = next(count), torch.nn.functional.one_hot(labels, 12)
            first, second = shown.roll(1, 1), shown.roll(2, 1)
            logits = (shown + (2 * first + 3 * second if number % 2 == 0 else 0)).float()
            return {"loss": float(number), "grad_norm": 10.0 * number, "logits": logits}

        return update

    monkeypatch.setattr(training, "updates", updates)
    _, (_, log) = train(changed(row.config, train={"log_interval": 2, "epochs": 2}), row, tmp_path)
    keys = ("epoch", "iter", "loss", "grad_norm", "top1_acc", "top5_acc")
    assert [tuple(entry[key] for key in keys) for entry in log.entries if entry["mode"] == "train"] == [
        (1, 2, 1.5, 15.0, 0.5, 1.0),
        (1, 3, 3.0, 30.0, 1.0, 1.0),
        (2, 2, 4.5, 45.0, 0.5, 1.0),
        (2, 3, 6.0, 60.0, 0.0, 1.0),
    ]


@pytest.mark.parametrize("family", ["mmaction", "torchvision"])
def test_loss_is_of_clips_normalised_as_the_network_s_family_has_them(row, tmp_path, family):
    """All stages frozen, and all videos in the first step: the network computes as in a test."""
    start = network(family=family, num_classes=12)
    torch.nn.init.normal_(start.cls_head.fc_cls.weight)
    checkpoint.export_mmaction(start, tmp_path / "start.pth")
    step = {"freeze": 5, "dropout": 0.0, "videos_per_gpu": 12, "epochs": 1, "warmup_epochs": 0}
    config = changed(row.config, init=str(tmp_path / "start.pth"), model={"family": family}, train=step)
    _, (_, log) = train(config, row, tmp_path / "work")
    clips = TrainClips(config, row.splits["train"], row.reader)
    x, labels = clips.collate([clips[0, index] for index in range(12)])
    with torch.inference_mode():
        expected = functional.cross_entropy(start(normalised(x, torch.device("cpu"), start.family)), labels)
    assert log.entries[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.fixture(scope="module")
def base(committed, tmp_path_factory) -> Project:
    """A project of two rows, both of them trained."""
    project = copy_of(committed, tmp_path_factory.mktemp("base") / "project")
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["datasets"]["motion"]["baselines"]["one_frame"] = "none"
    params["zoo"]["base"] = {"input": "frames", "short_side": 256, "frames": 4, "frame_interval": 2}
    project.set(params)
    dvc(project, "repro", "train@base")
    return project


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["row:base", "torchvision at an address", "ig65m in a file"])
def test_fine_tuning_from_each_kind_of_weights_goes_through_dvc_repro(kind, base, tmp_path):
    """Weights of a row through all stages, the others up to the test."""
    family, of_row = kind.partition(" ")[0], kind == "row:base"
    (tmp_path / "served").mkdir()
    file = tmp_path / "served" / "weights.pth"
    if not of_row:
        torch.save(to_torchvision(network(family=family).state_dict()), file)
    with serving(tmp_path / "served") as address:
        init = {"row:base": kind, "torchvision at an address": f"{address}/weights.pth", "ig65m in a file": str(file)}
        params = yaml.safe_load((base.folder / "params.yaml").read_text())
        params["model"] |= {"init": init[kind], "family": family if kind.endswith("address") else None}
        params["finetune"] |= {"epochs": 1, "warmup_epochs": 0}
        base.set(params)
        targets = [] if of_row else [f"test@{CUSTOM}"]
        said = dvc(base, "repro", *targets, TORCH_HOME=str(tmp_path / "hub"), OFFLINE="but-this-machine")
    assert "starting from" in said
    assert {f"train@{CUSTOM}", f"test@{CUSTOM}"} <= set(ran(said))
    if of_row:
        assert " (from row base)" in (base.folder / paths.README).read_text()


@pytest.mark.parametrize(
    "spoil", [lambda state: {"model": state["model"]}, lambda state: state | {"model": {}}, lambda _: [1]]
)
def test_whole_but_foreign_state_is_told_in_a_line(row, tmp_path, monkeypatch, spoil):
    config = fine_tuned(row, tmp_path)
    train(config, row, tmp_path / "work")
    state = tmp_path / "work" / training.STATE
    torch.save(spoil(torch.load(state, weights_only=True)), state)
    with pytest.raises(training.TrainingError, match=r"state\.pt is not the state of this training .*; remove it, and"):
        train(config, row, tmp_path / "work")


def test_test_of_a_network_that_overflows_names_the_video(prepared, monkeypatch):
    monkeypatch.chdir(prepared.folder)
    row = open_row(CUSTOM, TestedRow)
    model = build_model(row.config, len(row.classes))
    torch.nn.init.constant_(model.cls_head.fc_cls.weight, 3e38)
    with pytest.raises(ScoresError, match=rf"custom: the scores of {row.splits['val'][0].path} are not finite"):
        evaluation.test(row.config, evaluation.WholeNetwork(row.config, model.eval(), row.reader, 0), row.splits["val"])


def test_step_with_one_tiny_clip_is_refused_before_the_work(row, tmp_path):
    """Of nine videos in steps of eight; a longer clip, of which more than one value is left, trains."""
    samples = {**row.splits, "train": row.splits["train"][:9]}
    for frames, refused in ((4, True), (16, False)):
        train = {"videos_per_gpu": 8, "epochs": 1, "warmup_epochs": 0}
        config = changed(row.config, train=train, clip={"frames": frames})
        made = training.Training(config, samples, row.reader, row.classes, tmp_path / str(frames), 0, print)
        if refused:
            with pytest.raises(training.TrainingError, match="9 training videos in steps of 8 leave a step with one"):
                made.run()
        else:
            made.run()
