"""The spread over seeds: figures by hand, what stays of earlier results, the table, and what the report asks."""

import hashlib
import math

import pytest

from r2plus1d.results import plots, seeds
from r2plus1d.results.intervals import adjusted, over_seeds
from r2plus1d.system import paths
from r2plus1d.system.files import write_json, write_text

NAMES = {"custom": "custom", "long_name": "8x8_256p"}
OF = {"custom": "c0", "long_name": "l0"}


def one(top1: float, weights: str = "w") -> dict:
    figures = {"top1": top1, "mean_class_accuracy": top1 - 1, "single_clip_top1": top1 - 2, "weights": weights}
    return figures | {"split": "test", "videos": 144}


def now(tops: dict[int, float], current: int = 0) -> dict:
    return {
        "asked": [0, 1, 2],
        "current": current,
        "seeds": {seed: one(top1, f"w{seed}") for seed, top1 in tops.items()},
    }


def measured(**rows: dict[int, float]) -> seeds.Found:
    return seeds.merged({"rows": {}}, "motion", OF, {row: now(tops) for row, tops in rows.items()})


def test_mean_and_sample_deviation_are_those_by_hand():
    """Of 60, 62 and 67: mean 63, squares 9 + 1 + 16 over 2, root 3.61."""
    found = measured(custom={0: 60.0, 2: 67.0, 1: 62.0})
    assert found["rows"]["custom"]["top1"] == {"mean": 63.0, "deviation": 3.61, "least": 60.0, "most": 67.0}
    assert list(found["rows"]["custom"]["seeds"]) == ["0", "1", "2"]
    assert seeds.spread_text(found, "custom") == "63.00 ± 3.61 (3)"
    assert seeds.spread_text(measured(custom={0: 60.0}), "custom") is None
    assert seeds.spread_text(found, "long_name") is None
    assert (found["dataset"], found["split"], found["videos"]) == ("motion", "test", 144)


def test_other_rows_and_other_seeds_of_the_same_configuration_stay():
    before = measured(custom={0: 60.0, 1: 62.0}, long_name={0: 70.0, 1: 71.0})
    after = seeds.merged(before, "motion", OF, {"custom": now({0: 60.0, 2: 67.0})})
    assert list(after["rows"]["custom"]["seeds"]) == ["0", "1", "2"]
    assert after["rows"]["long_name"] == before["rows"]["long_name"]
    assert list(after["rows"]) == ["custom", "long_name"]


@pytest.mark.parametrize(
    ("dataset", "identities", "tops"),
    [
        ("other", OF, {0: 60.0}),
        ("motion", OF | {"custom": "c1"}, {0: 60.0}),
        ("motion", OF, {0: 61.0}),  # other code made another training of the current seed
    ],
)
def test_results_of_other_data_configuration_or_code_are_not_mixed_in(dataset, identities, tops):
    before = measured(custom={0: 60.0, 1: 62.0})
    after = seeds.merged(before, dataset, identities, {"custom": now(tops)})
    assert list(after["rows"]["custom"]["seeds"]) == ["0"]


def test_row_of_another_configuration_or_none_any_more_leaves_the_file():
    before = measured(custom={0: 60.0}, long_name={0: 70.0})
    assert list(seeds.merged(before, "motion", {"custom": "c0", "long_name": "l1"}, {})["rows"]) == ["custom"]
    assert list(seeds.merged(before, "motion", {"custom": "c0"}, {})["rows"]) == ["custom"]


def test_merging_the_same_again_changes_nothing():
    found = measured(custom={0: 60.0, 1: 62.0})
    assert seeds.merged(found, "motion", OF, {"custom": now({0: 60.0})}) == found


def test_table_names_what_is_missing():
    found = measured(custom={0: 60.0, 1: 62.0}, long_name={0: 70.0, 1: 71.0, 2: 75.0})
    lines = seeds.table(found, NAMES).splitlines()
    assert lines[0] == "Measured on the 144 test videos of `motion`."
    assert lines[2] == "| row | top-1 | least | most | mean class | single clip | seed 0 | seed 1 | seed 2 |"
    assert lines[4] == "| custom | 61.00 ± 1.41 (2) | 60.00 | 62.00 | 60.00 | 59.00 | 60.00 | 62.00 | missing |"
    assert lines[5] == "| 8x8_256p | 72.00 ± 2.65 (3) | 70.00 | 75.00 | 71.00 | 70.00 | 70.00 | 71.00 | 75.00 |"
    assert lines[-1] == "**Missing: custom with seed 2.**"
    assert "Missing" not in seeds.table(measured(custom={0: 60.0, 1: 62.0, 2: 63.0}), NAMES)


def test_rows_are_compared_over_the_seeds_that_they_share():
    """Of 8, 9 and 13 points: mean 10, deviation 2.65, standard error 1.53, t 6.55 with two degrees of freedom, whose
    97.5% quantile is 4.303; p = 1 - t / sqrt(2 + t^2) there."""
    found = measured(custom={0: 60.0, 1: 62.0, 2: 62.0, 3: 99.0}, long_name={2: 75.0, 0: 68.0, 1: 71.0})
    more = seeds.difference(found, "custom", "long_name")
    assert (more.points, more.p) == pytest.approx((10.0, 1 - 6.5465 / math.sqrt(2 + 6.5465**2)), rel=1e-4)
    assert more.interval == pytest.approx((10 - 4.3027 * 1.5275, 10 + 4.3027 * 1.5275), rel=1e-4)
    lines = seeds.table(found, NAMES).splitlines()
    assert "| rows | points (95% interval) | seeds | p | p among 1 |" in lines
    assert "| 8x8_256p - custom | +10.00 (+3.4 to +16.6) | 3 | 0.023 | 0.023 |" in lines
    assert seeds.difference(found, "custom", "gone") is None
    assert "p among" not in seeds.table(measured(custom={0: 60.0, 1: 62.0}, long_name={0: 70.0}), NAMES)


def test_equal_differences_say_no_more_than_whole_videos_can():
    """On 60 videos one is 1.667 points, and differences of two figures rounded to that deviate by 0.68: of two seeds
    t is 3.46 with one degree of freedom, where p = 1 - 2 atan(t) / pi."""
    more = over_seeds([60.0, 61.667], [61.667, 63.333], 60)
    assert (more.points, more.p, more.seeds) == pytest.approx((1.6665, 1 - 2 * math.atan(3.464) / math.pi, 2), rel=1e-3)
    assert more.interval.low < 0 < more.interval.high
    none = over_seeds([60.0, 61.667], [60.0, 61.667], 60)
    assert (none.points, none.p) == (0.0, 1.0)
    assert over_seeds([60.0] * 5, [70.0] * 5, 60).p < 0.001


def test_p_is_adjusted_for_the_number_of_tests():
    """By hand: the k-th least of m is multiplied by m / k, and none is above a larger one."""
    assert adjusted([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])


def test_spread_is_told_of_the_weights_and_the_test_that_lie_there_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(paths.metrics("custom", "test.json"), {"top1": 62.0})
    write_text(paths.weights("custom"), "weights")
    found = measured(custom={0: 60.0, 1: 62.0}, long_name={0: 70.0})

    def known():
        return seeds.of_what_lies_here(found, ("custom", "long_name", "gone"))["rows"]

    assert known() == {}
    found["rows"]["custom"]["seeds"]["1"]["weights"] = hashlib.md5(b"weights").hexdigest()
    assert known() == {"custom": found["rows"]["custom"]}
    write_json(paths.metrics("custom", "test.json"), {"top1": 61.0})  # of fewer clips, say
    assert known() == {}
    paths.metrics("custom", "test.json").unlink()
    assert known() == {}


def test_same_figures_give_the_same_bytes_in_every_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths.RESULTS.parent.mkdir()
    paths.RESULTS.write_text("# R\n\n<!-- seeds -->\n<!-- /seeds -->\n")
    files = (seeds.SEEDS, seeds.TABLE, seeds.PICTURE, paths.RESULTS)
    found = measured(custom={0: 60.0, 1: 62.0}, long_name={0: 70.0})
    seeds.publish(found, NAMES)
    first = [file.read_bytes() for file in files]
    seeds.publish(seeds.read(), NAMES)
    assert [file.read_bytes() for file in files] == first
    assert seeds.read() == found
    assert "![Top-1 of each seed, by row](../metrics/seeds.png)" in paths.RESULTS.read_text()


def test_file_that_is_no_such_file_counts_as_nothing_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert seeds.read() == {"rows": {}}
    for spoilt in ([], {"rows": 3}, None):
        write_json(seeds.SEEDS, spoilt)
        assert seeds.read() == {"rows": {}}


def test_plot_shows_each_seed_and_the_mean(tmp_path):
    drawn = seeds.figure(measured(custom={0: 60.0, 1: 62.0}, long_name={0: 70.0}), NAMES)
    axes = drawn.axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[60.0, 62.0], [70.0]]
    assert [text.get_text() for text in axes.texts] == ["61.0", "70.0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["custom", "8x8_256p"]
    plots.save_figure(drawn, tmp_path / "a.png")
