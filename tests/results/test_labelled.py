"""The accuracies of videos whose folders name their classes."""

from pathlib import Path

import numpy as np
import pytest

from r2plus1d.results.labelled import Labelled
from r2plus1d.zoo.prediction import Window

NAMES = ["dips", "pull ups", "squats", "rows"]


def told(tmp_path, answers: list[tuple[str, str]]) -> str:
    """Of a video for each (folder, class that is found in it)."""
    videos = [tmp_path / folder / f"{number}.mp4" for number, (folder, _) in enumerate(answers)]
    labelled = Labelled(videos, NAMES)
    for video, (_, taken) in zip(videos, answers, strict=True):
        scores = np.full(len(NAMES), 0.1, np.float32)
        scores[NAMES.index(taken)] = 0.7
        labelled.add(video, [Window(0.0, 1.0, scores, np.empty((0, 8, 8, 3), np.uint8))])
    return labelled.told(tmp_path)


@pytest.mark.parametrize("wrong", ["squats", "rows", "dips"])
def test_mean_class_is_over_the_classes_of_the_folders_whatever_a_wrong_answer_is(tmp_path, wrong):
    answers = [("dips", "dips")] * 2 + [("pull ups", "pull ups")] * 3 + [("pull ups", wrong)]
    assert "top-1 83.33 (" in told(tmp_path, answers)
    assert ", mean class 87.50 (" in told(tmp_path, answers)


@pytest.mark.parametrize("wrong", ["dips", "squats", "rows"])
def test_interval_of_mean_class_is_the_same_whatever_a_wrong_answer_is(tmp_path, wrong):
    """Of a class of one video, which many resamples have not: there the other class counts alone."""
    said = told(tmp_path, [("dips", "dips")] + [("pull ups", "pull ups")] * 5 + [("pull ups", wrong)] * 5)
    low = float(said.partition("mean class 75.00 (")[2].partition("-")[0])
    assert 20 < low < 40


def test_mean_class_of_one_class_is_its_top1(tmp_path):
    assert ", mean class 50.00 (" in told(tmp_path, [("dips", "dips"), ("dips", "rows")])


def test_folder_of_a_video_given_from_below_is_known(tmp_path, monkeypatch):
    (tmp_path / "dips" / "more").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "dips" / "more")
    assert Labelled([Path("../a.mp4")], NAMES).actual(Path("../a.mp4")) == "dips"
