"""A running training as files for others: they follow the log, change no byte, and go when it is over."""

import builtins
import json
import os
import types

import pandas as pd
import pytest
import torch

from r2plus1d.config.schema import CUSTOM, RowConfig
from r2plus1d.results.logs import read_log
from r2plus1d.system import paths
from r2plus1d.system.errors import ConfigError
from r2plus1d.zoo import live, training
from r2plus1d.zoo.live import Live
from r2plus1d.zoo.rows import open_row
from tests.support.commands import commit_all, copy_of, dvc, git

TRAIN = {"mode": "train", "epoch": 2, "iter": 3, "lr": 0.1, "loss": 1.5, "top1_acc": 0.25}
VAL = {"mode": "val", "epoch": 2, "iter": 12, "lr": 0.1, "top1_acc": 0.5}


@pytest.fixture
def row(project, monkeypatch):
    """The row `custom` of a tiny project of the test's own, trained for three epochs."""
    monkeypatch.chdir(project.folder)
    row = open_row(CUSTOM, RowConfig)
    values = {"epochs": 3, "videos_per_gpu": 4, "crop": 16, "val_interval": 2}
    config = row.config.model_copy(
        update={
            "train": row.config.train.model_copy(update=values),
            "model": row.config.model.model_copy(update={"depth": 10, "width": 4}),
            "clip": row.config.clip.model_copy(update={"frames": 4}),
        }
    )
    return types.SimpleNamespace(config=config, classes=row.classes, splits=row.splits, reader=row.reader)


def train(row, work, kind="dvclive"):
    return training.Training(row.config, row.splits, row.reader, row.classes, work, 0, print, kind).run()


def history(name: str) -> dict[str, list]:
    return pd.read_csv(paths.live(CUSTOM) / "plots" / "metrics" / f"{name}.tsv", sep="\t").to_dict("list")


def interrupted_after(epoch: int, monkeypatch) -> None:
    save = training.Training.save

    def save_and_end(self, number):
        save(self, number)
        if number + 1 == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "save", save_and_end)


def test_training_gives_the_same_bytes_whoever_looks_on(row, tmp_path):
    plain, _ = train(row, tmp_path / "plain", "none")
    shown, _ = train(row, tmp_path / "shown")
    assert all(torch.equal(tensor, shown.state_dict()[name]) for name, tensor in plain.state_dict().items())
    live.clear(CUSTOM)
    assert not paths.live(CUSTOM).parent.exists()


def test_disk_that_refuses_the_files_ends_no_training(row, tmp_path, capsys):
    (tmp_path / "project" / "live").write_text("a file")
    train(row, tmp_path / "work")
    assert capsys.readouterr().out.count("live/custom cannot be written, so nobody sees the training run") == 1


def test_files_follow_the_log_also_after_an_interruption(row, tmp_path, monkeypatch):
    interrupted_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(row, tmp_path / "work")
    first = history("train/loss")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "project")
    interrupted_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(row, tmp_path / "work")
    state = torch.load(tmp_path / "work" / training.STATE, weights_only=True)
    entries = [entry for entry in json.loads(state["entries"]) if entry["mode"] == "train"]
    per_epoch = -(-len(row.splits["train"]) // 4)
    shown = history("train/loss")
    assert shown["loss"] == [entry["loss"] for entry in entries]
    assert shown["step"] == [(entry["epoch"] - 1) * per_epoch + entry["iter"] for entry in entries]
    assert shown["loss"][: len(first["loss"])] == first["loss"]
    assert history("val/top1_acc")["step"] == [2 * per_epoch, 3 * per_epoch]
    latest = json.loads((paths.live(CUSTOM) / "metrics.json").read_text())
    assert (latest["epoch"], latest["train"]["loss"]) == (3, entries[-1]["loss"])


def test_log_of_a_running_training_has_the_finished_epochs_and_their_times(row, tmp_path, monkeypatch):
    """Beside its state, in the form that `compare-log` takes; what looks on gets the times at once."""
    for epoch in (1, 2):
        interrupted_after(epoch, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            train(row, tmp_path / "work")
        log = read_log(tmp_path / "work").train
        assert list(log["epoch"].unique()) == list(range(1, epoch + 1))
        entries = map(json.loads, (tmp_path / "work" / training.SO_FAR).read_text().splitlines())
        latest = [entry for entry in entries if entry["mode"] == "train"][-1]
        shown = json.loads((paths.live(CUSTOM) / "metrics.json").read_text())["train"]
        assert {key: latest[key] for key in ("loss", "memory", "data_time", "time")}.items() <= shown.items()
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path / "project")


@pytest.mark.slow
def test_dvc_shows_a_running_training_and_keeps_it_out_of_results(committed, tmp_path, monkeypatch):
    project = copy_of(committed, tmp_path / "project")
    monkeypatch.chdir(project.folder)
    running = Live("dvclive", CUSTOM, 10)
    running.add(TRAIN)
    running.add(VAL)
    (shown,) = json.loads(dvc(project, "metrics", "show", "--json")).values()
    assert shown["data"]["live/custom/metrics.json"]["data"] == {
        "epoch": 2,
        "train": {"lr": 0.1, "loss": 1.5, "top1_acc": 0.25},
        "val": {"lr": 0.1, "top1_acc": 0.5},
        "step": 20,
    }
    workspace = json.loads(dvc(project, "exp", "show", "--json"))[0]["data"]
    assert workspace["metrics"]["live/custom/metrics.json"]["data"]["train"]["loss"] == 1.5
    plots = json.loads(dvc(project, "plots", "show", "--json", "live/custom/plots/metrics/train/loss.tsv"))
    assert "live/custom/plots/metrics/train/loss.tsv" in plots["data"]
    assert dvc(project, "status", "--quiet") == ""  # or an error: nothing is to be run
    commit_all(copy_of(project, tmp_path / "as the user would see it"))
    live.clear(CUSTOM)
    assert git(project, "status", "--porcelain") == ""


def test_nothing_is_sent_to_dvc_studio(row, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "token")
    monkeypatch.setenv("DVC_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("DVC_STUDIO_OFFLINE", raising=False)
    import dvclive.studio  # noqa: PLC0415

    monkeypatch.setattr(dvclive.studio, "post_live_metrics", lambda *_, **__: pytest.fail("sent"))
    train(row, tmp_path / "work")
    os.environ.pop("DVC_STUDIO_OFFLINE")


def test_missing_tensorboard_is_told_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"machine.live is tensorboard, which is not installed; pip install"):
        Live("tensorboard", CUSTOM, 10)


def test_tensorboard_gets_the_entries_at_their_steps(monkeypatch, tmp_path):
    written = []

    class Writer:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def flush(self):
            written.append("flush")

    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", module)
    Live("tensorboard", CUSTOM, 10).add(VAL)
    assert written == ["logs/tensorboard/custom", ("val/lr", 0.1, 20), ("val/top1_acc", 0.5, 20), "flush"]
