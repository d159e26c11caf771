"""The stages one after the other on a tiny dataset: same bytes whatever happens, nothing lost, clear errors."""

import base64
import json
import os
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import simplejpeg
import yaml
from safetensors.numpy import load_file

from r2plus1d.config.schema import CUSTOM as ROW
from r2plus1d.zoo import accuracy
from tests.support.commands import r2plus1d
from tests.support.project import PREPARING, VIDEO_ROW, Project, content, tiny_params


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """The prepared project with one row trained, tested and benchmarked; tests only look at it."""
    trained = Project.at(tmp_path_factory.mktemp("trained") / "project")
    shutil.copytree(prepared.folder, trained.folder)
    trained.must("baselines")
    for stage in ("one_frame", "train", "test", "benchmark"):
        trained.must(stage, ROW)
    return trained


def outputs(project) -> dict:
    folders = (f"models/{ROW}", f"metrics/rows/{ROW}", f"metrics/records/{ROW}")
    files = {name: digest for f in folders for name, digest in content(project.folder / f).items()}
    return {
        name: digest
        for name, digest in files.items()
        if not name.removeprefix("made_by_").startswith(("benchmark", "one_frame"))
    }


def workers(project, count) -> None:
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["machine"]["workers"] = count
    project.set(params)


@pytest.mark.slow
def test_videos_and_frames_are_the_same_for_every_number_of_workers(prepared, tmp_path):
    other = Project(tmp_path / "other", tiny_params())
    workers(other, 2)
    for stage in PREPARING:
        other.must(*stage, PYTHONHASHSEED="7", TZ="Asia/Tokyo", LC_ALL="C")
    assert content(other.folder / "data") == content(prepared.folder / "data")


def test_training_and_scores_are_the_same_for_every_number_of_workers(trained, project):
    for folder in ("models", "results", "metrics/rows"):
        subprocess.run(["rm", "-rf", str(project.folder / folder / ROW)], check=True)
    workers(project, 2)
    project.must("train", ROW, PYTHONHASHSEED="7")
    project.must("test", ROW, PYTHONHASHSEED="7")
    assert outputs(project) == outputs(trained)


def test_log_has_all_fields_and_wall_clock_values_stay_in_another(trained):
    lines = (trained.folder / "models" / ROW / "train.log.json").read_text().splitlines()
    train = [entry for entry in map(json.loads, lines) if entry["mode"] == "train"]
    val = [entry for entry in map(json.loads, lines) if entry["mode"] == "val"]
    fields = {"mode", "epoch", "iter", "lr", "loss", "top1_acc", "top5_acc", "grad_norm"}
    assert set(train[0]) == fields
    assert [entry["epoch"] for entry in val] == [2]
    timed = json.loads((trained.folder / "logs" / f"{ROW}.log.json").read_text().splitlines()[0])
    assert set(timed) == fields | {"memory", "data_time", "time"}


def test_scores_are_one_list_per_video_in_list_order(trained):
    scores = np.array(json.loads((trained.folder / "results" / ROW / "result.json").read_text()))
    lines = (trained.folder / "data/motion/lists/motion_test_list_rawframes.txt").read_text().splitlines()
    assert scores.shape == (len(lines), 12)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-4)
    labels = np.array([int(line.split()[-1]) for line in lines])
    figures = json.loads((trained.folder / "metrics" / "rows" / ROW / "test.json").read_text())
    assert figures["top1"] == round(100 * (scores.argmax(axis=1) == labels).mean(), 2)
    counted = {"videos", "repeated", "split"}
    assert set(figures) == {"top1", "top5", "mean_class_accuracy", "single_clip", "static", *counted}


def test_every_video_and_class_and_the_surest_mistakes_have_their_lines(trained):
    folder = trained.folder / "metrics" / "rows" / ROW
    predictions, classes = (
        pd.read_csv(folder / f"{name}.csv", keep_default_na=False) for name in ("predictions", "per_class")
    )
    lines = (trained.folder / "data/motion/lists/motion_test_list_rawframes.txt").read_text().splitlines()
    assert predictions["path"].tolist() == [line.split()[0] for line in lines]
    figures = json.loads((folder / "test.json").read_text())
    assert round(100 * (predictions["rank"] == 1).mean(), 2) == figures["top1"]
    assert classes["videos"].sum() == len(lines)
    mistakes = json.loads((folder / "mistakes.json").read_text())
    wrong = predictions[predictions["rank"] > 1].sort_values(["probability", "path"], ascending=[False, True])
    assert [mistake["path"] for mistake in mistakes] == wrong["path"].tolist()[:4]
    for mistake in mistakes:
        image = simplejpeg.decode_jpeg(base64.b64decode(mistake["jpeg"]), "RGB")
        assert image.shape == (mistake["height"], mistake["width"], 3)
        assert image.std() > 1


def test_accuracy_by_clips_and_crops_ends_at_that_of_the_table(trained):
    folder = trained.folder / "metrics" / "rows" / ROW
    views = pd.read_csv(folder / "views.csv").set_index(["clips", "crops"])
    test = json.loads((trained.folder / "configs" / ROW / "test.json").read_text())["test"]
    clips, crops = test["clips"], test["crops"]
    assert set(views.index) == {(n, c) for n in range(1, clips + 1) for c in (1, crops)}
    figures = json.loads((folder / "test.json").read_text())
    assert set(views["videos"]) == {figures["videos"]}
    assert round(100 * views.loc[(clips, crops), "right"] / figures["videos"], 2) == figures["top1"]


def test_scores_of_all_views_are_kept_where_the_row_asks_for_it(trained, tmp_path):
    project = Project.at(tmp_path / "project")
    shutil.copytree(trained.folder, project.folder)
    assert not (trained.folder / "results" / ROW / "views.safetensors").exists()
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["test"]["keep_views"] = True
    project.set(params)
    project.must("resolve")
    project.must("test", ROW)
    views = load_file(project.folder / "results" / ROW / "views.safetensors")["scores"]
    scores = np.array(json.loads((project.folder / "results" / ROW / "result.json").read_text()))
    assert (views.dtype, views.shape) == (np.float16, (len(scores), 30, 12))
    np.testing.assert_allclose(accuracy.average_views(views.astype(np.float64), "prob"), scores, atol=2e-3)


def test_baselines_and_the_row_with_one_frame_look_at_the_videos_of_the_table(trained):
    paths = pd.read_csv(trained.folder / "metrics" / "rows" / ROW / "predictions.csv")["path"].tolist()
    simple = pd.read_csv(trained.folder / "metrics" / "baselines.csv")
    one = pd.read_csv(trained.folder / "metrics" / "rows" / ROW / "one_frame.csv")
    for table in (simple, one):
        assert table["path"].tolist() == paths
        assert [path.split("/")[1] for path in paths] == table["actual"].tolist()
    assert list(one.columns) == ["path", "actual", "predicted", "probability", "rank"]


def test_row_that_is_not_asked_for_is_not_trained_with_one_frame(trained, project):
    assert "is not trained with one frame a clip" in project.must("one_frame", VIDEO_ROW)
    table = (project.folder / "metrics" / "rows" / VIDEO_ROW / "one_frame.csv").read_text()
    assert table == "path,actual,predicted,probability,rank\n"


@pytest.mark.slow
def test_browse_shows_what_the_network_gets(trained, project, tmp_path):
    """The same pictures again, and others of another epoch."""
    done = r2plus1d(trained, "browse", ROW, "--out", str(tmp_path / "one"))
    assert done.returncode == 0, done.stderr
    names = {"training.png", "test.png", *(f"class_{n:03}.png" for n in range(12))}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    assert "training.png, test.png, and a sheet for each class" in done.stdout
    words = "--epoch", "2", "--classes", "still", "falling", "--out", str(tmp_path / "two")
    few = r2plus1d(trained, "browse", ROW, *words)
    assert "and a sheet for each class of 2 of 12 classes" in few.stdout
    one, two = (content(tmp_path / name) for name in ("one", "two"))
    assert len(two) == 4
    assert {name for name in two if one[name] != two[name]} == {"training.png"}
    for name in names:
        assert matplotlib.image.imread(tmp_path / "one" / name)[..., :3].std() > 0.05
    other = r2plus1d(trained, "browse", ROW, "--classes", "stil", "--out", str(tmp_path / "few"))
    assert "did you mean 'still'?" in other.stderr
    unknown = r2plus1d(trained, "browse", "gone", "--out", str(tmp_path / "three"))
    assert unknown.returncode == 1
    assert "no row 'gone'; there are" in unknown.stderr


def test_benchmark_says_what_it_was_measured_on(trained):
    folder = trained.folder / "metrics" / "rows" / ROW
    figures = json.loads((folder / "benchmark.json").read_text())
    assert figures["videos_per_second"] > 0
    assert figures["memory_mib"] > 0
    assert figures["parameters"] > 10_000
    assert figures["macs"] > 1_000_000
    assert {"device", "threads", "torch", "frames"} <= set(json.loads((folder / "benchmark_machine.json").read_text()))


def test_video_row_trains_from_the_videos_alone(project):
    """Frames of the video row are decoded: without the packed frames of any row it still runs."""
    subprocess.run(["rm", "-rf", *map(str, project.folder.glob("data/motion/frames/*/*.tar"))], check=True)
    project.must("train", VIDEO_ROW)
    failed = project.run("train", ROW)
    assert failed.returncode != 0
    assert "extract_frames" in failed.stderr


@pytest.mark.parametrize(
    ("stage", "spoil", "words"),
    [
        ("train", "configs/custom", "no row 'custom'; there are r2plus1d_r34"),
        ("test", "models/custom", "run `dvc repro` to train the row"),
        ("train", "data/motion/lists", "run `dvc repro build_lists`"),
    ],
)
def test_missing_input_is_named_with_the_way_out(project, stage, spoil, words):
    subprocess.run(["rm", "-rf", str(project.folder / spoil)], check=True)
    failed = project.run(stage, "custom")
    assert failed.returncode == 1
    assert words in failed.stderr
    assert "Traceback" not in failed.stderr


def test_wrong_parameter_stops_at_the_first_stage(project):
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["model"]["framse"] = 8
    project.set(params)
    failed = project.run("resolve")
    assert failed.returncode == 1
    assert failed.stderr == "error: model: unknown key 'framse': did you mean 'frames'?\n"


@pytest.mark.parametrize(("path", "words"), [("no/such/place", "give the folder"), ("~/videos", "without ~")])
def test_dataset_without_a_folder_stops_at_the_first_stage(project, path, words):
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["dataset"], params["datasets"]["folder"]["path"] = "folder", path
    project.set(params)
    failed = project.run("resolve")
    assert failed.returncode == 1
    assert f"datasets.folder.path is '{path}': there is no such folder" in failed.stderr
    assert words in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_pipe_among_the_videos_is_refused_before_dvc_reads_it(project, tmp_path):
    (tmp_path / "mine" / "a").mkdir(parents=True)
    os.mkfifo(tmp_path / "mine" / "a" / "x.mp4")
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["dataset"], params["datasets"]["folder"]["path"] = "folder", str(tmp_path / "mine")
    project.set(params)
    failed = project.run("resolve")
    assert failed.returncode == 1
    assert "x.mp4: a pipe, socket or device, which DVC would read; remove it" in failed.stderr


def test_command_below_the_project_says_where_to_run_it(project):
    below = Project.at(project.folder / "docs")
    environment = {"PYTHONPATH": str(project.folder / "src")}
    for words in (("show", "custom"), ("browse", "custom"), ("profile",)):
        done = r2plus1d(below, *words, **environment)
        assert done.returncode == 1
        assert done.stderr.endswith(
            f"(you are in docs/ of the project; paths start in {project.folder}: run it there)\n"
        )
    outside = r2plus1d(Project.at(project.folder.parent), "profile", **environment)
    assert "of the project" not in outside.stderr


def test_copy_without_git_is_told_how_to_make_a_clone(project):
    done = r2plus1d(project, "verify", GIT_CEILING_DIRECTORIES=str(project.folder.parent))
    assert done.returncode == 1
    assert "Of a copy without .git, make one: git init && git add --all && git commit -m start" in done.stderr
