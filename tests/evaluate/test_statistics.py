"""Means, intervals and p-values: against scikit-learn, closed forms and simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from looktwice.evaluate.statistics import (
    balanced_weights,
    gain_interval,
    holm,
    over_pictures,
    over_seeds,
    share_interval,
)


def same(truth, values):
    """The classes of pictures (T,), with every seed."""
    return np.tile(truth, (len(values), 1))


def test_the_mean_is_balanced_accuracy():
    generator = np.random.default_rng(0)
    truth = generator.choice(4, 500, p=[0.6, 0.3, 0.07, 0.03])
    predicted = np.where(generator.random((3, 500)) < 0.7, truth, generator.integers(4, size=500))
    estimate = over_pictures(
        (predicted == truth).astype(float), same(truth, (predicted == truth).astype(float))
    )
    expected = [balanced_accuracy_score(truth, row) for row in predicted]
    assert estimate.mean == pytest.approx(np.mean(expected), abs=1e-12)
    assert estimate.sd == pytest.approx(np.std(expected, ddof=1), abs=1e-12)
    assert balanced_weights(truth).mean() == pytest.approx(1)


def test_one_seed_has_the_binomial_error_of_its_pictures():
    truth = np.repeat([0, 1], [600, 200])
    right = np.zeros((1, 800))
    right[0, :480] = 1  # 80 % of the first class
    right[0, 600:700] = 1  # 50 % of the second
    estimate = over_pictures(right, same(truth, right))
    error = np.sqrt((0.8 * 0.2 / 600 + 0.5 * 0.5 / 200) / 4)
    assert estimate.error == pytest.approx(error, rel=0.05)
    assert estimate.sd is None
    low, high = estimate.interval
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 799) * error, rel=0.05)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.99])
def test_the_interval_of_one_share_is_wilsons(share):
    right = np.zeros((1, 2000))
    right[0, : round(share * 2000)] = 1
    expected = stats.binomtest(round(share * 2000), 2000).proportion_ci(method="wilson")
    low, high = share_interval(over_pictures(right), 2000)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=2e-5)


def test_a_difference_that_no_picture_makes_has_an_interval_all_the_same():
    """As if one had been right alone on a 25th picture, the other on a 26th; by hand."""
    half = stats.t.ppf(0.975, 24) * np.sqrt((2 / 26) / 26)
    none = over_pictures(np.zeros((3, 24)))
    assert gain_interval(none, 24) == pytest.approx((-half, half))
    low, high = gain_interval(over_pictures(np.ones((1, 24))), 24)
    assert 0.7 < low < 0.9
    assert high == 1


@pytest.mark.parametrize("alone", [0.005, 0.02, 0.05])
def test_intervals_of_rare_differences_hold_the_truth(alone):
    """Of 60 pictures the first is right alone on a share; often on none of those drawn."""
    generator = np.random.default_rng(2)
    covered, trials = 0, 2000
    for _ in range(trials):
        found = over_pictures((generator.random((1, 60)) < alone).astype(float))
        low, high = gain_interval(found, 60)
        covered += low <= alone <= high
    assert covered / trials > 0.93


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("between_seeds", [0.0, 0.03, 0.08])
def test_intervals_of_shares_hold_the_truth_and_stay_shares(between_seeds, seeds):
    generator = np.random.default_rng(4)
    covered, trials = 0, 300
    for _ in range(trials):
        share = generator.normal(0.75, between_seeds, (seeds, 1))
        right = generator.random((seeds, 200)) < share
        low, high = share_interval(over_pictures(right.astype(float)), 200)
        assert 0 <= low <= right.mean() <= high <= 1
        covered += low <= 0.75 <= high
    assert (0.84 if seeds == 2 else 0.91) <= covered / trials


def test_an_interval_of_another_coverage_is_students_too():
    values = np.random.default_rng(1).normal(0.1, 1, (1, 300))
    found = over_pictures(values)
    expected = stats.t.interval(0.99, 299, values.mean(), stats.sem(values[0]))
    assert found.interval_at(0.99) == pytest.approx(expected)
    assert found.interval_at(0.95) == found.interval


def test_without_picture_noise_it_is_students_t_over_seeds():
    values = np.array([[0.2], [0.5], [0.6]]) * np.ones((1, 50))
    estimate = over_pictures(values, np.zeros((3, 50), np.int64))
    expected = over_seeds([0.2, 0.5, 0.6])
    low, high = stats.t.interval(0.95, 2, np.mean([0.2, 0.5, 0.6]), stats.sem([0.2, 0.5, 0.6]))
    assert expected.interval == pytest.approx((low, high))
    assert estimate.error == pytest.approx(expected.error, rel=0.06)
    assert estimate.freedom == pytest.approx(2, rel=0.01)
    assert expected.p == pytest.approx(stats.ttest_1samp([0.2, 0.5, 0.6], 0).pvalue)


@pytest.mark.parametrize("seeds", [3, 6])
@pytest.mark.parametrize("between_seeds", [0.0, 0.01, 0.03, 0.1])
def test_intervals_cover_the_truth_and_are_no_wider_than_that_takes(between_seeds, seeds):
    """Paired differences of two equal variants, seeds and pictures random, classes unequal.

    95 % of intervals hold the true difference, 0. Where seeds do not differ, their share is still
    estimated as more than 0 half of the time: intervals are then a little wide.
    """
    generator = np.random.default_rng(1)
    truth = np.repeat([0, 1, 2], [240, 40, 20])
    covered, ratios, trials = 0, [], 400
    for _ in range(trials):
        hard = 0.7 + 0.15 * generator.normal(0, 1, 300)
        right = [
            generator.random((seeds, 300)) < hard + generator.normal(0, between_seeds, (seeds, 1))
            for _ in range(2)
        ]
        estimate = over_pictures(
            right[0].astype(float) - right[1], same(truth, right[0].astype(float) - right[1])
        )
        low, high = estimate.interval
        covered += low <= 0 <= high
        ratios.append((estimate.error, estimate.mean))
    errors, means = np.array(ratios).T
    assert 0.93 <= covered / trials <= 0.995
    assert 0.85 <= np.sqrt((errors**2).mean()) / means.std() <= 1.25


def test_the_variance_is_that_of_the_components():
    """Against the components themselves, drawn: seeds, pictures, and their interaction."""
    generator = np.random.default_rng(5)
    parts = {"seeds": 0.03, "pictures": 0.4, "rest": 0.3}
    errors = []
    for _ in range(300):
        values = (
            generator.normal(0, parts["seeds"], (8, 1))
            + generator.normal(0, parts["pictures"], (1, 200))
            + generator.normal(0, parts["rest"], (8, 200))
        )
        errors.append(over_pictures(values, np.zeros((8, 200), np.int64)).error ** 2)
    expected = 0.03**2 / 8 + 0.4**2 / 200 + 0.3**2 / (8 * 200)
    assert np.mean(errors) == pytest.approx(expected, rel=0.05)


def test_a_percentile_bootstrap_of_three_seeds_would_not_cover():
    """Why seeds are treated with Student's t: resampling three of them hides how far they vary."""
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        seeds = generator.normal(0.7, 0.05, 3)
        means = generator.choice(seeds, (500, 3)).mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        covered += low <= 0.7 <= high
    assert covered / 300 < 0.85


def test_pairing_takes_away_what_two_variants_share():
    generator = np.random.default_rng(3)
    truth = np.zeros(400, np.int64)
    right = (generator.random((3, 400)) < 0.7).astype(float)
    other = right.copy()
    other[:, :8] = 1 - other[:, :8]
    paired = over_pictures(right - other, same(truth, right - other))
    assert paired.error < over_pictures(right, same(truth, right)).error / 2


def test_holm_by_its_definition():
    p = [0.01, 0.04, 0.03, 0.005]
    expected = [3 * 0.01, 0.06, 2 * 0.03, 4 * 0.005]  # the last but one carries over
    assert holm(p) == pytest.approx(expected)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_no_difference_and_no_error():
    same = over_seeds([0.0, 0.0, 0.0])
    assert same.p == 1
    assert over_seeds([1.0, 1.0]).p == 0
    assert np.isnan(over_seeds([1.0]).p)


def test_each_seed_is_balanced_by_its_own_classes():
    generator = np.random.default_rng(6)
    truth = generator.choice(3, (4, 300), p=[0.5, 0.3, 0.2])
    predicted = np.where(generator.random((4, 300)) < 0.7, truth, generator.integers(3, size=300))
    expected = [balanced_accuracy_score(t, p) for t, p in zip(truth, predicted, strict=True)]
    estimate = over_pictures((predicted == truth).astype(float), truth)
    assert estimate.mean == pytest.approx(np.mean(expected), abs=1e-12)
