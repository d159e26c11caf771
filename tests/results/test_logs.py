"""The published log and result layouts, and the comparison of two trainings. The numbers are made up."""

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from r2plus1d.results import logs
from r2plus1d.system.errors import UserError
from r2plus1d.zoo import evaluation
from r2plus1d.zoo.log import Log
from tests.support.commands import console, printed

HEADER = {
    "env_info": "sys.platform: linux",
    "config": "model = dict(...)\n" * 900,
    "seed": 0,
    "exp_name": "r2plus1d.py",
}


def train(epoch: int, iteration: int, loss: float = 5.0, **other) -> dict:
    shares = {"top1_acc": 0.1 * epoch, "top5_acc": 0.12 * epoch}
    entry = {"mode": "train", "epoch": epoch, "iter": iteration, "lr": 0.1, "memory": 5019, "data_time": 0.5}
    return entry | {"loss_cls": loss, "loss": loss, **shares, "grad_norm": 1.2, "time": 1.1} | other


def val(epoch: int, top1: float, **other) -> dict:
    shares = {"top1_acc": top1, "top5_acc": top1 + 0.1, "mean_class_accuracy": top1}
    return {"mode": "val", "epoch": epoch, "iter": 20, "lr": 0.1} | shares | other


@pytest.fixture
def read(tmp_path):
    """Writes entries as a log and reads it."""

    def write_and_read(*entries, name: str = "a.log.json") -> logs.TrainingLog:
        path = tmp_path / name
        path.write_text("".join((e if isinstance(e, str) else json.dumps(e)) + "\n" for e in entries))
        return logs.read_log(path)

    return write_and_read


def test_published_log_is_read_whole_without_its_header(read):
    log = read(HEADER, train(1, 20, 5.9), train(1, 40, 5.5), val(1, 0.2), train(2, 20, 5.0))
    assert list(log.train.columns) == list(logs.TRAIN)
    assert log.train["loss"].tolist() == [5.9, 5.5, 5.0]
    assert log.train.iloc[0].to_dict() == {k: v for k, v in train(1, 20, 5.9).items() if k in logs.TRAIN}
    assert log.val.to_dict("records") == [
        {"epoch": 1, "top1_acc": 0.2, "top5_acc": pytest.approx(0.3), "mean_class_accuracy": 0.2},
    ]
    curve = log.curve()
    assert curve["train_loss"].to_dict() == pytest.approx({1: 5.7, 2: 5.0})
    assert curve["val_top1"].dropna().to_dict() == {1: 0.2}


def test_our_own_log_reads_as_training_counts_it(tmp_path):
    ours = Log()
    for epoch in (1, 2, 3):
        for iteration in (20, 40):
            entry = {k: v for k, v in train(epoch, iteration, 3.0 / epoch).items() if k not in ("loss_cls", "memory")}
            ours.add(entry, memory=900.0, data_time=0.1, time=0.2)
    ours.add(val(3, 0.5, mean_class_accuracy=0.4))
    (tmp_path / "train.log.json").write_text("".join(json.dumps(e) + "\n" for e in ours.timed))
    log = logs.read_log(tmp_path)  # a folder such as models/<row>
    read_back = log.curve().drop(columns="val_top5").round(4).reset_index()
    pd.testing.assert_frame_equal(read_back, pd.DataFrame(ours.curve()), check_index_type=False)
    assert log.train["memory"].unique() == [900.0]


def test_newer_log_without_modes_is_understood(read):
    entry = {"lr": 0.1, "data_time": 0.5, "loss": 5.0, "top1_acc": 0.1, "top5_acc": 0.2, "memory": 5019, "time": 1.0}
    tested = {"acc/top1": 0.5, "acc/top5": 0.7, "acc/mean1": 0.4, "data_time": 0.1, "time": 0.2, "step": 1}
    log = read(entry | {"epoch": 1, "iter": 20, "step": 20}, tested, entry | {"epoch": 2, "step": 40, "loss": 4.0})
    assert log.curve()["train_loss"].to_dict() == {1: 5.0, 2: 4.0}
    assert log.train["iter"].tolist() == [20, 40]
    assert log.val.values.tolist() == [[1, 0.5, 0.7, 0.4]]


def test_epochs_before_a_restart_are_counted_once(read):
    first = [train(1, 20, 5.0), train(1, 40, 5.0), val(1, 0.1), train(2, 10, 9.0), train(2, 20, 9.0), val(2, 0.9)]
    again = [train(2, 15, 4.0), train(2, 20, 3.0), val(2, 0.2), train(3, 20, 2.0)]
    log = read(HEADER, *first, HEADER, *again)
    assert log.train[["epoch", "iter", "loss"]].values.tolist() == [
        [1, 20, 5.0],
        [1, 40, 5.0],
        [2, 15, 4.0],
        [2, 20, 3.0],
        [3, 20, 2.0],
    ]
    assert log.val["top1_acc"].tolist() == [0.1, 0.2]


def test_later_of_two_entries_of_one_iteration_wins(read):
    assert read(train(1, 20, 5.0), train(1, 20, 4.0), train(1, 40, 3.0)).train["loss"].tolist() == [4.0, 3.0]


def test_validation_numbered_one_off_is_put_at_its_epoch(read):
    log = read(val(4, 0.1), train(5, 20), val(4, 0.2), train(6, 20), val(7, 0.3))
    assert dict(log.val[["epoch", "top1_acc"]].values.tolist()) == {4: 0.1, 5: 0.2, 6: 0.3}


def test_missing_field_is_left_blank_or_summed_from_its_parts(read):
    old = train(1, 20, 5.0)
    for field in ("grad_norm", "loss", "memory"):
        del old[field]
    heads = {"mode": "train", "epoch": 1, "iter": 40, "slow.loss_cls": 2.0, "fast.loss_cls": 1.0, "slow.top1_acc": 0.5}
    log = read(old, heads, {"mode": "val", "epoch": 1, "iter": 20})
    assert log.train["loss"].tolist() == [5.0, 3.0]
    assert log.train[["grad_norm", "memory"]].isna().all(axis=None)
    assert log.val[["top1_acc", "top5_acc"]].isna().all(axis=None)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "null"])
def test_value_that_is_not_finite_is_left_out_of_the_epoch(read, value):
    text = json.dumps(train(1, 20) | {"loss": "X"}).replace('"X"', value)
    log = read(text, train(1, 40, 3.0))
    assert np.isnan(log.train["loss"][0])
    assert log.curve()["train_loss"].tolist() == [3.0]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"mode": "train", "epoch": 2, "it', '\', "epoch": 2, "it'),
        ("2020-07-28 02:14:21 - mmaction - INFO", "'2020-07-28 02"),
        ("[1, 2]", r"\[1.0, 2.0\]"),
        ('"train"', "'train'"),
        ("[" * 100_000, r"b'\["),
        (train(2, 20) | {"epoch": "two"}, "epoch 'two'"),
        (train(2, 20) | {"epoch": 1.5}, "epoch 1.5"),
        (train(2, 20) | {"epoch": True}, "epoch True"),
        (train(2, 20) | {"epoch": 10**400}, "epoch inf"),
        ({"mode": "train", "loss": 1.0}, "epoch None"),
        (train(2, 20) | {"loss": "low"}, "loss 'low'"),
        (train(2, 20) | {"loss": {"cls": 1.0}}, "loss {'cls': 1.0}"),
        (val(2, 67.3), "top1_acc 67.3"),
        ({"acc/top1": -0.5, "step": 2}, "acc/top1 -0.5"),
    ],
)
def test_bad_line_is_refused_by_its_number_and_content(read, line, found):
    with pytest.raises(logs.LogError, match=rf"a\.log\.json, line 3.*found {found}.*expected") as error:
        read(HEADER, train(1, 20), line, train(3, 20))
    assert isinstance(error.value, UserError)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no training entries"),
        (b"\n\n", "no training entries"),
        (json.dumps(HEADER).encode(), "no training entries"),
        (json.dumps(val(5, 0.2)).encode(), "no training entries"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "line 1.*PNG.*expected JSON"),
        (b'{"mode": "\xff\xfe"}', "line 1.*expected JSON"),
        (b" " * (logs.MAX_LINE + 1), "line 1.*more than"),
    ],
)
def test_file_that_is_no_log_is_refused(tmp_path, content, words):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(logs.LogError, match=rf"model\.pth.*{words}"):
        logs.read_log(path)


def test_missing_log_is_named(tmp_path):
    for path, named in ((tmp_path / "gone.json", "gone.json"), (tmp_path, "train.log.json")):
        with pytest.raises(logs.LogError, match=rf"{named}: No such file.*expected"):
            logs.read_log(path)


def test_our_scores_are_the_same_after_their_way_through_the_result_file(tmp_path):
    scores = np.random.default_rng(0).dirichlet(np.ones(5), 7)
    (tmp_path / "result.json").write_text(evaluation.format_scores(scores))
    np.testing.assert_array_equal(json.loads((tmp_path / "result.json").read_text()), scores.round(6))


def test_comparison_shows_epochs_values_and_differences(read):
    ours = read(train(1, 20, 4.0), val(1, 0.3), train(2, 20, 3.0), val(2, 0.25), name="ours.json")
    theirs = read(*(train(e, 20, 5.0) for e in range(1, 5)), val(4, 0.5), name="theirs.json")
    lines = [" ".join(line.split()) for line in logs.comparison(ours, theirs).splitlines()]
    assert "1 4.0000 5.0000 -1.0000 10.00 10.00 +0.00 30.00 - - 40.00 - -" in lines
    assert "2 3.0000 5.0000 -2.0000 20.00 20.00 +0.00 25.00 - - 35.00 - -" in lines
    assert "4 - 5.0000 - - 40.00 - - 50.00 - - 60.00 -" in lines
    assert not [line for line in lines if line.startswith("3 ")]  # theirs alone logged it
    assert "final validation top-1 25.00 (2) 50.00 (4) -25.00" in lines
    assert "best validation top-1 30.00 (1) 50.00 (4) -20.00" in lines
    assert "best validation top-5 40.00 (1) 60.00 (4) -20.00" in lines
    assert "They end at different epochs" in " ".join(lines)


def test_long_comparison_shows_few_epochs_with_their_validations(read):
    entries = [
        e for n in range(1, 181) for e in (train(n, 20, top1_acc=0.5, top5_acc=0.5), val(n, 0.5))[: 1 + (n % 5 == 0)]
    ]
    text = logs.comparison(read(*entries), read(*entries, name="b.json"))
    shown = [line.split() for line in text.splitlines() if line[:1].isdigit()]
    assert [int(line[0]) for line in shown] == list(range(10, 181, 10))
    assert all("-" not in line for line in shown)


def test_logs_without_validation_or_common_epoch_are_compared(read, tmp_path):
    a, b = read(train(1, 20)), read(train(7, 20), name="b.json")
    assert ["final", "validation", "top-1", "-", "(-)", "-", "(-)", "-"] in [
        line.split() for line in logs.comparison(a, b).splitlines()
    ]
    logs.plot_comparison(a, b, tmp_path / "new" / "plot.png")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["plot.png"]


def test_plot_of_a_comparison_repeats_to_the_byte(read, tmp_path):
    log = read(train(1, 20), val(1, 0.5))
    for name in "ab":
        logs.plot_comparison(log, log, tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(("last", "label"), [(4, "epoch"), (8, "share of the training (0-1)")])
def test_axis_of_the_plot_says_whether_it_is_epochs_or_a_share(read, tmp_path, monkeypatch, last, label):
    drawn = []

    def keep(figure, path, **_):
        drawn.extend(figure.axes)
        Path(path).touch()

    monkeypatch.setattr(logs.Figure, "savefig", keep)
    ours, theirs = (read(*(e for n in range(1, end + 1) for e in (train(n, 20), val(n, 0.5)))) for end in (4, last))
    logs.plot_comparison(ours, theirs, tmp_path / "plot.png")
    assert [axes.get_xlabel() for axes in drawn] == [label] * 3
    for line in (line for axes in drawn for line in axes.lines):
        assert line.get_xdata()[-1] == (4 if label == "epoch" else 1)


def test_command_prints_the_table_draws_the_curves_and_fails_in_words(read, tmp_path):
    read(train(1, 20, 5.0), val(1, 0.2), train(2, 20, 4.0), val(2, 0.3), name="train.log.json")
    theirs = read(*(e for n in range(1, 7) for e in (train(n, 20, 6 - n), val(n, n / 10))), name="$the\\irs$.json").path
    done = console("compare-log", ".", theirs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "final validation top-1" in done.stdout
    picture = matplotlib.image.imread(tmp_path / "compare-log.png")[..., :3]
    for third in np.array_split(picture, 3, axis=1):  # a panel each, with the two colours of the curves
        assert (np.ptp(third, axis=2) > 0.5).sum() > 200

    theirs.write_text("no log\n")
    done = console("compare-log", ".", theirs, "--out", "b.png", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "line 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b.png").exists()

    log = (tmp_path / "train.log.json").read_bytes()
    done = console("compare-log", ".", ".", "--out", "train.log.json", cwd=tmp_path)
    assert done.returncode != 0
    assert (tmp_path / "train.log.json").read_bytes() == log


def test_help_comes_without_heavy_modules():
    code = "import sys, r2plus1d.__main__; print({'torch', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules))"
    assert printed(code) == "set()\n"
