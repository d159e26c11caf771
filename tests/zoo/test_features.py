"""Features that are computed once and kept, the last layer trained on them, and its test."""

import dataclasses
import hashlib
import shutil
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from torch.nn import functional

from r2plus1d.clips.items import ValClips, training_clip
from r2plus1d.clips.loader import AUGMENTATION
from r2plus1d.config import resolve
from r2plus1d.config.schema import CUSTOM, TestedRow
from r2plus1d.datasets.annotations import Sample
from r2plus1d.model import checkpoint
from r2plus1d.model.network import build
from r2plus1d.system import code, paths
from r2plus1d.system.kept import AGAIN
from r2plus1d.zoo import evaluation, features, last_layer
from r2plus1d.zoo.rows import Row, open_row
from r2plus1d.zoo.update import normalised
from r2plus1d.zoo.weights import starting_network
from tests.config.test_params import changed as with_param
from tests.support.project import smaller_params
from tests.zoo.test_starting import changed, network

CPU = torch.device("cpu")


@pytest.fixture
def row(request, prepared, tmp_path, monkeypatch) -> Row:
    """A narrow row that trains its last layer alone; of MMAction's family unless a test says otherwise. Nothing of it
    is kept yet."""
    monkeypatch.chdir(prepared.folder)
    monkeypatch.setattr(paths, "kept_features", lambda key, what: tmp_path / "kept" / key / what.replace(" ", "_"))
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


def start_of(row, classes=None):
    """The network that the row starts from."""
    return starting_network(row.config, classes or row.classes, lambda _: None).eval()


def trained(row):
    model = start_of(row)
    last_layer.train(row.config, model, computed(row, model), row.splits, row.classes, lambda _: None)
    return model


@pytest.fixture
def shown(monkeypatch) -> list[int]:
    """How many views the network was shown, by the calls."""
    counted: list[int] = []
    inner = features.logits

    def counting(network, frames, places, device):
        counted.append(len(places))
        return inner(network, frames, places, device)

    monkeypatch.setattr(features, "logits", counting)
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
    inner = features.logits
    shown.clear()
    for workers, left in ((0, 3), (2, 4), (0, 2), (2, 6), (0, 8)):
        remaining = iter(range(left))

        def interrupted(*given, remaining=remaining):
            if next(remaining, None) is None:
                raise KeyboardInterrupt
            return inner(*given)

        monkeypatch.setattr(features, "logits", interrupted)
        machine = row.machine.model_copy(update={"workers": workers})
        with pytest.raises(KeyboardInterrupt):
            computed(dataclasses.replace(row, machine=machine))
    monkeypatch.setattr(features, "logits", inner)
    features.save(computed(row), tmp_path / "parts")
    assert len(shown) == 12 + 12, "each run went on after the last video"
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


class Repainted:
    """A reader of frames of which one video's are darker."""

    def __init__(self, reader, path):
        self.reader, self.path = reader, path

    def read(self, path, indices, count):
        frames = self.reader.read(path, indices, count)
        return frames // 2 if path == self.path else frames


def of_row(**changes):
    return lambda row: dataclasses.replace(row, config=changed(row.config, **changes))


def repainted(row):
    return dataclasses.replace(row, reader=Repainted(row.reader, row.splits["val"][3].path))


def shorter(row):
    one = dataclasses.replace(row.splits["val"][3], num_frames=row.splits["val"][3].num_frames - 9)
    return dataclasses.replace(row, splits={**row.splits, "val": [*row.splits["val"][:3], one]})


@pytest.mark.parametrize(
    ("change", "of_train", "of_val", "of_test"),
    [
        pytest.param(of_row(train={"lr": 5.0, "epochs": 9}, test={"average_clips": "score"}), 0, 0, 0, id="training"),
        pytest.param(of_row(row="other", loose_frames="img_{:05}.jpg"), 0, 0, 0, id="name of the row"),
        pytest.param(of_row(seed=9), 12, 0, 0, id="seed"),
        pytest.param(of_row(train={"views": 3}), 12, 0, 0, id="views"),
        pytest.param(of_row(train={"crop": 18}), 12, 12, 0, id="crop of the training"),
        pytest.param(of_row(test={"clips": 2}), 0, 0, 12, id="clips of the test"),
        pytest.param(of_row(test={"crops": 1}), 0, 0, 12, id="crops of the test"),
        pytest.param(of_row(clip={"frame_interval": 1}), 12, 12, 12, id="frame_interval"),
        pytest.param(repainted, 0, 1, 1, id="other frames under the same name"),
        pytest.param(shorter, 0, 1, 1, id="number of frames"),
    ],
)
def test_features_are_computed_again_of_other_pixels_alone(row, shown, tmp_path, change, of_train, of_val, of_test):
    def found(row) -> list[list[torch.Tensor]]:
        frozen, train, val = features.FrozenNetwork(row, network()), row.splits["train"], row.splits["val"]
        return [frozen.of_training_views(train), list(frozen.of_view(val)), frozen.of_test_views(val)]

    found(row)
    shown.clear()
    other = change(row)
    kept, test = found(other), other.config.test
    assert sum(shown) == of_train * other.config.train.views + of_val + of_test * test.clips * test.crops
    shutil.rmtree(tmp_path / "kept")
    for one, fresh in zip(kept, found(other), strict=True):
        assert all(map(torch.equal, one, fresh))


@pytest.mark.parametrize("change", ["weights", "arithmetic", "lowered", "versions", "processor"])
def test_features_of_other_weights_arithmetic_versions_or_hardware_are_not_taken(row, monkeypatch, shown, change):
    start = network()
    before = computed(row, start)
    shown.clear()
    if change == "weights":
        start.backbone.conv1.bn.bias.data += 1
    elif change == "arithmetic":
        monkeypatch.setattr(features, "computed", lambda asked, device: "native")
    elif change == "lowered":
        row = dataclasses.replace(row, config=changed(row.config, runtime={"lowered": False}))
    elif change == "versions":
        monkeypatch.setattr(features.code, "libraries", lambda: {"torch": "another"})
    else:
        monkeypatch.setattr(features, "deciding", lambda runtime: {"device": "another"})
    found = computed(row, start)
    assert sum(shown) == 12 * 2 + 12
    assert same(found, before) == (change not in ("weights", "lowered"))


@pytest.mark.parametrize(
    ("file", "computes"),
    [
        ("model/lowered.py", True),
        ("model/winograd.py", True),
        ("video/views.py", True),
        ("system/device.py", True),
        ("zoo/evaluation.py", True),
        ("datasets/motion.py", False),
        ("config/schema.py", False),
    ],
)
def test_features_of_other_code_that_computes_are_not_taken(row, monkeypatch, file, computes):
    key, tree = features.FrozenNetwork(row, network()).key, code.tree
    monkeypatch.setattr(code, "tree", lambda path: "another" if path.as_posix().endswith(file) else tree(path))
    assert (features.FrozenNetwork(row, network()).key != key) == computes


def test_the_same_frames_in_another_order_or_form_are_other_pixels():
    frames, places = torch.arange(4 * 2 * 3 * 3, dtype=torch.uint8).reshape(4, 2, 3, 3), torch.tensor([[0, 1], [2, 3]])
    names = [
        features._name(frames, places),
        features._name(frames, places.flip(1)),
        features._name(frames, places.flip(0)),
    ]
    names += [features._name(frames, places.reshape(1, 4)), features._name(frames.transpose(1, 2), places)]
    names += [features._name(frames.flip(0), places)]
    assert len(set(names)) == 6


def test_networks_with_the_same_weights_and_another_form_are_told_apart():
    one, other = (build(depth=10, width=4, conv=conv, frames=3, num_classes=3) for conv in ("r2d", "mc2"))
    other.load_state_dict(one.state_dict())
    assert features.fingerprint(one) != features.fingerprint(other)
    last = build(depth=10, width=4, conv="r2d", frames=3, num_classes=5, dropout=0.1)
    last.backbone.load_state_dict(one.backbone.state_dict())
    assert features.fingerprint(one) == features.fingerprint(last)


def test_damaged_features_are_computed_again(row, tmp_path, shown):
    before = computed(row)
    (training,) = (tmp_path / "kept").glob("*/training_views/*.safetensors")
    whole = training.read_bytes()
    for damaged in (whole[:-1], whole[:-3] + bytes([whole[-3] ^ 16]) + whole[-2:], b""):
        training.write_bytes(damaged)
        shown.clear()
        assert same(computed(row), before)
        assert sum(shown) == 12 * 2


def test_whoever_wants_everything_again_never_meets_what_was_kept_before(row, tmp_path, monkeypatch, shown):
    """Whatever groups of videos the files hold."""
    fewer = dataclasses.replace(row, splits={**row.splits, "train": row.splits["train"][:7]})
    right = computed(row)
    shutil.rmtree(tmp_path / "kept")
    computed(fewer)
    for file in (tmp_path / "kept").rglob("*.safetensors"):
        content = save({name: tensor + 1 for name, tensor in load_file(file).items()})
        file.with_stem(hashlib.sha256(content).hexdigest()).write_bytes(content)
        file.unlink()
    assert not same(computed(row), right)
    monkeypatch.setenv(AGAIN, "1")
    monkeypatch.setattr(features, "_renewed", set())
    shown.clear()
    assert same(computed(row), right)
    assert same(computed(row), right)
    assert sum(shown) == 12 * 2 + 12, "once in a process"
    monkeypatch.delenv(AGAIN)
    assert same(computed(row), right)


def test_stages_that_compute_the_same_at_once_do_not_disturb_each_other(tmp_path):
    tensors = {f"{n}": torch.full((2, 3), float(n)) for n in range(features.PART)}

    def write(_) -> list[torch.Tensor]:
        store = features.Store(tmp_path)
        for name, tensor in tensors.items():
            store.add(name, tensor)
        return features.Store(tmp_path).read(list(tensors))

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(write, range(40)):
            assert all(map(torch.equal, found, tensors.values()))
    assert len(list(tmp_path.iterdir())) == 1


def test_stages_take_from_each_other_what_the_network_was_shown(project, tmp_path):
    params = smaller_params()
    checkpoint.export_mmaction(network(num_classes=3), tmp_path / "start.pth")
    params["datasets"]["motion"]["scale"]["width"] = 0.0625
    params["train"]["freeze"], params["model"]["init"] = "all", str(tmp_path / "start.pth")
    project.set(params)
    for stage in ("resolve", "features", "train", "test"):
        project.must(stage, *([CUSTOM] if stage != "resolve" else []))

    def kept() -> dict[str, int]:
        files = (project.folder / "runs/features").glob("*/*/*.safetensors")
        return {
            file.relative_to(project.folder / "runs/features").as_posix(): file.stat().st_mtime_ns for file in files
        }

    before, scores = kept(), (project.folder / paths.scores(CUSTOM)).read_bytes()
    assert {name.split("/")[1] for name in before} == {"training_views", "validation_view", "test_views", "static_view"}
    assert len({name.split("/")[0] for name in before}) == 1
    params["train"]["weight_decay"] = 0.5
    project.set(params)
    for stage in ("resolve", "train", "test"):
        project.must(stage, *([CUSTOM] if stage != "resolve" else []))
    assert kept() == before
    assert (project.folder / paths.scores(CUSTOM)).read_bytes() != scores


@pytest.mark.parametrize("balance", ["none", "classes"])
def test_last_layer_is_the_optimum_of_the_regularised_loss_on_the_features(row, balance):
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 3  # unevenly many below
    labels[:5] = 0
    splits = {split: [types.SimpleNamespace(label=int(label)) for label in labels] for split in ("train", "val")}
    train = torch.from_numpy(rng.normal(3, 2, (12, 2, 32)).astype(np.float32))
    found = features.Features(train, train[:, 0], features.fingerprint(network()))
    config = changed(row.config, train={"epochs": 20, "balance": balance})
    model = start_of(row, row.classes[:3])
    log = last_layer.train(config, model, found, splits, row.classes[:3], lambda _: None)
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


def videos_of(classes: int, count: int) -> list[Sample]:
    return [Sample(f"{label}/{n:03}.mp4", 90, label) for label in range(classes) for n in range(count)]


@pytest.mark.parametrize(("signal", "balanced"), [(0.0, False), (0.35, False), (0.35, True), (6.0, False)])
def test_weight_decay_is_the_best_on_videos_that_were_not_trained_on(signal, balanced):
    """By scikit-learn's logistic regression, each to its end."""
    rng, samples = np.random.default_rng(1), videos_of(3, 20)
    samples = samples[:30] + samples[40:] if balanced else samples
    labels = np.array([sample.label for sample in samples])
    views = rng.normal(2, 3, (len(samples), 2, 24)) + 3 * signal * np.eye(24)[labels][:, None]
    found, _ = last_layer.best_decay(torch.from_numpy(views.astype(np.float32)), samples, 3, balanced)
    part = np.concatenate([np.arange(n) * 5 // n for n in np.bincount(labels)])  # five in a row of each class
    losses = []
    for decay in last_layer.DECAYS:
        total = 0.0
        for fold in range(5):
            x, y = views[part != fold].reshape(-1, 24), labels[part != fold].repeat(2)
            weights = compute_sample_weight("balanced", y) if balanced else np.ones(len(y))
            scaler = StandardScaler().fit(x)
            model = LogisticRegression(C=1 / (decay * weights.sum()), max_iter=5000, tol=1e-8)
            model.fit(scaler.transform(x), y, sample_weight=weights)
            x, y = views[part == fold].reshape(-1, 24), labels[part == fold].repeat(2)
            weights = compute_sample_weight("balanced", y) if balanced else np.ones(len(y))
            total += log_loss(y, model.predict_proba(scaler.transform(x)), sample_weight=weights, labels=range(3))
        losses.append(total)
    assert losses[last_layer.DECAYS.index(found)] <= min(losses) * 1.02
    assert losses[last_layer.DECAYS.index(found)] < max(losses) * 0.9


def test_clips_of_one_recording_whose_names_follow_each_other_do_not_vouch_for_each_other():
    """Features that tell the recording and nothing of the class."""
    rng, samples = np.random.default_rng(0), videos_of(4, 20)
    recording = rng.normal(size=(4 * 5, 1, 64)).repeat(4, 0)
    views = torch.from_numpy((recording + rng.normal(size=(80, 2, 64)) / 10).astype(np.float32))
    assert last_layer.best_decay(views, samples, 4, False)[0] >= 1
    shuffled = torch.cat([views[k : k + 20][np.arange(20).reshape(5, 4).T.ravel()] for k in range(0, 80, 20)])
    assert last_layer.best_decay(shuffled, samples, 4, False)[0] <= 0.01, "what it would be if they did"


@pytest.mark.parametrize("balanced", [False, True])
def test_class_of_one_video_has_no_say_in_the_weight_decay(balanced):
    rng, samples = np.random.default_rng(0), videos_of(4, 20)
    labels = np.array([sample.label for sample in samples])
    views = rng.normal(size=(80, 2, 64)) + 2 * np.eye(64)[labels][:, None]
    found = torch.from_numpy(views.astype(np.float32))
    expected = last_layer.best_decay(found, samples, 5, balanced)[0]
    alone = torch.from_numpy(rng.normal(size=(1, 2, 64)).astype(np.float32))
    with_one, told = last_layer.best_decay(torch.cat([found, alone]), [*samples, Sample("4/0.mp4", 90, 4)], 5, balanced)
    assert with_one == expected
    assert told == "the best of 7 in a cross-validation over 81 of 81 training videos"


def test_weight_decay_is_not_chosen_where_no_class_has_a_video_to_spare():
    samples = [Sample(f"{label}.mp4", 90, label) for label in range(6)]
    views = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 2, 8)).astype(np.float32))
    told = "no class has a video to spare for a choice"
    assert last_layer.best_decay(views, samples, 6, False) == (last_layer.UNTRIED, told)


def test_trials_of_many_videos_look_at_some_of_every_class(monkeypatch):
    """And a decay for all of them is as much less as they are more."""
    samples, seen = videos_of(3, 50), []
    views = torch.from_numpy(np.random.default_rng(0).normal(size=(150, 4, 8)).astype(np.float32))
    inner = last_layer._Solver.__init__

    def counting(self, x, labels, classes, balanced):
        seen.append(np.bincount(labels).tolist())
        inner(self, x, labels, classes, balanced)

    monkeypatch.setattr(last_layer._Solver, "__init__", counting)
    whole, _ = last_layer.best_decay(views, samples, 3, False)
    assert seen == [[160, 160, 160]] * 5
    monkeypatch.setattr(last_layer, "MOST", 30 * 8 * 3)
    decay, told = last_layer.best_decay(views, samples, 3, False)
    assert seen[5:] == [[8, 8, 8]] * 5
    assert whole in last_layer.DECAYS
    assert any(decay * 5 == pytest.approx(known) for known in last_layer.DECAYS)
    assert told.endswith("over 30 of 150 training videos")


def test_chosen_weight_decay_is_said_logged_and_used(row, capsys):
    config = changed(row.config, train={"weight_decay": "auto"})
    model, said = start_of(row), []
    found = computed(row, model)
    log = last_layer.train(config, model, found, row.splits, row.classes, said.append)
    decay, why = last_layer.best_decay(found.train, row.splits["train"], len(row.classes), False)
    assert said == [f"weight decay {decay:g}: {why}"]
    assert {entry["weight_decay"] for entry in log.entries if entry["mode"] == "train"} == {decay}
    same = start_of(row)
    last_layer.train(changed(config, train={"weight_decay": decay}), same, found, row.splits, row.classes, print)
    assert torch.equal(model.cls_head.fc_cls.weight, same.cls_head.fc_cls.weight)


def test_last_layer_repeats_to_the_bit_and_leaves_all_else_as_it_was(row):
    found, start = computed(row), network().state_dict()
    one, other = start_of(row), start_of(row)
    log, again = (last_layer.train(row.config, model, found, row.splits, row.classes, print) for model in (one, other))
    assert log.entries == again.entries
    assert [(entry["mode"], entry["epoch"]) for entry in log.entries] == [
        *(("train", e) for e in (1, 2, 3)),
        ("val", 3),
    ]
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
        assert torch.equal(tensor, start[name]) or name.startswith("cls_head")


def test_features_of_other_weights_are_refused_with_the_command_that_makes_them_anew(row, tmp_path):
    found = computed(row)
    features.save(found, tmp_path)
    assert features.read(tmp_path).of == found.of
    other = network()
    other.backbone.conv1.bn.bias.data += 1
    checkpoint.export_mmaction(other, tmp_path / "start.pth")
    with pytest.raises(features.FeaturesError, match=r"are of other weights than .*--single-item features@custom"):
        last_layer.train(row.config, start_of(row), features.read(tmp_path), row.splits, row.classes, print)


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
    for key, value in (
        ("weight_decay", 0.5),
        ("epochs", 3),
        ("balance", "classes"),
        ("videos_per_gpu", 3),
        ("accumulate", 3),
    ):
        assert configured(with_param(params, f"train.{key}", value)) == before
    for key, value in (("views", 7), ("flip", 0.0), ("crop", 96)):
        assert configured(with_param(params, f"train.{key}", value)) != before
    assert configured(with_param(params, "test.clips", 3)) == before
