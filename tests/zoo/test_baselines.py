"""What needs no network: classifiers of a thumbnail and of what changes in time."""

import numpy as np
import pandas as pd
import pytest

from r2plus1d.datasets.annotations import Sample
from r2plus1d.zoo import baselines

CLASSES = ["dark", "bright", "moving"]


class Painted:
    """Reads videos of 20 frames of noise: dark or bright, and of the class `moving` with a jump between all frames."""

    def read(self, path: str, indices: np.ndarray, count: int) -> np.ndarray:
        assert count == 20
        assert list(indices) == sorted(set(indices))
        name, number = path.split("/")
        noise = np.random.default_rng([CLASSES.index(name), int(number)]).integers(0, 20, (24, 32, 3))
        ground = {"dark": 40, "bright": 180, "moving": int(number) % 2 * 140 + 40}[name]
        still = np.repeat((noise + ground)[None], len(indices), axis=0)
        jump = 30 * (np.asarray(indices) % 2)[:, None, None, None] if name == "moving" else 0
        return (still + jump).astype(np.uint8)


def samples(first: int, last: int) -> list[Sample]:
    return [Sample(f"{name}/{n}", 20, label) for label, name in enumerate(CLASSES) for n in range(first, last)]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return baselines.baselines(samples(0, 12), samples(12, 18), Painted(), CLASSES, 0)


def test_each_baseline_sees_what_is_its_own_and_no_more(table):
    right = {
        kind: (table[kind] == table["actual"]).groupby(table["actual"]).mean() for kind in ("appearance", "motion")
    }
    assert right["motion"]["moving"] == 1
    assert right["appearance"]["dark"] + right["appearance"]["moving"] < 2  # some dark ones look like moving ones
    still = table[table["actual"] != "moving"]
    assert "moving" not in set(still["motion"])
    assert not ((still["actual"] == "dark") & (still["appearance"] == "bright")).any()
    assert not ((still["actual"] == "bright") & (still["appearance"] == "dark")).any()
    assert set(still["appearance"]) >= {"dark", "bright"}


@pytest.mark.slow
def test_baselines_repeat_whatever_the_number_of_processes(table):
    again = baselines.baselines(samples(0, 12), samples(12, 18), Painted(), CLASSES, 2)
    pd.testing.assert_frame_equal(again, table)


def test_of_many_training_videos_some_at_even_distances_are_taken(monkeypatch, table):
    asked = set()

    class Listening(Painted):
        def read(self, path, indices, count):
            asked.add(path)
            return super().read(path, indices, count)

    monkeypatch.setattr(baselines, "MOST", 9)
    few = baselines.baselines(samples(0, 12), samples(12, 13), Listening(), CLASSES, 0)
    assert len(few) == 3
    assert len(asked) == 9 + 3
    assert {path.split("/")[0] for path in asked} == set(CLASSES)


def test_nothing_to_train_on_gives_no_lines():
    only_one_class = [sample for sample in samples(0, 3) if sample.label == 0]
    for train in ([], only_one_class):
        found = baselines.baselines(train, samples(0, 2), Painted(), CLASSES, 0)
        assert list(found.columns) == ["path", "actual", "appearance", "motion"]
        assert not len(found)


def test_video_of_one_frame_has_no_motion():
    class One:
        def read(self, path, indices, count):
            return np.full((len(indices), 24, 32, 3), 90, np.uint8)

    appearance, motion = baselines.look(Sample("a", 1, 0), One())
    assert appearance.shape == (3 * 16 * 16,)
    np.testing.assert_array_equal(appearance, 90)
    np.testing.assert_array_equal(motion, np.zeros(16 * 16))
