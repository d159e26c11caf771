"""The command `r2plus1d finetune`: one row on a folder of one's own videos, and errors that say what to do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from r2plus1d.config import files, schema
from r2plus1d.config.schema import CUSTOM
from r2plus1d.datasets import folder, motion
from r2plus1d.datasets.encode import write_h264
from r2plus1d.datasets.fetch import FetchError
from r2plus1d.datasets.manifest import DataError, Found, read_table, write_table
from r2plus1d.model.checkpoint import save
from r2plus1d.model.network import build
from r2plus1d.system import paths
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import BusyError, held, sha256
from r2plus1d.system.git import GitError, git
from r2plus1d.zoo import finetune, weights
from tests.support.commands import r2plus1d, ran
from tests.support.networks import as_trained, to_torchvision
from tests.support.project import ROOT, Project, tiniest_params
from tests.support.server import serving

ODD = "mes vidéos [2024], 'été' \"x\" $HOME #1"  # a folder's name


def videos(folder):
    """Two classes of four short videos."""
    for number, label in enumerate(("falling", "pull ups")):
        (folder / label).mkdir(parents=True)
        for i in range(4):
            write_h264(folder / label / f"é {i}.mp4", motion.render(number, i, 1, 0, 64)[:24], motion.FPS)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with params.yaml and the published figures, and nothing that could run."""
    folder = tmp_path / "project"
    (folder / "metrics").mkdir(parents=True)
    for name in (paths.PARAMS, paths.PUBLISHED):
        shutil.copy(ROOT / name, folder / name)
    monkeypatch.chdir(folder)
    git("init", "--quiet")
    monkeypatch.setattr(finetune, "_run", lambda settings: None)
    return folder


def test_folder_without_labels_is_answered_with_the_layout_and_changes_nothing(here, tmp_path):
    before = (here / paths.PARAMS).read_bytes()
    mine = videos(tmp_path / "mine") / "falling"
    with pytest.raises(
        DataError, match=r"videos of 0 classes .*That is .*/falling/CLASS/VIDEO\.mp4, or .*/train/CLASS"
    ):
        finetune.finetune(mine, "none", [])
    with pytest.raises(DataError, match="rename the folder"):
        finetune.finetune(videos(tmp_path / "a ${HOME}"), "none", [])
    with pytest.raises(DataError, match="no such folder"):
        finetune.finetune(tmp_path / "gone", "none", [])
    assert (here / paths.PARAMS).read_bytes() == before


def test_weights_that_cannot_be_fetched_are_answered_with_both_ways_on(here, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(weights.torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with serving(tmp_path) as address, pytest.raises(FetchError) as error:
        finetune.finetune(videos(tmp_path / "mine"), f"{address}/gone.pth", [])
    assert "fetch the file yourself and give its path with --init, or start from nothing with --init none" in str(
        error.value
    )
    assert "\n" not in str(error.value)


def test_params_get_what_is_needed_keep_their_comments_and_stay_the_second_time(here, tmp_path, capsys):
    before = (here / paths.PARAMS).read_text()
    mine = videos(tmp_path / ODD)
    finetune.finetune(mine, "none", [])
    first = (here / paths.PARAMS).read_text()
    params = files.read_params(here / paths.PARAMS)
    assert (params["dataset"], params["datasets"]["folder"]["path"]) == ("folder", str(mine))
    assert (params["zoo"], params["model"]["init"]) == ({CUSTOM: "model"}, None)
    said = capsys.readouterr().out
    assert "8 videos of 2 classes: falling, pull ups" in said
    assert "zoo: custom alone; params.before.yaml is the file as it was" in said
    assert (here / "params.before.yaml").read_text() == before
    head = before[: before.index("\nzoo:")]
    changed = [pair for pair in zip(head.splitlines(), first.splitlines(), strict=False) if pair[0] != pair[1]]
    assert len(changed) == 2, "dataset and path, each with its comment"
    assert changed[0][1].endswith("# which entry of `datasets` to run")
    finetune.finetune(mine, "none", [])
    assert (here / paths.PARAMS).read_text() == first
    assert "params.yaml" not in capsys.readouterr().out


def test_second_call_at_the_same_time_changes_nothing(here, tmp_path):
    mine, before = videos(tmp_path / "mine"), (here / paths.PARAMS).read_bytes()
    with held(paths.lock("finetune", None), "the first"), pytest.raises(BusyError, match="r2plus1d finetune is busy"):
        finetune.finetune(mine, "none", [])
    assert (here / paths.PARAMS).read_bytes() == before


def test_copy_without_git_is_answered_before_anything_is_written(here, tmp_path):
    mine, before = videos(tmp_path / "mine"), (here / paths.PARAMS).read_bytes()
    shutil.rmtree(here / ".git")
    with pytest.raises(GitError, match=r"Of a copy without \.git, make one: git init"):
        finetune.finetune(mine, "none", [])
    assert (here / paths.PARAMS).read_bytes() == before


def test_last_layer_alone_is_trained_without_a_gpu_unless_told_otherwise(here, tmp_path, monkeypatch):
    mine = videos(tmp_path / "mine")
    torch.save(to_torchvision(build(depth=10, width=4, family="ig65m").state_dict()), tmp_path / "any.pth")
    for gpu, init, settings, expected in (
        (True, "any.pth", [], None),
        (False, "any.pth", ["train.freeze=2"], None),  # what -S says comes after it
        (False, "any.pth", [], "all"),
        (False, "none", [], None),
    ):
        monkeypatch.setattr(finetune, "_gpu", lambda _, gpu=gpu: gpu)
        finetune.finetune(mine, init if init == "none" else str(tmp_path / init), settings)
        assert files.read_params(here / paths.PARAMS)["train"]["freeze"] == expected


@pytest.mark.parametrize(
    ("init", "settings", "words"),
    [
        ("torchvison", [], "did you mean 'torchvision'"),
        ("row:base", [], "no such row; there are custom"),
        ("gone.pth", [], "model.init is 'gone.pth': there is no such file"),
        ("torchvision", ["model.conv=r2d"], "torchvision has no weights of conv r2d"),
        ("none", ["train.epoch=3"], r"-S train.epoch=3: params.yaml has no train.epoch; did you mean 'train.epochs'\?"),
        ("none", ["+train.epoch=3"], r"train: unknown key 'epoch': did you mean 'epochs'\?"),
        ("none", ["params.yaml:train.epoch=3"], r"params.yaml has no train.epoch; did you mean 'train.epochs'\?"),
        ("none", ["limit.splits.9=val"], "params.yaml has no limit.splits.9; splits has no keys"),
        ("none", ["trian.epochs=3"], r"params.yaml has no trian; did you mean 'train'\?"),
        ("none", ["seed.of=3"], "params.yaml has no seed.of; seed has no keys"),
        ("none", ["train.epochs"], "-S 'train.epochs': expected KEY=VALUE, such as train.epochs=20"),
        ("none", ["=3"], "-S '=3': expected KEY=VALUE"),
        ("none", ["datasets.folder.source.group=[(]"], r"group.*'\(' is no regular expression|group"),
    ],
)
def test_weights_that_cannot_be_leave_params_as_they_are(here, tmp_path, init, settings, words):
    before = (here / paths.PARAMS).read_bytes()
    with pytest.raises(UserError, match=words):
        finetune.finetune(videos(tmp_path / "mine"), init, settings)
    assert (here / paths.PARAMS).read_bytes() == before
    assert not (here / "params.before.yaml").exists()


def test_published_weights_are_found_though_the_zoo_has_one_row(here, tmp_path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(finetune, "_file_of", asked.append)
    mine = videos(tmp_path / "mine")
    for _ in range(2):
        finetune.finetune(mine, "published", ["model.frames=32"])
    assert [address.rpartition("-")[2] for address in asked] == ["63462eb3.pth"] * 2


@pytest.mark.parametrize("init", ["row:custom", "custom", "models/custom", "models/custom/model.safetensors"])
def test_training_may_start_from_what_the_row_was_trained_to_before(here, tmp_path, monkeypatch, init, capsys):
    """From a copy, since DVC removes the row's own weights before it trains; interrupted, the same command goes on."""
    own = here / paths.weights(CUSTOM)
    save(build(depth=10, width=4, num_classes=2), own)
    content, mine = own.read_bytes(), videos(tmp_path / "mine")
    monkeypatch.setattr(finetune, "_run", lambda settings: own.unlink(missing_ok=True))
    for _ in range(2):
        finetune.finetune(mine, init, [])
        start = files.read_params(here / paths.PARAMS)["model"]["init"]
        assert start.startswith("downloads/weights/custom-")
        assert (here / start).read_bytes() == content
    assert f"starting from {start} again" in capsys.readouterr().out
    save(build(depth=10, width=4, num_classes=2), own)  # the training ended
    write_table(paths.scan("folder"), folder.scan(str(mine)), Found)
    finetune.finetune(mine, init, [])
    assert files.read_params(here / paths.PARAMS)["model"]["init"] == start, "the same command does nothing"
    save(build(depth=10, width=4, num_classes=2), own)
    content = own.read_bytes()
    shutil.copy(mine / "falling" / "é 0.mp4", mine / "falling" / "é 1.mp4")  # another cut of the same name
    finetune.finetune(mine, init, [])
    start = files.read_params(here / paths.PARAMS)["model"]["init"]
    assert (here / start).read_bytes() == content, "with other videos it goes on from what it was trained to since"
    finetune.finetune(mine, "none", [])
    with pytest.raises(UserError, match=f"--init {init}: the row is not trained, there is no models/custom/model"):
        finetune.finetune(mine, init, [])


def test_file_of_weights_that_was_overwritten_is_another_start(here, tmp_path, capsys):
    file, mine = tmp_path / "w" / "theirs.safetensors", videos(tmp_path / "mine")
    starts = []
    for number in (0, 0, 1, 0):
        torch.manual_seed(number)
        save(build(depth=10, width=4, num_classes=2), file)
        finetune.finetune(mine, str(file), [])
        starts.append(files.read_params(here / paths.PARAMS)["model"]["init"])
        assert (here / starts[-1]).read_bytes() == file.read_bytes()
        assert Path(starts[-1]).parent == here / "downloads" / "weights" / "given"
        assert f", a copy of {file}" in capsys.readouterr().out
    assert starts[0] == starts[1] == starts[3] != starts[2]
    finetune.finetune(mine, starts[2], [])
    assert files.read_params(here / paths.PARAMS)["model"]["init"] == starts[2], "of a copy there is no copy"
    shutil.copy(file, here / f"{'n' * 240}.safetensors")
    finetune.finetune(mine, f"{'n' * 240}.safetensors", [])
    start = files.read_params(here / paths.PARAMS)["model"]["init"]
    assert start == f"downloads/weights/given/{'n' * 100}-{sha256(file)[:12]}.safetensors"


def test_settings_that_stay_from_an_earlier_call_are_told(here, tmp_path, capsys):
    git("add", str(paths.PARAMS))
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "as it came")
    text = (here / paths.PARAMS).read_text().replace("  epochs: null\n", "  epochs: 60\n", 1)
    (here / paths.PARAMS).write_text(text.replace("  frames: 16 ", "  frames: 32 "))
    finetune.finetune(videos(tmp_path / "mine"), "none", [])
    told = "params.yaml has from before: model.frames: 32 (committed: 16); train.epochs: 60 (committed: null)"
    assert told in capsys.readouterr().out
    finetune.finetune(tmp_path / "mine", "none", ["params.yaml:train.epochs=20", "+model.frames=16"])
    assert "from before" not in capsys.readouterr().out


def test_setting_may_add_a_row(here, tmp_path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(finetune, "_file_of", asked.append)
    row = "{input: frames, short_side: 256, frames: 32, frame_interval: 2}"
    finetune.finetune(videos(tmp_path / "mine"), "published", ["model.frames=32", f"+zoo.mine={row}"])
    assert len(asked) == 1  # of `custom`


def with_weights(own, tmp_path, params) -> Project:
    """A project under DVC whose folder dataset is tiny, next to torchvision's kind of weights, theirs.pth."""
    params["datasets"]["folder"] |= {
        "scale": params["datasets"]["motion"]["scale"],
        "runtime": {"device": "cpu", "threads": 1},
    }
    params["finetune"] |= {"epochs": 2}
    own.set(params)
    torch.manual_seed(0)
    start = as_trained(build(depth=10, width=4, num_classes=3, family="torchvision"))
    torch.save(to_torchvision(start.state_dict()), tmp_path / "theirs.pth")
    return own


@pytest.mark.slow
def test_finetune_trains_one_row_on_odd_paths_and_does_nothing_the_second_time(own, tmp_path):
    params = tiniest_params()
    params["zoo"]["other"] = {"input": "frames", "short_side": 256, "frames": 4, "frame_interval": 2}
    project = with_weights(own, tmp_path, params)
    command = ("finetune", str(videos(tmp_path / ODD)), "--init", str(tmp_path / "theirs.pth"), "-S", "seed=3")
    done = r2plus1d(project, *command)
    assert done.returncode == 0, done.stderr + done.stdout
    assert {f"{stage}@{CUSTOM}" for stage in ("features", "one_frame", "train", "test", "benchmark")} <= set(
        ran(done.stdout)
    )
    assert (project.folder / "data/folder/features/custom/features.safetensors").is_file()
    assert not [stage for stage in ran(done.stdout) if stage.endswith("@other")]
    assert "a new last layer for 2 classes" in done.stdout
    name = f"theirs-{sha256(tmp_path / 'theirs.pth')[:12]}.pth"
    assert f" (from {name})" in (project.folder / "README.md").read_text()
    assert "model   models/custom/model.safetensors; in Python: r2plus1d.load('custom')" in done.stdout
    assert yaml.safe_load((project.folder / "params.yaml").read_text())["seed"] == 3
    again = r2plus1d(project, *command)
    assert again.returncode == 0, again.stderr
    assert ran(again.stdout) == []
    table = again.stdout[again.stdout.index("On the same videos so far:") :].splitlines()[2:]
    assert [line.split(" | ")[:3] for line in table] == [
        ["| trained", "started from", "clip"],
        ["| ---", "---", "---"],
        ["| last layer", name, "4x2"],
    ]
    scratch = r2plus1d(project, "finetune", command[1], "--init", "none")
    assert scratch.returncode == 0, scratch.stderr + scratch.stdout
    assert [line.split(" | ")[0] for line in scratch.stdout.splitlines()[-2:]] == ["| last layer", "| from scratch"]
    table = "\n".join(scratch.stdout.splitlines()[-4:])
    assert table in (project.folder / "README.md").read_text()
    page = (project.folder / paths.REPORT / "index.html").read_text()
    assert page.count("<td>last layer</td>") == page.count("<td>from scratch</td>") == 1


@pytest.mark.slow
def test_videos_in_train_val_and_test_are_measured_on_test_and_sampled_by_time(own, tmp_path):
    """With weights that want 15 frames a second, of videos of 25; and a recording that is cut in two is named."""
    mine, params = tmp_path / "mine", tiniest_params()
    for number, split in enumerate(("train", "val", "test")):
        for label in videos(mine / split).iterdir():
            for i, file in enumerate(sorted(label.iterdir())):
                write_h264(file, motion.render(number, i, len(label.name) % 4, 0, 64)[:24], motion.FPS)
    whole = motion.render(7, 0, 1, 0, 64)
    write_h264(mine / "train" / "falling" / "one.mp4", whole[:24], motion.FPS)
    write_h264(mine / "test" / "falling" / "two.mp4", whole[16:], motion.FPS)
    params["datasets"]["folder"]["baselines"]["one_frame"] = "none"
    project = with_weights(own, tmp_path, params)
    done = r2plus1d(project, "finetune", str(mine), "--init", str(tmp_path / "theirs.pth"))
    assert done.returncode == 0, done.stderr + done.stdout
    assert ") on 9 test videos; in brackets the 95% interval" in done.stdout
    coverage = json.loads((project.folder / paths.COVERAGE).read_text())
    assert [coverage[split]["readable"] for split in ("train", "val", "test")] == [9, 8, 9]
    suspected = read_table(project.folder / paths.suspected("folder"))
    assert ["train/falling/one.mp4", "test/falling/two.mp4", "test"] in suspected.iloc[:, :3].values.tolist()
    assert f"{len(suspected)} pairs of videos in different splits seem to be of one recording" in done.stdout
    config = files.read_row(project.folder / paths.CONFIGS, CUSTOM, schema.TestedRow)
    assert (config.clip.frame_rate, config.clip.frame_interval, config.test.spread) == (15.0, 2, "ends")
    rates = (project.folder / paths.lists("folder") / "frame_rates.csv").read_text().splitlines()
    assert {line.rpartition(",")[2] for line in rates[1:]} == {"25.0"}
    header = json.loads(safe_open(project.folder / paths.weights(CUSTOM), "pt").metadata()["r2plus1d"])
    assert (header["view"]["frame_rate"], header["view"]["spread"]) == (15.0, "ends")
