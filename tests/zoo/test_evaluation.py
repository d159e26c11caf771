"""What the test of a trained network says of it, and the validation view."""

import dataclasses
import types

import numpy as np
import pytest
import torch

from r2plus1d.clips.items import ValClips
from r2plus1d.config.schema import CUSTOM, TestedRow
from r2plus1d.zoo import accuracy, evaluation
from r2plus1d.zoo.rows import open_row
from r2plus1d.zoo.update import normalised
from r2plus1d.zoo.validation import validation_scores
from tests.zoo.test_starting import changed, network

CPU = torch.device("cpu")


@pytest.fixture(params=["mmaction", "torchvision"])
def row(request, prepared, monkeypatch):
    """A narrow row tested by a few small views, with a network and videos labelled as it takes their middle frames."""
    monkeypatch.chdir(prepared.folder)
    row = open_row(CUSTOM, TestedRow)
    views = {"clips": 3, "crops": 3, "resize": 16, "crop": 16, "average_clips": "score", "keep_views": True}
    train = {"videos_per_gpu": 5, "resize": 20, "crop": 16}
    own = {"train": train, "test": views, "clip": {"frames": 4}, "model": {"family": request.param}}
    found = types.SimpleNamespace(config=changed(row.config, **own), samples=row.splits["val"], reader=row.reader)
    found.network = network(family=request.param, num_classes=12)
    last = found.network.cls_head.fc_cls
    torch.nn.init.normal_(last.weight, std=3)  # or it would take all of them for one class
    last.bias.data -= torch.from_numpy(shown(found)).mean(0)
    labels = shown(found, static=True).argmax(1).tolist()
    found.samples = [dataclasses.replace(s, label=label) for s, label in zip(found.samples, labels, strict=True)]
    return found


def shown(row, static=False) -> np.ndarray:
    """float32 [N, K]: the logits of the validation view."""
    clips = ValClips(row.config, row.samples, row.reader, static)
    x = torch.stack([clips[index][0] for index in range(len(clips))])
    with torch.inference_mode():
        return row.network(normalised(x, CPU, row.network.family)).numpy()


def result_of(row) -> evaluation.Result:
    network = evaluation.WholeNetwork(row.config, row.network, row.reader, 0)
    return evaluation.test(row.config, network, row.samples)


def test_validation_scores_are_the_network_s_of_pixels_normalised_as_its_family_has_them(row):
    scores, labels = validation_scores(row.config, row.network, row.samples, row.reader, CPU, 0)
    np.testing.assert_allclose(scores, shown(row), rtol=1e-4, atol=1e-4)
    assert labels.tolist() == [sample.label for sample in row.samples]


def test_views_of_all_numbers_are_averaged_as_the_row_says(row):
    result = result_of(row)
    views = result.views.astype(np.float64)
    assert views.shape == (12, 9, 12)
    np.testing.assert_allclose(result.scores, accuracy.average_views(views, "score"), rtol=0, atol=0.02)
    found = [accuracy.of_fewer_views(video, 3, "score") for video in views]
    for clips, crops, right, videos in result.fewer.itertuples(index=False):
        averages = np.stack([video[clips, crops] for video in found])
        assert (right, videos) == ((averages.argmax(1) == result.labels).sum(), 12)
    assert result.figures["top1"] == pytest.approx(100 * right / 12, abs=0.01)


def test_accuracies_are_those_of_the_scores(row):
    result = result_of(row)
    order = np.argsort(-result.scores, axis=1)
    first, of = order[:, 0], set(result.labels) | set(order[:, 0])
    recalls = [(first[result.labels == k] == k).mean() if k in result.labels else 0 for k in of]
    expected = {
        "top1": np.mean(first == result.labels),
        "top5": np.mean((order[:, :5] == result.labels[:, None]).any(1)),
        "mean_class_accuracy": np.mean(recalls),
    }
    assert len(set(expected.values())) == 3
    assert {key: result.figures[key] for key in expected} == {k: round(100 * v, 2) for k, v in expected.items()}


def test_static_control_is_of_the_repeated_middle_frame_and_the_single_clip_of_the_moving_one(row):
    figures, moving = result_of(row).figures, shown(row).argmax(1)
    labels = [sample.label for sample in row.samples]
    assert figures["static"] == {"top1": 100, "classes": len(set(labels))}
    assert figures["single_clip"]["top1"] == round(100 * np.mean(moving == labels), 2) < 100
