"""`r2plus1d compare`: small projects whose predictions are invented, so that the verdict is known."""

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import yaml

from r2plus1d.config import files
from r2plus1d.config.resolve import resolve
from r2plus1d.results import compare, intervals, seeds, tested
from r2plus1d.results.tested import CompareError
from r2plus1d.system import paths
from r2plus1d.system.files import write_text
from r2plus1d.system.git import GitError
from tests.support.commands import commit_all, dvc, git, r2plus1d
from tests.support.project import ROOT, Project

ROW = "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_256p"
OTHER = "r2plus1d_r34_32x2x1_180e_kinetics400_rgb"
Z2 = 1.959964**2


@pytest.fixture
def small(tmp_path, monkeypatch) -> Project:
    """A project with parameters and no results."""
    monkeypatch.chdir(tmp_path)
    for name in (paths.PARAMS, paths.PUBLISHED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return Project.at(tmp_path)


@pytest.fixture
def cloned(small) -> Project:
    """In git."""
    git(small, "init", "--quiet")
    commit_all(small)
    return small


def measure(
    row: str, right: Sequence[bool], first: int = 0, data: str = "seed 0", dataset: str = "motion", split: str = "val"
) -> None:
    """Writes the test of a row: a video for each of `right`, from the number `first` on, of classes in turn."""
    classes = [("falling", "rising")[number % 2] for number in range(first, first + len(right))]
    wrong = {"falling": "rising", "rising": "falling"}
    table = pd.DataFrame(
        {
            "path": [f"val/{name}_{number:05d}.mp4" for number, name in enumerate(classes, first)],
            "actual": classes,
            "predicted": [name if good else wrong[name] for name, good in zip(classes, right, strict=True)],
            "probability": 0.9,
            "rank": [1 if good else 2 for good in right],
        }
    )
    write(row, table.to_csv(index=False), data, dataset, split)


def write(row: str, predictions: str, data: str = "seed 0", dataset: str = "motion", split: str = "val") -> None:
    path = paths.metrics(row, "predictions.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(predictions)
    paths.metrics(row, "test.json").write_text(json.dumps({"top1": 12.34, "split": split}))
    config = paths.row_config(row, "test")
    write_text(config, resolved(row))
    lock = yaml.safe_load(tested.LOCK.read_text()) if tested.LOCK.exists() else {"schema": "2.0", "stages": {}}
    lock["stages"][f"test@{row}"] = {
        "deps": [
            {"path": str(config), "md5": md5(config.read_text())},
            {"path": str(paths.manifest(dataset)), "md5": md5(data)},
        ],
        "outs": [{"path": str(path), "md5": md5(predictions)}],
    }
    tested.LOCK.write_text(yaml.safe_dump(lock))


def resolved(row: str) -> str:
    """The row's configuration for its test, by params.yaml."""
    published = json.loads(paths.PUBLISHED.read_text())["rows"]
    made = resolve(files.read_params(paths.PARAMS), {name: entry["ckpt"] for name, entry in published.items()})
    return files.dump(made.files()[f"{row}/test.json"])


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def rights(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Of so many videos that both, the first alone, the second alone, and neither has right."""
    a = [True] * (both + first) + [False] * (second + neither)
    return a, [True] * both + [False] * first + [True] * second + [False] * neither


def set_params(**changes) -> None:
    params = yaml.safe_load(paths.PARAMS.read_text())
    for key, value in changes.items():
        *sections, last = key.split("__")
        section = params
        for name in sections:
            section = section[name]
        section[last] = value
    paths.PARAMS.write_text(yaml.safe_dump(params))


def test_two_rows_that_can_be_told_apart_are_and_the_status_says_so(small, capsys):
    """10 videos, 3 right by both, 6 by B alone, 1 by none. Wilson, 3 of 10 with z^2 / 10 = 0.38415: (0.3 + 0.19207 -+
    sqrt(0.38415 * 0.21 + 0.0369)) / 1.38415 = 10.78 to 60.32; 9 of 10: (0.9 + 0.19207 -+ sqrt(0.38415 * 0.09 + 0.0369))
    / 1.38415 = 59.58 to 98.21. Bonett and Price: 7 and 1 of 12, mean 0.5, variance 8/12 - 1/4 = 5/12, standard error
    sqrt(5)/12: 50 -+ 1.959964 * 18.634 = 13.48 to 86.52. McNemar: 2 of 2^6 = 0.03125."""
    a, b = rights(3, 0, 6, 1)
    measure(ROW, a)
    measure("custom", b)
    assert compare.compare(ROW, "custom") == 3
    said = capsys.readouterr().out
    assert f"A: {ROW} (row {ROW}, the workspace)\nB: custom (row custom, the workspace)\n" in said
    assert "On the same 10 validation videos of `motion`:" in said
    assert "| A, top-1 | 30.00 | 10.78 to 60.32 |" in said
    assert "| B, top-1 | 90.00 | 59.58 to 98.21 |" in said
    assert "| B - A, points | +60.00 | +13.48 to +86.52 |" in said
    assert "Right in A alone: 0 videos; in B alone: 6. McNemar's exact test: p = 0.031" in said
    assert "\nThey differ: B is right on more of such videos than A. The interval is for the videos alone." in said
    assert said.endswith("Two trainings of one row differ too: `r2plus1d seeds`.\n")
    assert compare.compare("custom", ROW) == 3
    said = capsys.readouterr().out
    assert "They differ: A is right on more" in said
    assert "| B - A, points | -60.00 | -86.52 to -13.48 |" in said


def test_two_rows_that_cannot_be_told_apart_are_not(small, capsys):
    """1 and 4 alone: the interval -15.83 to 65.83 and p = 12/32 are computed by hand in test_intervals.py."""
    for row, right in zip((ROW, "custom"), rights(3, 1, 4, 2), strict=True):
        measure(row, right)
    assert compare.compare(ROW, "custom") == 0
    said = capsys.readouterr().out
    assert "| B - A, points | +30.00 | -15.83 to +65.83 |" in said
    assert "They cannot be told apart: two that are right equally often differ by as much. The interval is for" in said
    assert said.endswith("Two trainings of one row differ too: `r2plus1d seeds`.\n")


def test_exact_test_decides_where_the_interval_leaves_out_0(small, capsys):
    """5 of B alone among 10: p = 2 of 2^5 = 0.0625; 6 and 1 of 12, mean 5/12, variance 7/12 - 25/144 = 59/144, standard
    error sqrt(59/12)/12 = 0.18478: 41.67 -+ 36.22."""
    for row, right in zip((ROW, "custom"), rights(3, 0, 5, 2), strict=True):
        measure(row, right)
    assert compare.compare(ROW, "custom") == 0
    said = capsys.readouterr().out
    assert "+5.45 to +77.88" in said
    assert (
        "differ by as much. The interval leaves out 0, but of so few videos it is rough: the exact test decides" in said
    )


def test_same_row_twice_cannot_be_told_apart(small, capsys):
    measure("custom", [True, False])
    assert compare.compare("custom", "custom") == 0
    said = capsys.readouterr().out
    assert "Right in A alone: 0 videos; in B alone: 0. McNemar's exact test: p = 1\n" in said
    assert "One is right" not in said


def test_videos_are_matched_by_path_whatever_their_order(small, capsys):
    measure(ROW, [True, True, False, False])
    measure("custom", [True, True, False, False])
    head, *lines = paths.metrics("custom", "predictions.csv").read_text().splitlines()
    write("custom", "\n".join([head, *reversed(lines)]) + "\n")
    assert compare.compare(ROW, "custom") == 0
    assert "Right in A alone: 0 videos; in B alone: 0." in capsys.readouterr().out


def test_videos_on_which_two_disagree_are_named_the_first_20_and_all_in_a_file(small, capsys):
    a, b = rights(2, 21, 2, 3)
    measure(ROW, a)
    measure("custom", b)
    out = Path("new", "all.csv")
    compare.compare(ROW, "custom", out)
    said = capsys.readouterr().out
    shown = [line for line in said.splitlines() if line.startswith("| val/")]
    assert shown[0] == "| val/falling_00002.mp4 | falling | falling | rising |"
    assert len(shown) == 20
    assert "One is right and the other wrong on 23 videos, of which the first 20:" in said
    assert "All 23 are in new/all.csv" in said
    table = pd.read_csv(out)
    assert list(table) == ["path", "actual", "predicted_a", "predicted_b"]
    wrong = {"falling": "rising", "rising": "falling"}
    numbers = [(n, ("falling", "rising")[n % 2]) for n in range(2, 25)]
    meant = [
        (f"val/{name}_{n:05d}.mp4", name, *((name, wrong[name]) if n < 23 else (wrong[name], name)))
        for n, name in sorted(numbers, key=lambda line: f"{line[1]}_{line[0]:05d}")
    ]
    assert list(table.itertuples(index=False, name=None)) == meant


def test_name_of_a_video_cannot_drive_the_terminal(small, capsys):
    line = "val/\x1b[2J|.mp4,{0},{1},0.9,1\n"
    head = "path,actual,predicted,probability,rank\n"
    write(ROW, head + line.format("1", "NA"))
    write("custom", head + line.format("1", "1"))
    compare.compare(ROW, "custom")
    assert r"| val/\x1b[2J\|.mp4 | 1 | NA | 1 |" in capsys.readouterr().out


def test_row_is_found_by_its_full_and_its_short_name(small):
    assert tested.find("32x2_320p") == tested.Tested("32x2_320p", OTHER, None)
    assert tested.find(OTHER).row == OTHER
    assert tested.find("custom").row == "custom"


def test_results_of_a_commit_are_compared_with_those_of_the_workspace(cloned, capsys):
    measure("custom", [True] * 8)
    measure(ROW, [True] * 8)
    commit_all(cloned, "first")
    git(cloned, "tag", "one")
    measure("custom", [False] * 8)
    commit_all(cloned, "second")
    first, second = git(cloned, "rev-parse", "one"), git(cloned, "rev-parse", "HEAD")
    assert compare.compare("one", "custom") == 3
    said = capsys.readouterr().out
    assert f"A: one (row custom, commit {first[:7]})\nB: custom (row custom, the workspace)" in said
    assert "Right in A alone: 8 videos; in B alone: 0." in said
    for name in ("HEAD", second[:10], "HEAD:custom"):
        assert compare.compare("custom", name) == 0
    for name in (f"one:{ROW}", "HEAD~1:8x8_256p", "8x8_256p"):
        assert compare.compare(name, "one") == 0


def test_results_are_those_of_the_project_where_it_is_a_folder_of_a_larger_clone(small, tmp_path, monkeypatch):
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    for name in (paths.PARAMS, paths.PUBLISHED):
        (inner / name).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / name, inner / name)
    measure("custom", [True])
    git(small, "init", "--quiet")
    commit_all(small)
    assert compare.compare("custom", "HEAD") == 0


@pytest.mark.slow
def test_experiment_that_dvc_saved_is_found_by_its_name(cloned, capsys):
    measure("custom", [True] * 8)
    dvc(cloned, "init", "--quiet")
    commit_all(cloned, "with DVC")
    measure("custom", [False] * 8)
    dvc(cloned, "exp", "save", "--name", "worse")
    measure("custom", [True] * 8)
    saved = git(cloned, "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/worse")
    assert len(saved) == 40
    assert compare.compare("custom", "worse") == 3
    assert f"B: worse (row custom, commit {saved[:7]})" in capsys.readouterr().out
    assert compare.compare("HEAD", f"{saved[:8]}:custom") == 3


def test_name_of_several_experiments_is_refused_with_their_commits(cloned):
    measure("custom", [True])
    commit_all(cloned, "one")
    commits = [git(cloned, "rev-parse", "HEAD"), git(cloned, "rev-parse", "HEAD~1")]
    for number, commit in enumerate(commits):
        git(cloned, "update-ref", f"refs/exps/{number}0/{'1' * 38}/twice", commit)
    named = ", ".join(sorted(commit[:10] for commit in commits))
    with pytest.raises(CompareError, match=f"twice: 2 experiments have this name; give the commit of one: {named}"):
        compare.compare("twice", "custom")
    git(cloned, "update-ref", f"refs/exps/10/{'1' * 38}/twice", commits[0])  # the same commit is no other one
    assert compare.compare("twice", "custom") == 0


def test_name_that_stands_for_nothing_is_refused_with_those_that_do(cloned):
    words = r"'nothing' is no row, DVC experiment or git revision; rows are .*custom.* 32x2_320p; `dvc exp list --all`"
    for name in ("nothing", "nothing:custom"):
        with pytest.raises(CompareError, match=words):
            compare.compare(name, "custom")


def test_revision_outside_a_clone_is_refused(small):
    with pytest.raises(GitError, match="needs a git clone"):
        compare.compare("HEAD", "custom")


def test_row_without_results_is_refused_with_the_command_that_makes_them(cloned):
    with pytest.raises(CompareError, match=r"custom: no .*predictions.csv in the workspace; run `dvc repro test@cus"):
        compare.compare("custom", "custom")
    commit = git(cloned, "rev-parse", "HEAD")[:7]
    words = (
        f"HEAD:mine: no metrics/rows/mine/predictions.csv in commit {commit}; give a commit or an experiment in which"
    )
    with pytest.raises(CompareError, match=words):
        compare.compare("HEAD:mine", "custom")


def spoiled_predictions():
    with paths.metrics("custom", "predictions.csv").open("a") as file:
        file.write("val/more.mp4,rising,rising,0.9,1\n")


def spoiled_lock(old: str, new: str):
    def spoil():
        text = tested.LOCK.read_text()
        assert old in text
        tested.LOCK.write_text(text.replace(old, new))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            spoiled_predictions,
            "predictions.csv is not the one that dvc.lock names in the workspace.*run `dvc repro test@",
        ),
        (spoiled_lock("test@custom", "test@another"), "predictions.csv is not the one that dvc.lock names"),
        (spoiled_lock("manifest", "others"), "custom: dvc.lock in the workspace does not say on which data"),
        (
            spoiled_lock("stages:", "<<<<<<< HEAD\nstages:"),
            r"custom: dvc.lock in the workspace is damaged \(.*git chec",
        ),
        (spoiled_lock("stages:", "other:"), r"custom: dvc.lock in the workspace is damaged \('stages'\)"),
        (tested.LOCK.unlink, "custom: no dvc.lock in the workspace; run `dvc repro test@custom`"),
        (lambda: paths.metrics("custom", "test.json").write_text("{}"), "test.json in the workspace is damaged; run"),
        (lambda: paths.metrics("custom", "test.json").unlink(), "custom: no .*test.json in the workspace; run"),
    ],
)
def test_results_of_which_nothing_says_on_what_they_were_measured_are_refused(small, spoil, words):
    measure("custom", [True])
    spoil()
    with pytest.raises(CompareError, match=words):
        compare.compare("custom", "custom")


def test_other_videos_are_refused_with_how_many_are_in_common(small):
    measure(ROW, [True] * 10)
    measure("custom", [True] * 12, first=4)  # 4 to 15, of which 4 to 9 are in common
    with pytest.raises(CompareError) as error:
        compare.compare(ROW, "custom")
    said = str(error.value)
    assert said.startswith(
        f"{ROW} and custom were not measured on the same videos: of 10 and 12, 6 have path and class"
    )
    assert f"; 4 are of {ROW} alone, such as val/falling_00000.mp4; " in said
    assert "; 6 are of custom alone, such as val/falling_00010.mp4. Test both with the same" in said
    assert "data are others" not in said
    assert "another class" not in said


def test_same_paths_with_other_classes_are_refused(small):
    measure(ROW, [True] * 4)
    measure("custom", [True] * 4)
    text = paths.metrics("custom", "predictions.csv").read_text()
    write("custom", text.replace("val/rising_00003.mp4,rising", "val/rising_00003.mp4,swirling"))
    words = "of 4 and 4, 3 have path .* 1 have another class, such as val/rising_00003.mp4: rising and swirling"
    with pytest.raises(CompareError, match=words):
        compare.compare(ROW, "custom")


def test_same_names_of_other_data_are_refused(small):
    """As the videos of `motion` by another seed."""
    measure(ROW, [True] * 4)
    measure("custom", [True] * 4, data="seed 1")
    words = (
        "of 4 and 4, 4 have path and class in common; the data are others: data/motion/manifest.csv with MD5 "
        f"{md5('seed 0')[:8]}, data/motion/manifest.csv with {md5('seed 1')[:8]}. Test both"
    )
    with pytest.raises(CompareError, match=words):
        compare.compare(ROW, "custom")


def test_same_data_under_another_name_are_compared(small):
    measure(ROW, [True] * 4)
    measure("custom", [True] * 4, dataset="folder")
    assert compare.compare(ROW, "custom") == 0


def test_rows_trained_with_several_seeds_are_compared_as_recipes_too(small, capsys):
    """Where one of the seeds made the weights that were tested; the status stays that of the two tests."""
    rows = {}
    for row, more in ((ROW, 0.0), ("custom", 5.0)):
        measure(row, [True] * 4)
        weights = paths.weights(row)
        weights.parent.mkdir(parents=True)
        weights.write_text(row)
        tops = {"0": 12.34, "1": 62.0 + more, "2": 61.0 + 2 * more}
        entry = {seed: {"top1": top1, "weights": md5(row if seed == "0" else seed)} for seed, top1 in tops.items()}
        rows[row] = {"seeds": entry}
    write_text(seeds.SEEDS, json.dumps({"rows": rows, "videos": 1000}))
    assert compare.compare(ROW, "custom") == 0
    told = "Over the 3 seeds of both in metrics/seeds.json: B - A +5.00 (-7.4 to +17.4) points, p = 0.23"
    assert f"{told} by the paired t test of this pair by itself, so the recipes cannot" in capsys.readouterr().out
    paths.metrics("custom", "test.json").write_text(json.dumps({"top1": 13.0, "split": "val"}))  # of fewer clips, say
    compare.compare(ROW, "custom")
    assert "Over the" not in capsys.readouterr().out


# ---- with the published figure ----


@pytest.fixture
def kinetics(small) -> Project:
    """Its published figures are of 101 videos, so that the finite population correction is a round number."""
    set_params(dataset="kinetics400")
    published = json.loads(paths.PUBLISHED.read_text())
    paths.PUBLISHED.write_text(json.dumps(published | {"videos": 101}))
    return small


def measured(row: str, right: int, videos: int) -> None:
    measure(row, [True] * right + [False] * (videos - right), dataset="kinetics400")


def half(share: float, videos: int) -> tuple[float, float]:
    """Points below and above the share of Wilson's interval, by its formula."""
    pull = Z2 / videos
    centre = (share + pull / 2) / (1 + pull)
    width = math.sqrt(pull * share * (1 - share) + pull**2 / 4) / (1 + pull)
    return 100 * (share - centre + width), 100 * (centre + width - share)


def test_row_that_scores_as_published_is_consistent(kinetics, capsys):
    """68 of 100 of 101 videos: correction sqrt((101 - 100) / 100) = 0.1. Wilson with z^2 / 100 = 0.0384146: (0.68 +
    0.0192073 -+ sqrt(0.0384146 * 0.2176 + 0.00036892)) / 1.0384146 = 58.34 to 76.33, a tenth of the way: 67.03 to
    68.83. Less 67.30: -0.27 to 1.53, within the 69.76 - 67.30 = 2.46 of the clip."""
    measured(ROW, 68, 100)
    assert compare.compare("8x8_256p", "published") == 0
    said = capsys.readouterr().out
    assert f"8x8_256p (row {ROW}, the workspace), trained here from nothing" in said
    assert "Measured on 100 videos, published for 101: coverage 99.0%" in said
    assert "| measured, top-1 | 68.00 | 67.03 to 68.83 |" in said
    assert "| published, top-1 | 67.30 |  |" in said
    assert "| measured - published, points | +0.70 | -0.27 to +1.53 |" in said
    assert "Published for the same network at 8x8: 67.30, 68.68 and 69.76, which lie 2.46 points apart." in said
    assert "Consistent: the whole interval lies within 2.46 points of the published figure. The interval is for" in said
    assert said.endswith("Two trainings of one row differ too: `r2plus1d seeds`.\n")


@pytest.mark.parametrize(("right", "line"), [(50, "-17.30 | -18.26 to -16.34"), (90, "+22.70 | +21.96 to +23.15")])
def test_row_that_scores_otherwise_is_different(kinetics, right, line, capsys):
    """A tenth of Wilson's ends, as above: of 50 of 100, 9.617 on both sides; of 90, (0.9 + 0.0192073 -+ sqrt(0.0384146
    * 0.09 + 0.00036892)) / 1.0384146 = 82.56 to 94.48, so 7.44 below and 4.48 above."""
    measured(ROW, right, 100)
    assert compare.compare(ROW, "published") == 3
    said = capsys.readouterr().out
    assert f"| measured - published, points | {line} |" in said
    assert "Different: the whole interval lies further than 2.46 points from the figure." in said


def test_row_measured_on_few_videos_says_how_many_would_do(kinetics, capsys):
    """14 of 20: share 70, 2.7 points off, so the interval would have to end above 2.46, 0.24 below the share. With n =
    100 it ends 0.1 * 9.58 below, too far; only all 101 tell."""
    measured(ROW, 14, 20)
    assert compare.compare(ROW, "published") == 4
    said = capsys.readouterr().out
    assert "Measured on 20 videos, published for 101: coverage 19.8%" in said
    assert "Too few videos to tell: the interval reaches across 2.46 points from the figure." in said
    assert "With the same share of right ones, all 101 videos would do." in said
    measured(ROW, 12, 20)  # 7.3 points off: the interval must end 4.84 above the share
    assert compare.compare(ROW, "published") == 4
    share, enough = 0.6, 79
    above = [math.sqrt((101 - n) / 100) * half(share, n)[1] for n in (enough - 1, enough)]
    assert above[0] > 7.3 - 2.46 > above[1]
    assert "With the same share of right ones, 79 videos would do." in capsys.readouterr().out


def test_clip_of_32_frames_has_its_own_spread(kinetics, capsys):
    measured(OTHER, 76, 101)
    assert compare.compare("32x2_320p", "published") == 0
    said = capsys.readouterr().out
    assert "Published for the same network at 32x2: 74.60 and 75.46, which lie 0.86 points apart." in said
    assert "| measured, top-1 | 75.25 | 75.25 to 75.25 |" in said  # all are measured


def test_commit_of_a_published_row_is_compared_by_its_own_parameters(kinetics, capsys):
    set_params(**{f"zoo__{ROW}__checkpoint": "published"})
    measured(ROW, 68, 100)
    git(kinetics, "init", "--quiet")
    commit_all(kinetics)
    set_params(dataset="motion", **{f"zoo__{ROW}__checkpoint": None})
    assert compare.compare("HEAD:8x8_256p", "published") == 0
    said = capsys.readouterr().out
    assert "not trained here: weights [r2plus1d_r34_256p_8x8x1_180e_kinetics400_rgb_20200729-aa94765e.pth]" in said
    assert said.endswith("No training stands between: of the same weights, expect far less than that margin.\n")


@pytest.mark.parametrize("row", ["8x8_256p", "8x8_video", "8x8_320p", "32x2_320p"])
def test_every_published_row_is_as_published_as_the_parameters_stand(small, row, capsys):
    set_params(dataset="kinetics400")
    side = tested.find(row)
    measured(side.row, 3, 5)
    assert compare.compare(row, "published") == 4
    said = capsys.readouterr().out
    assert "published for 19,796: coverage 0.0%" in said
    assert "Otherwise" not in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe__test__clips": 1}, r"test.clips is 1 \(published: 10\); docs/published_rows.md"),
        ({"recipe__test__average_clips": "score"}, r"test.average_clips is score \(published: prob\)"),
        ({"scale__width": 0.5}, r"model.width is 32 \(published: 64\)"),
        ({"scale__resolution": 0.5}, r"test.resize is 112 \(published: 256\), test.crop is 112"),
        ({f"zoo__{ROW}__frames": 16}, r"clip.frames is 16 \(published: 8\)"),
        ({f"zoo__{ROW}__checkpoint": "ig65m_8_kinetics"}, r"model.family is ig65m \(published: mmaction\)"),
    ],
)
def test_other_network_or_test_under_a_published_name_is_refused(kinetics, changes, words):
    set_params(**changes)
    measured(ROW, 68, 100)
    with pytest.raises(CompareError, match=f"8x8_256p is not the published network and test: {words}"):
        compare.compare("8x8_256p", "published")


def test_other_frames_and_training_of_a_published_row_are_named(kinetics, capsys):
    """Of finished weights the frames alone; and of a row as it stands nothing."""
    measured(ROW, 68, 100)
    compare.compare(ROW, "published")
    assert "Otherwise" not in capsys.readouterr().out
    set_params(**{f"zoo__{ROW}__short_side": 128, f"zoo__{ROW}__init": "published"})
    measured(ROW, 68, 100)
    compare.compare(ROW, "published")
    said = capsys.readouterr().out
    frames = "Otherwise than the published row: clip.short_side is 128 (published: 256)"
    assert f"{frames}, train.epochs is 10 (published: 180), train.lr is 0.01 (published: 0.1), train.head_lr" in said
    set_params(**{f"zoo__{ROW}__checkpoint": "published", f"zoo__{ROW}__init": None, "runtime__gpus": 32})
    measured(ROW, 68, 100)
    compare.compare(ROW, "published")
    assert f"{frames}\n" in capsys.readouterr().out
    set_params(**{f"zoo__{ROW}__checkpoint": None, f"zoo__{ROW}__short_side": 256})
    measured(ROW, 68, 100)
    compare.compare(ROW, "published")
    update = "an update is made from 256 videos (the published configuration, on 8 GPUs: 64)"
    assert f"Otherwise than the published row: {update}\n" in capsys.readouterr().out


def test_configuration_that_is_not_that_of_the_test_is_refused(kinetics, cloned):
    """Tested with one clip, then params.yaml put back: nothing says by the published protocol."""
    set_params(recipe__test__clips=1)
    measured(ROW, 68, 100)
    set_params(recipe__test__clips=10)
    write_text(paths.row_config(ROW, "test"), resolved(ROW))
    with pytest.raises(CompareError, match=r"8x8_256p: the row was tested with another configs/.*/test.json than the"):
        compare.compare("8x8_256p", "published")
    commit_all(cloned)
    with pytest.raises(CompareError, match=f"HEAD:{ROW}: the row was tested with another configs/.* than commit"):
        compare.compare(f"HEAD:{ROW}", "published")


def test_published_videos_under_another_name_are_taken_where_the_user_says_so(kinetics, capsys):
    set_params(dataset="lists", datasets__lists__path="/videos", datasets__lists__source__val="val.txt")
    right = [number < 68 for number in range(100)]
    measure(ROW, right, dataset="lists")
    with pytest.raises(CompareError, match=r"measured on `lists`, .* say so: --kinetics400"):
        compare.compare(ROW, "published")
    assert compare.compare(ROW, "published", of_kinetics=True) == 0
    assert "coverage 99.0%" in capsys.readouterr().out
    with pytest.raises(CompareError, match="--kinetics400 goes with `published`"):
        compare.compare(ROW, ROW, of_kinetics=True)


def test_figures_of_another_dataset_or_split_are_never_subtracted(small, capsys):
    measure(ROW, [True])
    words = (
        "8x8_256p was measured on `motion`, the published figure on `kinetics400`: figures of different things, "
        "which are never subtracted; docs/published_rows.md says how"
    )
    with pytest.raises(CompareError, match=words):
        compare.compare("8x8_256p", "published")
    measure(ROW, [True], dataset="kinetics400", split="test")
    with pytest.raises(
        CompareError, match="8x8_256p was measured on the test videos, the published figure on the valid"
    ):
        compare.compare("8x8_256p", "published")
    assert capsys.readouterr().out == ""


def test_row_of_which_nothing_is_published_is_refused(small):
    measure("custom", [True])
    with pytest.raises(CompareError, match=f"custom: nothing is published of the row custom; there are {ROW}, "):
        compare.compare("custom", "published")


def test_published_comes_second_and_is_no_list_of_videos(small):
    with pytest.raises(CompareError, match="`published` comes second: r2plus1d compare custom published"):
        compare.compare("published", "custom")
    with pytest.raises(CompareError, match=r"--out a.csv: `published` is a figure.* leave --out away"):
        compare.compare(ROW, "published", Path("a.csv"))


def test_parameters_of_a_commit_that_cannot_be_read_are_named(kinetics):
    measured(ROW, 68, 100)
    good = paths.PARAMS.read_text()
    git(kinetics, "init", "--quiet")
    for text, words in (("a: [", "line 1"), ("", "None"), ("seed: 0\n", "dataset"), (good.replace(ROW, "older"), ROW)):
        paths.PARAMS.write_text(text)
        commit_all(kinetics)
        paths.PARAMS.write_text(good)
        said = f"HEAD:8x8_256p: params.yaml in commit [0-9a-f]{{7}} cannot be used .*{words}.*; give a commit of which"
        with pytest.raises(CompareError, match=said):
            compare.compare("HEAD:8x8_256p", "published")


# ---- the arithmetic of docs/reproduced.md ----


def test_interval_of_all_videos_is_drawn_towards_the_share_as_more_of_them_are_measured():
    """50 of 100: Wilson's half is sqrt(0.0384146 * 0.25 + 0.00036892) / 1.0384146 = 9.617 points. Of 101 videos a tenth
    of it is left, of 10,001 sqrt(9901 / 10000), of 100 nothing."""
    for whole, left in ((101, 0.1), (10_001, math.sqrt(0.9901)), (100, 0), (90, 0)):
        found = compare.drawn_to_all(50, intervals.wilson(50, 100), 100, whole)
        assert found == pytest.approx((50 - 9.617 * left, 50 + 9.617 * left), abs=1e-3)


@pytest.mark.parametrize(
    ("ends", "meant"),
    [
        ((-1.0, 2.46), compare.ALIKE),
        ((-2.46, 2.46), compare.ALIKE),
        ((69.76 - 67.3,) * 2, compare.ALIKE),  # 2.460000000000008
        ((2.47, 9.0), compare.DIFFERENT),
        ((-9.0, -2.47), compare.DIFFERENT),
        ((2.46, 9.0), compare.TOO_FEW),
        ((-9.0, -2.46), compare.TOO_FEW),
        ((2.45, 2.47), compare.TOO_FEW),
        ((-2.47, 0.0), compare.TOO_FEW),
        ((-3.0, 3.0), compare.TOO_FEW),
    ],
)
def test_verdict_is_by_where_the_whole_interval_lies(ends, meant):
    assert compare.verdict(compare.Interval(*ends), 2.46) == meant


@pytest.mark.parametrize(
    ("right", "videos", "off", "enough"),
    [
        (269, 400, 0.05, 1403),  # 67.25: must reach no further than 2.41 below and 2.51 above
        (260, 400, 2.30, 18_721),  # 65.00: no further than 0.16 below
        (250, 400, 4.80, 1479),  # 62.50: must end 2.34 above
    ],
)
def test_number_of_videos_that_would_do_is_the_smallest(right, videos, off, enough):
    """By the formulas of the document: of 19,796 videos, the first on which the end that matters is near enough."""
    share, whole = right / videos, 19_796
    assert off == pytest.approx(67.3 - 100 * share)
    below, above = (
        [math.sqrt((whole - n) / (whole - 1)) * half(share, n)[side] for n in (enough - 1, enough)] for side in (0, 1)
    )
    limits, ends = (2.46 - off, below) if off < 2.46 else (off - 2.46, above)
    assert ends[0] > limits >= ends[1]
    assert compare.videos_that_would_do(right, videos, whole, 67.3, 2.46) == enough


def test_share_at_the_very_margin_takes_all_videos():
    """872 of 1250 are 69.76, of which 67.30 is 2.46 away."""
    assert compare.videos_that_would_do(872, 1250, 19_796, 67.3, 2.46) == 19_796


def test_known_figures_are_those_that_mmaction_published_for_the_clip(published):
    for row in published["rows"]:
        figures = [74.6, 75.46] if row == OTHER else [67.3, 68.68, 69.76]
        assert compare.known_figures(row, published) == figures


# ---- the command ----


def test_command_exits_with_the_verdict(cloned):
    a, b = rights(3, 0, 6, 1)
    measure(ROW, a)
    measure("custom", b)
    (cloned.folder / "src").symlink_to(ROOT / "src")
    done = r2plus1d(cloned, "compare", "8x8_256p", "custom", "--out", "all.csv")
    assert (done.returncode, done.stderr) == (3, "")
    assert "They differ" in done.stdout
    assert len(pd.read_csv("all.csv")) == 6
    before = paths.PUBLISHED.read_bytes()
    done = r2plus1d(cloned, "compare", "8x8_256p", "custom", "--out", str(paths.PUBLISHED))
    assert done.returncode == 2
    assert "does not end in .csv" in done.stderr
    assert paths.PUBLISHED.read_bytes() == before
