"""The accuracies."""

import numpy as np
import pytest

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
