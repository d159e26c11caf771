"""params.yaml: what is inherited, what is scaled, what is refused and in which words."""

import copy

import pytest

from r2plus1d import config

RATES = (0.1, 0.2, 0.1, 0.075)  # of the published rows, on 8 GPUs


def rows(params) -> dict:
    return {row.row: row for row in config.resolve(params)[1]}


def changed(params: dict, path: str, value) -> dict:
    params = copy.deepcopy(params)
    *parents, last = path.split(".")
    place = params
    for key in parents:
        place = place[key]
    place[last] = value
    return params


def test_zoo_row_follows_the_user_s_own_sections(params):
    before = rows(params)
    params = changed(params, "model.frames", 32)
    params = changed(params, "train.lr", 0.5)
    params = changed(params, "test.clips", 1)
    after = rows(params)
    assert {name for name in before if before[name] != after[name]} == {config.CUSTOM}


def test_custom_row_does_not_span_64_frames(params):
    for frames, interval in ((8, 8), (16, 4), (32, 2), (64, 1), (128, 1)):
        clip = rows(changed(params, "model.frames", frames))[config.CUSTOM].clip
        assert (clip.frames, clip.frame_interval) == (frames, interval)


def test_depth_asked_for_is_scaled_away(params):
    params = changed(params, "datasets.motion.scale.depth", 10)
    assert {row.model.depth for row in rows(params).values()} == {10}
    asked = rows(changed(params, "model.depth", 50))
    assert asked.pop(config.CUSTOM).model.depth == 50
    assert {row.model.depth for row in asked.values()} == {10}


def test_learning_rates_do_not_follow_the_linear_scaling_rule(params):
    params = changed(params, "dataset", "kinetics400")
    for gpus in (1, 8):
        params = changed(params, "datasets.kinetics400.runtime.gpus", gpus)
        zoo = config.resolve(params)[1][:4]
        assert [row.learning_rate for row in zoo] == pytest.approx([rate * gpus / 8 for rate in RATES], rel=1e-12)
        assert [row.videos_per_step for row in zoo] == [videos * gpus for videos in (8, 16, 8, 6)]


def test_full_scale_is_not_the_published_model(params):
    row = rows(changed(params, "dataset", "kinetics400"))["r2plus1d_r34_32x2x1_180e_kinetics400_rgb"]
    assert (row.model.depth, row.model.width, row.clip.short_side) == (34, 64, 320)
    assert (row.train.resize, row.train.crop, row.test.resize, row.test.crop) == (256, 224, 256, 256)
    assert (row.train.epochs, row.train.dropout, row.train.crop_area) == (180, 0.5, [0.08, 1.0])


def test_quarter_scale_does_not_shrink_every_row_alike(params):
    for row in rows(params).values():
        assert (row.train.resize, row.train.crop, row.test.crop) == (64, 56, 64)
        assert row.model.width == 8
        assert row.clip.short_side == {"256p": 64, "320p": 80}[row.frames]


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
        ("datasets.motion.runtime.gpus", 0, "datasets.motion.runtime.gpus is 0"),
        ("datasets.kinetics400.train.gpus", 8, "unknown key 'gpus'"),
        ("datasets.motion.runtime.workers", -1, "number of processes, 0 or more, or auto"),
        ("datasets.motion.runtime.scheduler", "host:8786", "expected such as tcp://host:8786, or null"),
        ("datasets.motion.source.kind", "files", "there are motion, folder, lists, kinetics, ucf101, hmdb51"),
        ("zoo.custom", {}, "choose another"),
        ("model", None, "expected keys with values"),
    ],
)
def test_wrong_parameter_is_accepted_or_its_error_names_no_way_out(params, path, value, words):
    with pytest.raises(config.ConfigError) as error:
        config.resolve(changed(params, path, value))
    assert words in str(error.value)


def test_missing_parameter_is_accepted(params):
    del params["model"]["frames"]
    with pytest.raises(config.ConfigError, match=r"model\.frames is missing"):
        config.resolve(params)


def test_yaml_tags_in_params_run_code(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/hit']\n")
    with pytest.raises(config.ConfigError, match=r"params\.yaml"):
        config.read_params(path)
    assert not (tmp_path / "hit").exists()


def test_configuration_changes_on_its_way_through_the_file(params, tmp_path):
    for row in config.resolve(params)[1]:
        (tmp_path / "row.json").write_text(config.dump(row))
        assert config.read_row(tmp_path / "row.json") == row


def test_number_of_workers_or_machines_enters_a_row_s_configuration(params):
    before = config.resolve(params)
    elsewhere = changed(params, "datasets.motion.runtime.scheduler", "tcp://host:8786")
    assert config.resolve(elsewhere) == before
    assert (config.scheduler(params), config.scheduler(elsewhere)) == (None, "tcp://host:8786")
    assert config.resolve(changed(params, "datasets.motion.runtime.workers", 7)) == before
    assert config.workers(changed(params, "datasets.motion.runtime.workers", 7)) == 7
