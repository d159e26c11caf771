"""The names of weights in params.yaml: what each stands for, and what a row that gives one inherits."""

import json

import pytest

from r2plus1d.config import origins, resolve
from r2plus1d.config.schema import CUSTOM
from r2plus1d.model.families import FAMILIES
from r2plus1d.system import paths
from tests.config.test_params import changed
from tests.support.project import ROOT

ROWS = json.loads((ROOT / paths.PUBLISHED).read_text())["rows"]
PUBLISHED = {name: row["ckpt"] for name, row in ROWS.items()}
FILE = "weights/theirs.pth"
FILES = {FILE: {"family": "torchvision", "depth": 18, "conv": "r2plus1d", "width": 64}}


def custom(params, **model):
    for key, value in model.items():
        params = changed(params, f"model.{key}", value)
    return next(row for row in resolve.resolve(params, PUBLISHED, FILES).rows if row.row == CUSTOM)


def refused(params, **model) -> str:
    with pytest.raises(resolve.ConfigError) as error:
        custom(params, **model)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "source", "depth", "family"),
    [
        ("torchvision", "torchvision:r2plus1d_18", 18, "torchvision"),
        ("torchvision:r2plus1d_18", "torchvision:r2plus1d_18", 18, "torchvision"),
        ("ig65m_32", origins.IG65M["ig65m_32"], 34, "ig65m"),
        (origins.IG65M["ig65m_8"], origins.IG65M["ig65m_8"], 34, "ig65m"),
        ("published_1x", origins.PUBLISHED_1X[8, 8], 34, "mmaction"),
        (FILE, FILE, 18, "torchvision"),
    ],
)
@pytest.mark.parametrize("key", ["init", "checkpoint"])
def test_row_has_the_network_and_the_size_of_the_weights_that_it_names(params, key, name, source, depth, family):
    row = custom(params, **{key: name})
    assert (row.init, row.checkpoint) == ((source, None) if key == "init" else (None, source))
    assert row.model.model_dump() == {"depth": depth, "conv": "r2plus1d", "width": 64, "family": family}
    assert (row.scale.resolution, row.clip.short_side) == (1.0, 320), "full size, though motion is scaled down"
    assert row.train.crop == (224 if family == "mmaction" else 112)


def test_torchvision_follows_the_convolution(params):
    assert custom(params, init="torchvision", conv="r3d").init == "torchvision:r3d_18"
    assert custom(params, init="torchvision", conv="mc3").model.conv == "mc3"
    assert "torchvision has no weights of conv r2d; there are" in refused(params, init="torchvision", conv="r2d")
    assert "model.conv is 'mc3': the weights of" in refused(params, init="torchvision:r3d_18", conv="mc3")


@pytest.mark.parametrize(("frames", "interval", "file"), [(8, 8, "3fce5629"), (32, 2, "63462eb3"), (4, 16, "3fce5629")])
def test_published_is_the_row_with_the_nearest_clip_and_of_those_the_most_accurate(params, frames, interval, file):
    assert f"-{file}.pth" in custom(params, init="published", frames=frames, frame_interval=interval).init
    for name, row in ROWS.items():
        found = resolve.resolve(changed(params, f"zoo.{name}.init", "published"), PUBLISHED).rows
        assert {r.row: r.init for r in found}[name] == row["ckpt"], "a zoo row's own file"


def test_published_is_known_whatever_rows_the_zoo_has(params):
    alone = changed(params, "zoo", {CUSTOM: "model"})
    assert custom(alone, init="published").init == custom(params, init="published").init
    with pytest.raises(resolve.ConfigError, match="no published weights are known"):
        resolve.resolve(changed(params, "model.init", "published"))


def test_row_starts_from_another_one_at_its_scale(params):
    own = {"input": "frames", "short_side": 256, "frames": 8, "frame_interval": 8, "depth": 18}
    row = custom(changed(params, "zoo.base", own), init="row:base")
    assert row.init == "models/base/model.safetensors"
    assert (row.model.depth, row.model.width, row.train.crop) == (18, 8, 56)
    assert "did you mean 'base'" in refused(changed(params, "zoo.base", own), init="row:bose")
    loop = changed(params, "zoo.base", {**own, "init": f"row:{CUSTOM}"})
    assert "rows cannot start from each other: " in refused(loop, init="row:base")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"init": "torchvison"}, "did you mean 'torchvision'"),
        ({"init": "resnet"}, "no such name of weights; there are published, published_1x, torchvision, ig65m_8"),
        ({"init": 7}, "model.init is 7: expected a name, a path or an https address"),
        (
            {"init": "torchvision:r2plus1d_34"},
            "torchvision has no r2plus1d_34; there are torchvision:r2plus1d_18 (conv",
        ),
        ({"init": "ig65m_8", "depth": 18}, "model.depth is 18: the weights of https://github.com"),
        ({"init": "ig65m_8", "family": "mmaction"}, "model.family is 'mmaction': the weights of https://github.com"),
        ({"init": "ig65m_8", "width": 32}, "model.width is 32: the weights of https://github.com"),
        (
            {"init": "ig65m_8", "checkpoint": "ig65m_8"},
            "init trains on and checkpoint tests as it is: give one of them",
        ),
        ({"checkpoint": ""}, "no such name of weights"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused_with_the_way_out(params, model, words):
    assert words in refused(params, **model)


def test_scale_that_would_change_the_network_of_given_weights_is_refused(params):
    assert "scale.width is 0.5: torchvision:" in refused(changed(params, "scale.width", 0.5), init="torchvision")
    full = changed(changed(params, "scale.width", 1.0), "scale.depth", 18)
    assert custom(full, init="torchvision").model.depth == 18
    smaller = custom(changed(params, "scale.resolution", 0.5), init="torchvision")
    assert (smaller.model.width, smaller.train.crop) == (64, 56)


def test_row_that_starts_from_weights_is_trained_as_finetune_says(params):
    scratch, tuned = custom(params), custom(params, init="torchvision")
    assert tuned.train.lr == pytest.approx(params["recipe"]["train"]["lr"] * params["finetune"]["rate"]), (
        "not the rate of the dataset's small network"
    )
    small = custom(params, init=f"row:{next(iter(params['zoo']))}")
    assert small.train.lr == pytest.approx(scratch.train.lr * params["finetune"]["rate"])
    for key in ("epochs", "warmup_epochs", "head_lr"):
        assert getattr(tuned.train, key) == params["finetune"][key]
    assert custom(changed(params, "train.lr", 0.5), init="torchvision").train.lr == 0.5, "one's own word is the last"
    tested = custom(params, checkpoint="torchvision")
    assert (tested.train.epochs, tested.train.lr) == (scratch.train.epochs, scratch.train.lr)


def test_network_of_torchvision_that_is_named_needs_no_other_word(params):
    row = custom(params, init="torchvision:r3d_18")
    assert (row.model.conv, row.model.family, row.init) == ("r3d", "torchvision", "torchvision:r3d_18")


def test_features_take_weights_that_learned_something(params):
    frozen = changed(params, "train.freeze", "all")
    assert "model.init is null and train.freeze is all" in refused(frozen)
    assert custom(frozen, init="torchvision").train.freeze == "all"
    files = resolve.resolve(changed(frozen, "model.checkpoint", "torchvision"), PUBLISHED).files()
    assert files[f"{CUSTOM}/features.json"].of is None, "tested as it is"


def test_weight_decay_of_a_last_layer_alone_is_chosen_unless_it_is_given(params):
    frozen = changed(params, "train.freeze", "all")
    assert custom(frozen, init="torchvision").train.weight_decay == "auto"
    assert custom(changed(frozen, "train.weight_decay", 0.5), init="torchvision").train.weight_decay == 0.5
    assert custom(changed(frozen, "finetune.last_layer_decay", 0.02), init="torchvision").train.weight_decay == 0.02
    usual = params["recipe"]["train"]["weight_decay"]
    assert custom(changed(params, "train.freeze", 4), init="torchvision").train.weight_decay == usual
    of_dataset = changed(frozen, "datasets.motion.train", params["datasets"]["motion"]["train"] | {"weight_decay": 0.3})
    assert custom(of_dataset, init="torchvision").train.weight_decay == 0.3
    told = refused(changed(params, "train.weight_decay", "auto"), init="torchvision")
    assert "weight_decay 'auto' needs freeze: all" in told
    told = refused(changed(params, "train.weight_decay", "aut"), init="torchvision")
    assert "train.weight_decay is 'aut'" in told
    assert "expected a number, or auto" in told


def test_few_epochs_shorten_the_warming_up_of_finetune(params):
    assert custom(changed(params, "train.epochs", 1), init="torchvision").train.warmup_epochs == 0


def test_warming_up_leaves_an_epoch_to_train(params):
    assert "warmup_epochs is 14, which leaves none of 14 epochs" in refused(changed(params, "train.warmup_epochs", 14))


@pytest.mark.parametrize("name", ["torchvision", "ig65m"])
def test_row_of_another_family_is_shown_its_clips_as_the_family_is(params, name):
    row, view = (
        custom(params, checkpoint={"torchvision": "torchvision", "ig65m": "ig65m_32"}[name]),
        FAMILIES[name].view,
    )
    resize = tuple(row.test.resize) if isinstance(row.test.resize, list) else row.test.resize
    assert (resize, row.test.crop, row.test.clips, row.test.crops) == (view.resize, view.crop, view.clips, view.crops)
    assert (row.benchmark.clips, row.benchmark.crops) == (view.clips, view.crops)
    assert row.clip.frame_interval == view.frame_interval
    assert (row.clip.frame_rate, row.test.spread) == (view.frame_rate or "all", view.spread)


def test_timed_views_are_three_crops_of_the_short_side_where_one_frame_is_seen_by_the_centre_crop(params):
    """Of torchvision's networks, whose own test takes the centre crop of larger frames."""
    given = changed(changed(params, "model.init", "torchvision"), "benchmark.crops", 3)
    files = resolve.resolve(changed(given, "baselines.one_frame", "all"), PUBLISHED).files()
    tested, timed = files[f"{CUSTOM}/test.json"].test, files[f"{CUSTOM}/benchmark.json"].test
    one = files[f"{CUSTOM}/one_frame.json"].of.test
    assert (tested.resize, tested.crop, tested.crops) == ([128, 171], 112, 1)
    assert (timed.resize, timed.crop, timed.crops) == (112, 112, 3)
    assert (one.resize, one.crop, one.crops) == ([128, 171], 112, 1)
