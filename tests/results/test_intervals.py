"""How sure an accuracy is. Numbers of others, with their source, or computed by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from r2plus1d.results import intervals
from r2plus1d.zoo.accuracy import mean_class_accuracy

Z = 1.959964  # of the normal distribution, 95% lie within so many standard deviations


# Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3: the score interval without correction.
@pytest.mark.parametrize(
    ("right", "videos", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_of_a_share_is_that_of_published_examples(right, videos, low, high):
    assert intervals.wilson(right, videos) == pytest.approx((100 * low, 100 * high), abs=0.005)
    turned = intervals.wilson(videos - right, videos)
    assert turned == pytest.approx((100 - 100 * high, 100 - 100 * low), abs=0.005)


@pytest.mark.parametrize(("right", "videos"), [(7, 50), (0, 1), (1, 1), (144, 144), (13_323, 19_796)])
def test_interval_of_a_share_is_that_of_scipy(right, videos):
    """7 of 50 are those of scipy's documentation of `binomtest`."""
    theirs = stats.binomtest(right, videos).proportion_ci(0.95, method="wilson")
    assert intervals.wilson(right, videos) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1e-9)


@pytest.mark.parametrize(("right", "videos"), [(7, 50), (0, 20), (144, 144), (13_323, 19_796)])
def test_interval_to_plan_with_is_that_of_the_counted_share(right, videos):
    counted = intervals.wilson(right, videos)
    assert intervals.wilson_of_share(right / videos, videos) == pytest.approx(counted, abs=1e-9)


def test_interval_to_plan_with_takes_a_fraction_of_a_video_and_narrows_as_videos_grow():
    """0.5 of 1: (0.5 + z^2 / 2 -+ z sqrt(0.25 + z^2 / 4)) / (1 + z^2) = 0.5 -+ z / (2 sqrt(1 + z^2))"""
    half = 100 * Z / (2 * math.sqrt(1 + Z**2))
    assert intervals.wilson_of_share(0.5, 1) == pytest.approx((50 - half, 50 + half), abs=1e-4)
    found = [intervals.wilson_of_share(0.07, videos) for videos in range(1, 300)]
    assert all(a.low < b.low < 7 < b.high < a.high for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(("right", "videos"), [(-1, 5), (6, 5), (0, 0)])
def test_share_of_more_than_there_are_or_of_nothing_has_no_interval(right, videos):
    with pytest.raises(ValueError, match=r"."):
        intervals.wilson(right, videos)


def test_interval_is_widest_where_half_are_right():
    reach = [(high - low) / 2 for low, high in (intervals.wilson(right, 400) for right in range(401))]
    assert intervals.widest(400) == reach[200] == max(reach)


def answers(videos: int, classes: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Actual and predicted classes [N], such a share of them right by design, the others anything."""
    rng = np.random.default_rng(seed)
    actual = rng.integers(0, classes, videos)
    return actual, np.where(rng.random(videos) < share, actual, rng.integers(0, classes, videos))


def slow(actual: np.ndarray, predicted: np.ndarray) -> float:
    return mean_class_accuracy(np.eye(10)[predicted], actual)


def test_interval_of_the_mean_over_classes_is_the_same_for_the_same_seed_alone():
    actual, predicted = answers(60, 5, 0.6, 1)
    first = intervals.mean_class(actual, predicted)
    assert intervals.mean_class(actual, predicted) == first
    assert intervals.mean_class(actual.astype(str), predicted.astype(str)) == first  # names as well as numbers
    assert intervals.mean_class(actual, predicted, seed=1) != first


@pytest.mark.parametrize(("videos", "classes"), [(6, 4), (60, 5), (2500, 10)])
def test_interval_of_the_mean_over_classes_is_scipys_of_the_accuracy_of_the_tables(videos, classes):
    """Of 6 videos of 4 classes, a resample often lacks a class. 2,500 are drawn in more than one batch."""
    actual, predicted = answers(videos, classes, 0.6, videos)
    plain = stats.bootstrap(
        (actual, predicted),
        slow,
        paired=True,
        vectorized=False,
        n_resamples=intervals.RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = intervals.mean_class(actual, predicted)
    assert found == pytest.approx((100 * plain.low, 100 * plain.high), abs=1e-9)
    assert found.low < 100 * slow(actual, predicted) < found.high


def test_interval_of_the_mean_over_classes_is_the_accuracy_itself_where_all_videos_are_alike():
    for actual, predicted in ((1, 1), (1, 2)):
        all_alike = np.full(9, actual), np.full(9, predicted)
        assert intervals.mean_class(*all_alike) == pytest.approx((100 * slow(*all_alike),) * 2)


def test_interval_of_the_mean_over_classes_is_that_of_the_binomial_distribution_where_one_class_is_measured():
    """80 of 100 videos of class 0 are right, the others are taken for class 1, which has none: half the share right.
    A resample has Binomial(100, 0.8) right ones, of which 2.5% are below 72 and 2.5% above 87: 36 to 43.5."""
    actual, predicted = np.zeros(100, int), np.repeat([0, 1], [80, 20])
    assert intervals.mean_class(actual, predicted) == pytest.approx((36.0, 43.5), abs=0.5)


def right(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Which videos two networks have right, so many both, the first or the second alone, and neither."""
    counts = (both, first, second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_difference_of_two_networks_is_the_one_computed_by_hand():
    """Bonett and Price 2012: of 10 videos, 1 for the first alone and 4 for the second, and one more of each: 2 and 5
    of 12. Mean (5 - 2) / 12 = 1/4; mean of the squares 7/12; variance 7/12 - 1/16 = 25/48; standard error
    sqrt(25/48 / 12) = 5/24. 25 -+ 1.959964 * 20.8333 points = -15.83 to 65.83.
    McNemar: of 5 fair coins, at most 1 or at least 4 are heads in 2 * (1 + 5) of 32 cases."""
    found = intervals.paired(*right(3, 1, 4, 2))
    assert found.points == pytest.approx(30)
    assert found.interval == pytest.approx((25 - Z * 500 / 24, 25 + Z * 500 / 24), abs=1e-4)
    assert (found.only_first, found.only_second, found.p) == (1, 4, pytest.approx(12 / 32))


def test_difference_turns_with_the_order_of_the_networks():
    one, other = right(3, 1, 4, 2)
    there, back = intervals.paired(one, other), intervals.paired(other, one)
    assert back.points == -there.points
    assert back.interval == pytest.approx((-there.interval.high, -there.interval.low))
    assert (back.only_first, back.only_second, back.p) == (there.only_second, there.only_first, there.p)


def test_test_of_two_networks_is_that_of_a_textbook():
    """Armitage and Berry 1994, page 127, two media for one culture: both 20, one alone 12 and 2, neither 16; exact
    two-sided P = 0.0129. By hand 2 * (1 + 14 + 91) of 2^14."""
    found = intervals.paired(*right(20, 12, 2, 16))
    assert found.p == pytest.approx(212 / 2**14)
    assert round(found.p, 4) == 0.0129


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 3), (10, 25), (700, 801)])
def test_test_of_two_networks_is_the_binomial_one_of_the_videos_that_one_alone_has_right(first, second):
    found = intervals.paired(*right(20, first, second, 5))
    assert found.p == pytest.approx(stats.binomtest(first, first + second, 0.5).pvalue)


def test_networks_that_agree_on_every_video_differ_by_nothing_within_an_interval():
    """Of n videos, 2 of n + 2 are those added: -+ z sqrt(2 / (n + 2)) / sqrt(n + 2) = -+ z sqrt(2) / (n + 2)."""
    found = intervals.paired(*right(5, 0, 0, 3))
    assert (found.points, found.only_first, found.only_second, found.p) == (0, 0, 0, 1)
    assert found.interval == pytest.approx((-100 * Z * math.sqrt(2) / 10, 100 * Z * math.sqrt(2) / 10), abs=1e-4)


def test_difference_is_never_more_than_100_points():
    """3 for the second alone: 4 and 1 of 5, mean 0.6, variance 1 - 0.36, standard error 0.8 / sqrt(5) = 0.35777."""
    found = intervals.paired(*right(0, 0, 3, 0))
    assert found.interval == pytest.approx((60 - 100 * Z * 0.8 / math.sqrt(5), 100), abs=1e-4)
    assert intervals.paired(*right(0, 3, 0, 0)).interval.low == -100


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((2,), (3,)), ((2, 1), (2, 1))])
def test_networks_on_other_videos_or_on_none_are_not_compared(shapes):
    with pytest.raises(ValueError, match="of the same videos"):
        intervals.paired(*(np.zeros(shape, bool) for shape in shapes))


def test_where_the_exact_test_tells_two_networks_apart_the_interval_leaves_out_0():
    """So the verdict of `compare`, which is the test's, never stands beside an interval with 0 in it."""
    for torn in range(6, 60):
        told = [first for first in range(torn // 2) if stats.binomtest(first, torn).pvalue < 0.05]
        for others in (0, 1, torn, 100 * torn):
            assert intervals.paired(*right(others, told[-1], torn - told[-1], 0)).interval.low > 0, (told[-1], torn)
