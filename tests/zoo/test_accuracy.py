"""The accuracies."""

import numpy as np
import pytest

from r2plus1d.video.views import center_box, three_crop_boxes
from r2plus1d.zoo import accuracy


def test_ties_go_to_the_later_class():
    scores = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    assert accuracy.top_k_accuracy(scores, np.array([1, 1]), 1) == 1.0
    assert accuracy.top_k_accuracy(scores, np.array([0, 0]), 1) == 0.0
    assert accuracy.top_k_accuracy(scores, np.array([0, 0]), 2) == 1.0


def test_labels_outside_the_classes_are_an_error():
    with pytest.raises(ValueError, match=r"0\.\.2"):
        accuracy.top_k_accuracy(np.zeros((2, 3)), np.array([0, 3]), 1)
    with pytest.raises(ValueError, match="N at least 1"):
        accuracy.mean_class_accuracy(np.zeros((0, 3)), np.zeros(0, int))


SCORES = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3], [0.4, 0.35, 0.25], [0.3, 0.6, 0.1]])
LABELS, CLASSES = np.array([0, 0, 1, 2, 2]), ["a", "b c", "1", "unseen"]


def test_every_video_has_its_prediction_and_the_rank_of_its_class():
    paths = [f"{n}.mp4" for n in range(5)]
    table = accuracy.predictions(paths, SCORES, LABELS, CLASSES, "prob")
    assert table.values.tolist() == [
        ["0.mp4", "a", "a", 0.7, 1],
        ["1.mp4", "a", "b c", 0.5, 3],
        ["2.mp4", "b c", "b c", 0.6, 1],
        ["3.mp4", "1", "a", 0.4, 3],
        ["4.mp4", "1", "b c", 0.6, 3],
    ]
    assert (table["rank"] == 1).mean() == accuracy.top_k_accuracy(SCORES, LABELS, 1)
    logits = accuracy.predictions(paths, np.log(SCORES) + 5, LABELS, CLASSES, "score")
    assert logits.values.tolist() == table.values.tolist()


def test_every_class_has_precision_recall_and_what_it_was_taken_for():
    scores = np.hstack([SCORES, np.zeros((5, 1))])
    table = accuracy.per_class(scores, LABELS, CLASSES)
    assert table.values.tolist() == [
        ["a", 2, 50.0, 50.0, 50.0, "b c 1"],
        ["b c", 1, 33.33, 100.0, 50.0, ""],
        ["1", 2, 0.0, 0.0, 0.0, "a 1, b c 1"],
    ]
    assert round(table["recall"].mean() / 100, 4) == accuracy.mean_class_accuracy(scores, LABELS)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_never_counted(odd):
    scores = np.array([[0.1, 0.9], [odd, 0.2]])
    for count in (lambda: accuracy.top_k_accuracy(scores, np.array([1, 0]), 1), lambda: accuracy.check_finite(scores)):
        with pytest.raises(accuracy.ScoresError, match="the scores are not finite: the network overflows"):
            count()


def test_fewer_views_are_those_at_even_distances_by_the_middle_crop_or_all():
    """Three crops of four clips, two classes: each view votes for class 1 by its own number."""
    scores = np.stack([np.zeros(12), np.arange(12.0)], axis=1)  # view number = crop * 4 + clip
    found = accuracy.of_fewer_views(scores, 3, "score")
    assert set(found) == {(n, c) for n in (1, 2, 3, 4) for c in (1, 3)}
    expected = {
        (1, 1): [10],  # the clip in the middle
        (2, 1): [9, 11],
        (3, 1): [8, 10, 11],
        (4, 1): [8, 9, 10, 11],
        (1, 3): [2, 6, 10],
        (2, 3): [1, 3, 5, 7, 9, 11],
    }
    for number, views in expected.items():
        np.testing.assert_allclose(found[number], [0, np.mean(views)])
    np.testing.assert_array_equal(found[4, 3], accuracy.average_views(scores, "score"))
    assert set(accuracy.of_fewer_views(scores[:4], 1, "prob")) == {(n, 1) for n in (1, 2, 3, 4)}


def test_fewer_views_by_one_crop_are_those_of_the_centre():
    middle = three_crop_boxes(10, 20, 10).index(center_box(10, 20, 10))
    scores = np.zeros((3, 4, 2))
    scores[middle] = 0, 1
    found = accuracy.of_fewer_views(scores.reshape(12, 2), 3, "score")
    assert [found[number, 1][1] for number in (1, 2, 3, 4)] == [1] * 4
