"""Means, intervals and p-values: against scikit-learn, closed forms and simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from looktwice.study.statistics import balanced_weights, holm, over_pictures, over_seeds


def test_the_mean_is_balanced_accuracy():
    generator = np.random.default_rng(0)
    truth = generator.choice(4, 500, p=[0.6, 0.3, 0.07, 0.03])
    predicted = np.where(generator.random((3, 500)) < 0.7, truth, generator.integers(4, size=500))
    estimate = over_pictures((predicted == truth).astype(float), truth)
    expected = [balanced_accuracy_score(truth, row) for row in predicted]
    assert estimate.mean == pytest.approx(np.mean(expected), abs=1e-12)
    assert estimate.sd == pytest.approx(np.std(expected, ddof=1), abs=1e-12)
    assert balanced_weights(truth).mean() == pytest.approx(1)


def test_one_seed_has_the_binomial_error_of_its_pictures():
    truth = np.repeat([0, 1], [600, 200])
    right = np.zeros((1, 800))
    right[0, :480] = 1  # 80 % of the first class
    right[0, 600:700] = 1  # 50 % of the second
    estimate = over_pictures(right, truth)
    error = np.sqrt((0.8 * 0.2 / 600 + 0.5 * 0.5 / 200) / 4)
    assert estimate.error == pytest.approx(error, rel=0.05)
    assert estimate.sd is None
    low, high = estimate.interval
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 799) * error, rel=0.05)


def test_without_picture_noise_it_is_students_t_over_seeds():
    values = np.array([[0.2], [0.5], [0.6]]) * np.ones((1, 50))
    estimate = over_pictures(values, np.zeros(50, np.int64))
    expected = over_seeds([0.2, 0.5, 0.6])
    low, high = stats.t.interval(0.95, 2, np.mean([0.2, 0.5, 0.6]), stats.sem([0.2, 0.5, 0.6]))
    assert expected.interval == pytest.approx((low, high))
    assert estimate.error == pytest.approx(expected.error, rel=0.06)
    assert estimate.freedom == pytest.approx(2, rel=0.01)
    assert expected.p == pytest.approx(stats.ttest_1samp([0.2, 0.5, 0.6], 0).pvalue)


@pytest.mark.parametrize(("between_seeds", "seeds"), [(0.0, 3), (0.05, 3), (0.02, 6)])
def test_intervals_cover_the_truth(between_seeds, seeds):
    """Seeds and pictures both random, as in a study: 95 % of intervals hold the true mean."""
    generator = np.random.default_rng(1)
    truth = np.arange(300) % 3
    covered = 0
    for _ in range(200):
        hard = generator.normal(0, 1, 300)
        chance = 0.7 + generator.normal(0, between_seeds, (seeds, 1)) + 0.1 * hard
        right = (generator.random((seeds, 300)) < chance).astype(float)
        low, high = over_pictures(right, truth).interval
        covered += low <= 0.7 <= high
    assert 0.92 <= covered / 200 <= 1.0


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
    paired = over_pictures(right - other, truth)
    assert paired.error < over_pictures(right, truth).error / 2


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
