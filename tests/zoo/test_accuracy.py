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
