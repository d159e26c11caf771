"""How sure the figures of the report are, and what they are compared with."""

import dataclasses

import pandas as pd
import pytest

from r2plus1d.results import figures, report, summary
from tests.support.figures import COVERAGE, VIEWS, measured

COLUMNS = ["path", "actual", "predicted", "probability", "rank"]


def predicted(right: int, videos: int, probability: float = 0.9) -> pd.DataFrame:
    """Of so many videos the first ones right."""
    lines = [[f"{n}.mp4", "a", "a" if n < right else "b", probability, 1 if n < right else 2] for n in range(videos)]
    return pd.DataFrame(lines, columns=COLUMNS)


def simple(appearance: int, motion: int, videos: int) -> pd.DataFrame:
    lines = [
        [f"{n}.mp4", "a", "a" if n < appearance else "b", "a" if n < motion else "b"] for n in reversed(range(videos))
    ]
    return pd.DataFrame(lines, columns=["path", "actual", "appearance", "motion"])


@pytest.fixture
def row(rows):
    """The row `custom` with 60 of 100 videos right."""
    own = rows[-1]
    test = own.test | {"top1": 60.0, "top5": 100.0, "mean_class_accuracy": 30.0, "videos": 100}
    return dataclasses.replace(own, test=test, predictions=predicted(60, 100))


def test_accuracy_is_told_with_its_wilson_interval(row):
    """By hand: 0.6 of 100, z = 1.96: centre (0.6 + z²/200) / (1 + z²/100) = 0.5963, half width 0.0945."""
    assert str(row.top1) == "60.00 (50.2-69.1)"
    assert str(row.top5) == "100.00 (96.3-100.0)"


def test_mean_over_classes_has_a_bootstrap_interval_around_it(row):
    """Two classes, of which one is never right: half the share of the other."""
    accuracy = row.mean_class
    assert accuracy.percent == 30
    assert 24 < accuracy.interval.low < 27
    assert 33 < accuracy.interval.high < 36


def test_calibration_error_is_the_mean_distance_of_probability_and_share(row):
    """100 videos said to be right with 0.9, of which 60 are; then a quarter of them with 0.5, of which 15 of 25 are."""
    assert row.calibration_error == pytest.approx(30)
    table = row.predictions.copy()
    table.loc[::4, "probability"] = 0.5
    assert dataclasses.replace(row, predictions=table).calibration_error == pytest.approx((75 * 30 + 25 * 10) / 100)


def test_row_that_beats_its_baselines_is_said_to(row, published):
    names = summary.short_names([row.config], published)
    found = measured([row], names, baselines=simple(20, 30, 100))
    text = report.measured_table(found)
    assert "| ridge, thumbnail |  | 20.00 (13.3-28.9) |  | 10.00" in text
    assert "| ridge, changes |  | 30.00 (21.9-39.6) |" in text
    assert "The row beats the ridges: on the same videos, by McNemar's exact test." in text
    assert "one frame" not in text


def test_row_that_a_baseline_reaches_is_named_with_the_difference(row, published):
    names = summary.short_names([row.config], published)
    with_one = dataclasses.replace(row, one_frame=predicted(58, 100))
    text = report.measured_table(measured([with_one], names, baselines=simple(20, 59, 100)))
    assert "| custom, one frame |  | 58.00 (48.2-67.2) |" in text
    # one video more of 100: mean 0.01, and with two videos more sqrt((1 + 1 + 1) / 102 - (1 / 102)²) / sqrt(102)
    one_more = "custom does not beat `ridge, changes` (+1.0 points, -2.3 to +4.3)"
    assert f"Not told apart from a baseline, or worse: {one_more}" in text
    assert "`custom, one frame` (+2.0 points" in text
    assert "`ridge, thumbnail` (" not in text


def test_row_is_told_from_a_baseline_by_the_same_rule_as_by_compare(row, published):
    """11 videos of the row alone and 3 of the ridge alone: the interval leaves out 0, but p is 0.057."""
    names = summary.short_names([row.config], published)
    lines = [[f"{n}.mp4", "a", "b", "a" if 11 <= n < 63 else "b"] for n in range(100)]
    own = measured([row], names, baselines=pd.DataFrame(lines, columns=["path", "actual", "appearance", "motion"]))
    more = own.against(row)["ridge, changes"]
    assert (more.only_second, more.only_first) == (11, 3)
    assert more.interval.low > 0
    assert "custom does not beat `ridge, changes` (+8.0 points" in report.measured_table(own)


def test_test_of_one_video_has_the_widest_interval_and_no_error(row, published):
    names = summary.short_names([row.config], published)
    one = dataclasses.replace(row, test=row.test | {"videos": 1, "top1": 100.0}, predictions=predicted(1, 1))
    assert one.mean_class.interval == (0, 100)
    assert "| 30.00 (0.0-100.0) |" in report.measured_table(measured([one], names, baselines=simple(0, 1, 1)))


def test_top_5_of_five_classes_is_left_out(row, published):
    names = summary.short_names([row.config], published)
    assert "| 60.00 (50.2-69.1) | 100.00 (96.3-100.0) |" in report.measured_table(measured([row], names))
    few = measured([row], names, coverage={**COVERAGE, "classes": 5})
    assert "| 60.00 (50.2-69.1) |  | 30.00" in report.measured_table(few)


def test_interval_without_width_is_explained(row, published):
    names = summary.short_names([row.config], published)
    assert "without width" not in report.measured_table(measured([row], names))
    classes = pd.DataFrame([[f"{n}", "ab"[n % 2], "aa"[n % 2], 0.9, 1] for n in range(40)], columns=COLUMNS)
    flat = dataclasses.replace(row, test=row.test | {"mean_class_accuracy": 50.0}, predictions=classes)
    text = report.measured_table(measured([flat], names))
    assert "| 50.00 (50.0-50.0) |" in text
    assert "A mean class interval without width: each class is all right or all wrong." in text


def test_static_control_is_shown_where_a_row_gives_many_answers_alone(row, published):
    names = summary.short_names([row.config], published)
    assert "| custom | says nothing | 1 of 12 |" in report.details_table(measured([row], names))
    many = dataclasses.replace(row, test=row.test | {"static": {"top1": 30.0, "classes": 7}})
    assert "| custom | 30.00 (21.9-39.6) | 7 of 12 |" in report.details_table(measured([many], names))


def test_baseline_of_another_row_is_not_held_against_a_row(rows, row, published):
    one = dataclasses.replace(row, one_frame=predicted(90, 100))
    other = dataclasses.replace(rows[0], test=row.test, predictions=predicted(60, 100))
    names = summary.short_names([one.config, other.config], published)
    found = measured([other, one], names)
    assert found.against(other) == {}
    assert list(found.against(one)) == ["custom, one frame"]
    assert found.against(one)["custom, one frame"].points == pytest.approx(-30)


def test_table_of_views_gives_each_number_of_clips_and_crops(row, published):
    names = summary.short_names([row.config], published)
    views = pd.DataFrame([[n, c, 40 + n + c, 100] for n in range(1, 11) for c in (1, 3)], columns=VIEWS)
    table = report.views_table(measured([dataclasses.replace(row, views=views)], names)).splitlines()
    assert table[0] == "| row | crops | 1 clip | 2 clips | 3 clips | 5 clips | 10 clips |"
    assert table[2].startswith("| custom | 1 | 42.00 (32.8-51.8) | 43.00 (")
    assert table[3].startswith("| custom | 3 | 44.00 (")


def test_interval_of_nothing_right_and_of_all_right_ends_at_the_ends():
    assert figures.share(0.0, 20).interval.low == 0
    assert figures.share(100.0, 20).interval.high == 100
