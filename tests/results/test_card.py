"""The model card: the hub reads its figures, and a person what the weights are."""

import dataclasses

import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard

from r2plus1d.model import checkpoint
from r2plus1d.model.network import build
from r2plus1d.results.card import card
from r2plus1d.system import paths
from tests.support.figures import COVERAGE

RECORD = {
    "commit": {"id": "0123456789abcdef", "changed": ["params.yaml"], "package": "src/r2plus1d"},
    "libraries": {"torch": "2.0", "numpy": "2.1"},
    "weights_of": None,
    "arithmetic": "exact",
}


@pytest.fixture
def figures(rows, tmp_path, monkeypatch):
    """The row `custom` with a file of weights."""
    monkeypatch.chdir(tmp_path)
    (row,) = (row for row in rows if row.config.row == "custom")
    written(row)
    return dataclasses.replace(row, test=row.test | {"static": {"top1": None}, "split": "test"})


def written(row, *names: str, **view) -> None:
    """Weights of a row in their file, with the names of its classes."""
    torch.manual_seed(0)
    network = build(depth=10, width=4, num_classes=len(names) or 2)
    network.classes = list(names or ("a <b> & c", "b"))
    test = row.config.test
    network.view = dataclasses.replace(network.view, **{"resize": test.resize, "crop": test.crop, "crops": 1} | view)
    checkpoint.save(network, paths.weights(row.config.row))


def told(row, config=None, record=RECORD, classes=None, coverage=COVERAGE) -> str:
    classes = row.classes if classes is None else classes
    return card(config or row.config, row.test, row.predictions, classes, coverage, record, {"arithmetic": "native"})


def test_hub_reads_the_figures(figures):
    read = ModelCard(told(figures))
    results = {result.metric_name: result.metric_value for result in read.data.eval_results}
    assert results["top-1"] == figures.test["top1"]
    assert "top-5" not in results  # of two classes
    assert results["mean class accuracy"] == figures.test["mean_class_accuracy"]
    assert "top-1 of one repeated frame" not in results  # was not measured
    (first, *_) = read.data.eval_results
    assert (first.task_type, first.dataset_type, first.dataset_split) == ("video-classification", "motion", "test")
    assert read.data.model_name == "custom"
    assert read.data.pipeline_tag == "video-classification"
    assert "license" not in read.data.to_dict()


def test_card_repeats_to_the_byte(figures):
    assert told(figures) == told(figures)


def test_card_says_what_the_weights_are_and_what_made_them(figures):
    text = told(figures)
    learned = sum(tensor.numel() for tensor in build(depth=10, width=4, num_classes=2).parameters())
    assert f"{learned / 1e6:.3g} million parameters" in text
    depth = figures.config.model.depth
    assert f"R(2+1)D with {depth} layers, trained on the dataset `motion`: 2 classes, 360 videos." in text
    assert r"Classes: a \<b\> \& c, b." in text
    assert "| class | videos | precision | recall | taken for |" in text
    assert r"| a \<b\> \& c | 1 | 50.0 | 100.00 (20.7-100.0) |  |" in text
    assert r"| b | 1 | 0.0 | 0.00 (0.0-79.3) | a \<b\> \& c 1 |" in text
    assert "commit 0123456789abcdef, with changes in 1 file" in text
    assert "torch 2.0, numpy 2.1" in text
    assert "On 2 test videos" in text
    assert "10 clips x 3 crops of each, in native arithmetic." in text
    assert "- arithmetic of the training: exact" in text
    assert "published weights" not in text
    assert "--weights model.safetensors --clips 10 --crops 3" in text
    assert text.endswith("videos.\n")
    assert "{{" not in text


def test_card_of_a_zoo_row_says_that_the_published_weights_are_others(rows, figures):
    row = rows[0]
    written(row)
    assert "these are not the published weights" in told(row)


def test_card_of_weights_from_elsewhere_names_them(figures):
    config = figures.config.model_copy(update={"checkpoint": "https://x.org/r34.pth"})
    text = told(figures, config, RECORD | {"weights_of": "https://x.org/r34.pth"})
    assert "Weights of https://x.org/r34.pth, not trained here" in text
    assert "- training:" not in text
    assert "The terms of the weights that it came from hold for it too. This card names no licence" in text
    started = told(figures, figures.config.model_copy(update={"init": "/home/me/w.pth"}))
    assert "training: fine-tuned, " in started
    assert "seed 0; started from `w.pth`" in started
    assert "/home/me" not in started


def test_card_of_a_last_layer_tells_how_it_was_trained(figures):
    train = figures.config.train.model_copy(update={"freeze": "all"})
    text = told(figures, figures.config.model_copy(update={"init": "torchvision", "train": train}))
    assert "the last layer alone, by L-BFGS on the features of 4 views of each video" in text
    assert "all other layers as in `torchvision`" in text
    assert "epochs" not in text


def test_card_says_of_a_chosen_weight_decay_where_it_stands(figures):
    train = {"freeze": "all", "weight_decay": "auto"}
    config = figures.config.model_copy(
        update={"init": "torchvision", "train": figures.config.train.model_copy(update=train)}
    )
    assert "weight decay chosen by cross-validation (in train.log), seed" in told(figures, config=config)


def test_card_promises_the_views_of_the_test_only_where_the_file_gives_them(figures):
    promise = "shows a video as the figures above were measured"
    assert promise in told(figures)
    written(figures, crop=figures.config.test.crop - 8)
    assert promise not in told(figures)
    assert "`r2plus1d predict --row custom` does the same" in told(figures)
    written(figures, spread="ends")
    assert promise not in told(figures)


def test_card_warns_of_videos_of_one_recording(figures):
    assert "3 pairs of videos" in told(figures, coverage=COVERAGE | {"suspected_pairs": 3})


def test_card_counts_videos_that_are_shorter_than_a_clip(figures):
    assert "shorter than a clip" not in told(figures)
    assert "shorter than a clip, which then repeats them from their start: 1." in told(
        dataclasses.replace(figures, test=figures.test | {"repeated": 1})
    )


def test_many_classes_are_counted_not_named(figures):
    names = [f"class {n}" for n in range(400)]
    columns = ["class", "videos", "precision", "recall", "f1", "taken_for"]
    written(figures, *names)
    classes = pd.DataFrame([[name, 2, 100.0, 100.0, 100.0, ""] for name in names], columns=columns)
    text = told(figures, classes=classes)
    assert {result.metric_name: result.metric_value for result in ModelCard(text).data.eval_results}["top-5"] == 99.0
    assert "The names of the 400 classes stand in the file's metadata." in text
    assert "weakest" not in text


def test_card_of_a_row_without_a_record_says_so(figures):
    assert "- code: not known" in told(figures, record={})


def test_classes_without_test_videos_are_counted(figures):
    written(figures, "a <b> & c", "b", "never seen")
    text = told(figures)
    assert "`motion`: 3 classes" in text
    assert "never seen" in text
