"""params.yaml: what is inherited, what is scaled, what is refused and in which words."""

import copy
import datetime
import functools
import re
import time

import pytest
from dvc.utils.serialize import parse_yaml

from r2plus1d.config import files, layers, resolve, schema, strict_yaml

RATES = (0.1, 0.2, 0.1, 0.075)  # of the published rows, on 8 GPUs


def rows(params) -> dict:
    return {row.row: row for row in resolve.resolve(params).rows}


def changed(params: dict, path: str, value) -> dict:
    params = copy.deepcopy(params)
    *parents, last = path.split(".")
    place = params
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return params


def test_the_user_s_own_sections_shape_the_custom_row_alone(params):
    before = rows(params)
    params = changed(params, "model.frames", 32)
    params = changed(params, "train.lr", 0.5)
    params = changed(params, "test.clips", 1)
    after = rows(params)
    assert {name for name in before if before[name] != after[name]} == {schema.CUSTOM}


def test_custom_row_spans_64_frames(params):
    for frames, interval in ((8, 8), (16, 4), (32, 2), (64, 1), (128, 1)):
        clip = rows(changed(params, "model.frames", frames))[schema.CUSTOM].clip
        assert (clip.frames, clip.frame_interval) == (frames, interval)


def test_depth_asked_for_outranks_the_scale(params):
    params = changed(params, "datasets.motion.scale.depth", 10)
    assert {row.model.depth for row in rows(params).values()} == {10}
    asked = rows(changed(params, "model.depth", 50))
    assert asked.pop(schema.CUSTOM).model.depth == 50
    assert {row.model.depth for row in asked.values()} == {10}


def test_learning_rates_follow_the_linear_scaling_rule(params):
    params = changed(changed(params, "dataset", "kinetics400"), "recipe.train.accumulate", 1)
    for gpus in (1, 8):
        zoo = resolve.resolve(changed(params, "runtime.gpus", gpus)).rows[:4]
        assert [row.learning_rate for row in zoo] == pytest.approx([rate * gpus / 8 for rate in RATES], rel=1e-12)
        assert [row.videos_per_step for row in zoo] == [videos * gpus for videos in (8, 16, 8, 6)]


@pytest.mark.parametrize(("gpus", "parts"), [(1, 8), (2, 4), (3, 3), (8, 1), (16, 1)])
def test_published_update_is_kept_with_fewer_gpus_in_parts(params, gpus, parts):
    params = changed(changed(params, "dataset", "kinetics400"), "runtime.gpus", gpus)
    zoo = resolve.resolve(params).rows[:4]
    assert {row.train.accumulate for row in zoo} == {parts}
    assert [row.videos_per_step for row in zoo] == [videos * gpus * parts for videos in (8, 16, 8, 6)]
    if gpus <= 8 and 8 % gpus == 0:
        assert [row.learning_rate for row in zoo] == pytest.approx(RATES, rel=1e-12)
    assert {row.train.accumulate for row in rows(changed(params, "dataset", "motion")).values()} == {1}
    assert rows(changed(params, "train.accumulate", 5))[schema.CUSTOM].train.accumulate == 5


def test_full_scale_is_the_published_model(params):
    row = rows(changed(params, "dataset", "kinetics400"))["r2plus1d_r34_32x2x1_180e_kinetics400_rgb"]
    assert (row.model.depth, row.model.width, row.clip.short_side) == (34, 64, 320)
    assert (row.train.resize, row.train.crop, row.test.resize, row.test.crop) == (256, 224, 256, 256)
    assert (row.train.epochs, row.train.dropout, row.train.crop_area) == (180, 0.5, [0.08, 1.0])


def test_quarter_scale_shrinks_every_row_alike(params):
    for row in rows(params).values():
        assert (row.train.resize, row.train.crop) == (64, 56)
        assert (row.test.resize, row.test.crop) == (56, 56), "tested at the size that it is trained at"
        assert row.model.width == 8
        assert row.clip.short_side == {"256p": 64, "320p": 80}[row.resolution]


def test_scaled_sizes_are_the_nearest_ones():
    assert [layers.scaled(320, factor, "side") for factor in (0.33, 0.331, 0.332)] == [106, 106, 106]


def test_generated_videos_have_an_even_short_side_at_any_scale(params):
    """As the codec needs it."""
    scales = [number / 100 for number in range(10, 30)]
    sides = [resolve.resolve(changed(params, "scale.resolution", s)).data.source.short_side for s in scales]
    assert [side % 2 for side in sides] == [0] * len(sides)


def test_size_of_the_test_that_the_user_gives_is_scaled_like_all_others(params):
    row = rows(changed(changed(params, "test.crop", 256), "test.resize", 256))[schema.CUSTOM]
    assert (row.test.resize, row.test.crop) == (64, 64)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.framse", 8, "did you mean 'frames'"),
        ("trian", {}, "did you mean 'train'"),
        ("dataset", "moton", "did you mean 'motion'"),
        ("datasets.motion.runtime.devise", "cpu", "did you mean 'device'"),
        ("model.frames", 0, "model.frames is 0"),
        ("model.frames", "many", "model.frames is 'many'"),
        ("model.depth", 33, "10, 18, 34, 50, 101 or 152"),
        ("model.input", "pictures", "'frames' or 'video'"),
        ("test.crop", 300, "crop 300 is larger than the short side"),
        ("test.crop", 224, "crop = resize"),
        ("train.epochs", -1, "train.epochs is -1"),
        ("train.crop_area", [0.9, 0.1], "crop_area must be [least, largest]"),
        ("seed", -1, "seed is -1"),
        ("seed", True, "seed is True"),
        ("datasets.motion.scale.width", 2.0, "datasets.motion.scale.width is 2.0"),
        ("runtime.gpus", 0, "runtime.gpus is 0"),
        ("runtime.devise", "cpu", "did you mean 'device'"),
        ("datasets.motion.runtime.threads", 0, "datasets.motion.runtime.threads is 0"),
        ("datasets.kinetics400.train.gpus", 8, "unknown key 'gpus'"),
        ("machine.workers", -1, "machine.workers is -1: expected a number of processes, 0 or more, or auto"),
        ("machine.scheduler", "host:8786", "expected an address such as tcp://host:8786, or null"),
        ("machine.workres", 1, "did you mean 'workers'"),
        ("datasets.motion.runtime.workers", 1, "unknown key 'workers'"),
        ("datasets.motion.source.kind", "files", "there are motion, folder, lists, kinetics, ucf101, hmdb51"),
        ("zoo.custom", {}, "zoo.custom is {}: expected model"),
        ("zoo.custom", "modle", "zoo.custom is 'modle': expected model"),
        ("zoo.own", "model", "zoo.own is 'model': expected keys with values"),
        ("datasets.custom", {}, "choose one of letters"),
        ("model", None, "expected keys with values"),
        ("dataset", ["motion"], "dataset is ['motion']"),
        ("datasets.motion.source.kind", {}, "source.kind is {}"),
        ("train.lr", float("inf"), "train.lr is inf: input should be a finite number"),
        ("model.frames", 10**12, "model.frames is 1000000000000: input should be less than or equal to 10000"),
        (
            "datasets.motion.train.crop_area",
            [1e-6, 1.0],
            "[1e-06, 1.0]: input should be greater than or equal to 0.001",
        ),
        ("train.epochs", 10**12, "train.epochs is 1000000000000"),
        ("model.short_side", 10**9, "model.short_side is 1000000000"),
        ("train.lr", float("nan"), "train.lr is nan"),
        ("recipe.train.weight_decay", float("nan"), "weight_decay is nan"),
        ("datasets.motion.scale.width", float("nan"), "scale.width is nan"),
        ("model.frames", datetime.date(2020, 1, 1), "model.frames is datetime.date(2020, 1, 1)"),
        ("model.7", 1, "unknown key '7'"),
        ("zoo.a/b", {}, "the name 'a/b' cannot be used"),
        ("zoo.data", {}, "the name 'data' cannot be used"),
        ("zoo.a b", {}, "the name 'a b' cannot be used"),
        ("datasets./tmp/x", {}, "the name '/tmp/x' cannot be used"),
        ("datasets.lists.source.frame_name", "../img_{:05}.jpg", "expected a name with a number"),
        ("datasets.lists.source.frame_name", "img_{:999999999d}.jpg", "expected a name with a number"),
        ("datasets.lists.source.frame_name", "img_{0.__class__}.jpg", "expected a name with a number"),
        ("datasets.lists.source.frame_name", "img_%05d.jpg", "expected a name with a number"),
        ("datasets.lists.source.frame_name", "img_{}_{}.jpg", "expected a name with a number"),
        ("datasets.lists.source.frame_name", "img_{}\n.jpg", "expected a name with a number"),
    ],
)
def test_wrong_parameter_is_refused_with_the_way_out(params, path, value, words):
    with pytest.raises(resolve.ConfigError) as error:
        resolve.resolve(changed(params, path, value))
    assert words in str(error.value)


def test_missing_parameter_is_named(params):
    del params["model"]["frames"]
    with pytest.raises(resolve.ConfigError, match=r"model\.frames is missing"):
        resolve.resolve(params)


def test_yaml_tags_in_params_are_refused_and_run_nothing(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/hit']\n")
    with pytest.raises(resolve.ConfigError, match=r"params\.yaml"):
        files.read_params(path)
    assert not (tmp_path / "hit").exists()


def loaded(tmp_path, content: str | bytes):
    path = tmp_path / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return files.read_params(path)


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("seed: 0\nmodel: {}\nseed: 1\n", 'found duplicate key "seed"'),
        ("model: {frames: 8, frames: 16}\n", 'found duplicate key "frames"'),
        (LAUGHS, "more than 100000 values"),
        ("a: &a [*a]\n", "nested"),
        ("a: &a {b: *a}\n", "nested"),
        ("a: " + "[" * 100_000, "more than 10000 brackets"),
        ("a: " + "[" * 900, "RecursionError"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("? [1, 2]\n: 3\n", "the key (1, 2) is no text"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("a: 2020-99-99\n", "month must be in 1..12"),
        ("a: !!int x\n", "invalid literal for int"),
        ("a: !!timestamp x\n", "params.yaml"),
        ("a: !!python/name:os.system\n", "could not determine a constructor"),
        ("a: !!python/object/new:os.system [id]\n", "could not determine a constructor"),
        ("a: \0\n", "unacceptable character"),
        ("a: 1\n".encode("utf-16"), "can't decode byte"),
        (b"a: \xff\n", "can't decode byte"),
        ("- 1\n", "found list"),
        ("", "found NoneType"),
        ("a: 1\n---\nb: 2\n", "found another document"),
    ],
)
def test_yaml_that_means_two_things_or_has_no_end_is_refused(tmp_path, content, words):
    began = time.monotonic()
    with pytest.raises(resolve.ConfigError, match=r"params\.yaml") as error:
        loaded(tmp_path, content)
    assert words in str(error.value)
    assert len(str(error.value)) < 1000
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("value", ["010", "0x10", "0o17", "1_000", "1:30", "1e-05", "1e5", ".5", "yes", "2020-01-01"])
def test_value_is_read_as_dvc_reads_it(value):
    text = f"seed: {value}\n"
    assert strict_yaml.load(text) == parse_yaml(text, "params.yaml")


def test_number_that_dvc_writes_is_read_as_a_number(tmp_path):
    assert loaded(tmp_path, "\ufefflr: 1e-05\na: 1e5\nb: -2.5E+3\nc: 0\nd: &d [1]\ne: *d\nf: .5\n") == {
        **{"lr": 1e-05, "a": 1e5, "b": -2500.0, "c": 0, "d": [1], "e": [1], "f": 0.5}
    }


def test_error_stays_short_whatever_aliases_stand_for(params, tmp_path):
    laughs = loaded(tmp_path, "".join(LAUGHS.splitlines(keepends=True)[:5]))
    for path in ("model", "model.frames", "dataset", "zoo", "train.crop_area", "machine.workers", "limit"):
        with pytest.raises(resolve.ConfigError) as error:
            resolve.resolve(changed(params, path, laughs["a4"]))
        assert len(str(error.value)) < 500


def written(resolved, folder, spoil=lambda text: text) -> dict:
    """By the path of each configuration below `folder`, what reads it from there, as the stages do."""
    kinds, readers = {stage: kind for kind, stage in schema.ROW_FILES.items()}, {}
    for name, config in resolved.files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(spoil(files.dump(config)))
        read_row = functools.partial(files.read_row, folder, path.parent.name, kinds.get(path.stem))
        readers[name] = functools.partial(files.read_data, path) if name == "data.json" else read_row
    return readers


@pytest.mark.parametrize(
    "spoil", [lambda t: t[: len(t) // 2], lambda t: t.replace('"dataset": "motion"', '"dataset": 0'), lambda _: ""]
)
def test_configuration_spoilt_by_hand_is_named_with_the_way_out(params, tmp_path, spoil):
    for name, read in written(resolve.resolve(params), tmp_path, spoil).items():
        with pytest.raises(resolve.ConfigError, match=rf"{re.escape(name)}: .*; run `dvc repro --force resolve`"):
            read()


def test_row_without_a_configuration_is_named_with_those_that_have_one(params, tmp_path):
    with pytest.raises(resolve.ConfigError, match="no row 'x'; run `dvc repro resolve` first"):
        files.read_row(tmp_path, "x", schema.RowConfig)
    written(resolve.resolve(params), tmp_path)
    with pytest.raises(resolve.ConfigError, match="no row 'x'; there are custom, r2plus1d_r34_32x2x1"):
        files.read_row(tmp_path, "x", schema.RowConfig)


def test_parameters_spoilt_between_two_stages_are_refused(params):
    for value in (1, None, [], {}, {"workers": 1}):
        with pytest.raises(resolve.ConfigError, match="machine"):
            files.machine(changed(params, "machine", value))
    del params["dataset"]  # of what the other sections say, it reads nothing
    with pytest.raises(resolve.ConfigError, match=r"machine\.workers is 'many'"):
        files.machine(changed(params, "machine.workers", "many"))
    del params["machine"]
    with pytest.raises(resolve.ConfigError, match="machine is None"):
        files.machine(params)


def test_configuration_is_the_same_after_its_way_through_the_file(params, tmp_path):
    resolved = resolve.resolve(params)
    readers, configs = written(resolved, tmp_path), resolved.files()
    assert len(readers) == 1 + len(schema.ROW_FILES) * len(params["zoo"])
    for name, read in readers.items():
        assert read() == configs[name]


def test_rows_that_are_trained_with_one_frame_are_those_of_the_dataset_or_the_section(params):
    def trained(params: dict) -> set[str]:
        files = resolve.resolve(params).files()
        return {name.split("/")[0] for name, config in files.items() if "one_frame" in name and config.of is not None}

    assert trained(params) == {"custom"}
    assert trained(changed(params, "baselines.one_frame", "none")) == set()
    assert trained(changed(params, "baselines.one_frame", "all")) == set(params["zoo"])
    given = changed(changed(params, "baselines.one_frame", "all"), "model.checkpoint", "https://host/w.pth")
    assert "custom" not in trained(given)
    with pytest.raises(resolve.ConfigError, match=r"baselines\.one_frame is 'some'"):
        resolve.resolve(changed(params, "baselines.one_frame", "some"))
    one = resolve.resolve(params).files()["custom/one_frame.json"].of
    assert (one.clip.frames, one.clip.frame_interval) == (1, 1)
    row = resolve.resolve(params).files()["custom/test.json"]
    assert one.train == row.train
    assert (one.test.clips, one.test.crops) == (10, 3)


def test_views_of_the_benchmark_and_of_one_frame_are_their_own_whatever_the_test_says(params):
    for key, value in (("clips", 2), ("crops", 1), ("average_clips", "score"), ("keep_views", True)):
        params = changed(params, f"test.{key}", value)
    found = resolve.resolve(params).files()
    row, timed, one = (found[f"custom/{name}.json"] for name in ("test", "benchmark", "one_frame"))
    assert (row.test.clips, row.test.crops, row.test.average_clips, row.test.keep_views) == (2, 1, "score", True)
    assert (timed.test.clips, timed.test.crops, timed.test.average_clips) == (10, 3, "prob")
    own = one.of.test
    assert (own.clips, own.crops, own.average_clips, own.keep_views) == (10, 3, "prob", False)


def test_row_s_configuration_is_free_of_workers_and_machines(params):
    before = resolve.resolve(params)
    elsewhere = changed(params, "machine.scheduler", "tcp://host:8786")
    assert resolve.resolve(elsewhere) == before
    assert (files.machine(params).scheduler, files.machine(elsewhere).scheduler) == (None, "tcp://host:8786")
    for key in ("workers", "connections"):
        assert resolve.resolve(changed(params, f"machine.{key}", 7)) == before
    assert files.machine(params).readers is None
    assert files.machine(changed(params, "machine.workers", 7)).readers == 7


LISTS = {"path": "/somewhere", "source.val": "val.txt"}


@pytest.mark.parametrize("dataset", ["motion", "folder", "lists"])
@pytest.mark.parametrize(("key", "value"), [("classes", 2), ("videos_per_class", 1), ("splits", ["val"])])
def test_limit_of_a_dataset_that_is_not_downloaded_is_refused(params, dataset, key, value):
    params = changed(params, "dataset", dataset)
    for place, given in LISTS.items():
        params = changed(params, f"datasets.lists.{place}", given)
    assert resolve.resolve(params).data.dataset == dataset
    with pytest.raises(resolve.ConfigError, match=f"limit: dataset {dataset} is not downloaded"):
        resolve.resolve(changed(params, f"limit.{key}", value))


@pytest.mark.parametrize("dataset", ["kinetics400", "kinetics600", "kinetics700", "ucf101", "hmdb51"])
def test_limit_reaches_every_dataset_that_is_downloaded(params, dataset):
    params = changed(changed(params, "dataset", dataset), "limit.classes", 2)
    assert resolve.resolve(params).data.source.limit == schema.Limit(classes=2, splits=["train", "val"])
    with pytest.raises(resolve.ConfigError, match="a limit stands once, in the section `limit`"):
        resolve.resolve(changed(params, f"datasets.{dataset}.source.limit", {"classes": 2}))


CLIP = {"input": "frames", "short_side": 256, "frames": 8, "frame_interval": 8}


def test_row_that_says_only_its_clips_takes_the_rest_from_the_recipe(params):
    params = changed(changed(params, "dataset", "kinetics400"), "zoo.own", dict(CLIP))
    row = rows(params)["own"]
    assert row.checkpoint is None
    assert row.train.videos_per_gpu == params["recipe"]["train"]["videos_per_gpu"]
    assert row.model.model_dump() == params["recipe"]["model"]
    del params["zoo"]["own"]["frames"]
    with pytest.raises(resolve.ConfigError, match=r"zoo\.own\.frames is missing"):
        resolve.resolve(params)


def test_row_has_the_depth_convolution_and_width_that_it_asks_for(params):
    own = CLIP | {"depth": 50, "conv": "r3d", "width": 32}
    params = changed(params, "zoo.own", own)
    model = rows(params)["own"].model
    assert (model.depth, model.conv, model.width) == (50, "r3d", 4), "the width before it is scaled by 0.125"
    with pytest.raises(resolve.ConfigError, match=r"zoo\.own\.conv is 'r4d'"):
        resolve.resolve(changed(params, "zoo.own.conv", "r4d"))


def test_runtime_and_scale_at_the_top_have_the_last_word_over_the_dataset_s(params):
    for section, key, theirs, ours in (
        ("runtime", "device", "cpu", "cuda"),
        ("runtime", "threads", 3, 5),
        ("scale", "resolution", 0.5, 0.125),
        ("scale", "width", 0.5, 0.25),
        ("scale", "depth", 18, 50),
    ):
        own = changed(params, f"datasets.motion.{section}.{key}", theirs)
        for top, expected in ((None, theirs), (ours, ours)):
            found = rows(changed(own, f"{section}.{key}", top))
            assert {getattr(getattr(row, section), key) for row in found.values()} == {expected}


@pytest.mark.parametrize(("key", "value"), [("gpus", 2), ("lowered", True)])
def test_runtime_that_a_dataset_cannot_decide_is_refused_there(params, key, value):
    with pytest.raises(resolve.ConfigError, match=rf"datasets\.motion\.runtime: unknown key '{key}'"):
        resolve.resolve(changed(params, f"datasets.motion.runtime.{key}", value))


def test_runtime_and_scale_that_nobody_gives_are_any_machine_and_full_size(params):
    for section in ("runtime", "scale"):
        params = changed(params, section, dict.fromkeys(params[section]))
        del params["datasets"]["motion"][section]
    for row in rows(params).values():
        assert row.runtime == schema.Runtime(device="auto", gpus=1, threads=None, lowered="auto", arithmetic="native")
        assert row.scale == schema.Scale(resolution=1.0, width=1.0, depth=None)


@pytest.mark.parametrize(
    ("dataset", "expected"), [("motion", "exact"), ("folder", "native"), ("kinetics400", "native")]
)
def test_motion_is_computed_exactly_and_other_datasets_in_the_hardware_s_own_arithmetic(params, dataset, expected):
    for row in rows(changed(params, "dataset", dataset)).values():
        assert (row.runtime.arithmetic, row.inference) == (expected, expected)
    last = rows(changed(changed(params, "dataset", dataset), "runtime.arithmetic", "half"))
    assert {(row.runtime.arithmetic, row.inference) for row in last.values()} == {("half", "half")}


def test_another_arithmetic_of_the_test_trains_nothing_anew(params):
    before = resolve.resolve(params).files()
    after = resolve.resolve(changed(params, "runtime.inference", "half")).files()
    stages = {name.split("/")[-1] for name in before if before[name] != after[name]}
    assert stages == {"test.json", "benchmark.json"}
    tested, timed = after["custom/test.json"], after["custom/benchmark.json"]
    assert (tested.runtime.arithmetic, timed.runtime.arithmetic, timed.inference) == ("half", "exact", "half")


@pytest.mark.parametrize("key", ["runtime.arithmetic", "runtime.inference", "datasets.motion.runtime.inference"])
def test_arithmetic_that_is_none_is_named_with_those_there_are(params, key):
    with pytest.raises(resolve.ConfigError, match=rf"{re.escape(key)} is 'fast': input should be 'exact', 'native' or"):
        resolve.resolve(changed(params, key, "fast"))


def test_frames_of_weights_that_are_only_tested_are_made_on_the_fly(params):
    params = changed(params, "model.checkpoint", "https://host/w.pth")
    found = resolve.resolve(params)
    storage = {row.row: row.clip.storage for row in found.rows}
    assert storage.pop(schema.CUSTOM) == "on_the_fly"
    assert set(storage.values()) == {"packed"}
    assert found.files()["custom/extract_frames.json"].input == "video", "frames would be packed"
    assert rows(changed(params, "model.storage", "packed"))[schema.CUSTOM].clip.storage == "packed"


def test_frames_on_the_fly_are_refused_where_none_are_made(params):
    given = changed(changed(params, "model.input", "video"), "model.storage", "on_the_fly")
    with pytest.raises(resolve.ConfigError, match=r"model\.storage is on_the_fly, and this row reads videos: leave it"):
        resolve.resolve(given)
    given = changed(changed(params, "model.storage", "on_the_fly"), "dataset", "lists")
    for key, value in (("path", "frames"), ("source.val", "val.txt"), ("source.content", "frames")):
        given = changed(given, f"datasets.lists.{key}", value)
    with pytest.raises(resolve.ConfigError, match=r"storage is on_the_fly, and the frames are there already"):
        resolve.resolve(given)
