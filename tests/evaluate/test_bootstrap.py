"""Bootstrap intervals against a slow loop's meaning and closed forms."""

import numpy as np
import pytest

from looktwice.evaluate import bootstrap
from looktwice.evaluate.bootstrap import interval, resample


def right(rows, pictures, share, seed=0):
    return np.random.default_rng(seed).random((rows, pictures)) < share


def test_spread_is_the_binomial_one():
    (found,) = resample([right(1, 1000, 0.7)], seed=1)
    p = found.mean
    assert found.sd is None
    assert found.resampled.mean() == pytest.approx(p, abs=0.001)
    assert found.resampled.std() == pytest.approx(np.sqrt(p * (1 - p) / 1000), rel=0.05)
    low, high = interval(found.resampled)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 1000), rel=0.06)


def test_pairing_takes_out_what_is_common():
    first = right(1, 1000, 0.7)
    second = first.copy()
    flipped = np.flatnonzero(~first[0])[:50]
    second[0, flipped] = True
    a, b, same = resample([second, first, first.copy()], seed=1)
    assert np.array_equal(b.resampled, same.resampled)
    gain = a.resampled - b.resampled
    assert a.mean - b.mean == pytest.approx(0.05)
    assert gain.std() == pytest.approx(np.sqrt(0.05 * 0.95 / 1000), rel=0.06)
    assert interval(gain)[0] > 0.03


def test_draws_are_resampled_too():
    draws = np.zeros((5, 400), dtype=bool)
    draws[:2] = True  # two draws always right, three always wrong: pictures do not vary at all
    found, twin = resample([draws, draws.copy()], seed=3)
    assert found.mean == pytest.approx(0.4)
    assert found.sd == pytest.approx(np.std([1, 1, 0, 0, 0], ddof=1))
    assert found.resampled.std() == pytest.approx(np.sqrt(0.4 * 0.6 / 5), rel=0.05)
    assert np.array_equal(found.resampled, twin.resampled)


def test_blocks_and_seeds(monkeypatch):
    entry = right(5, 300, 0.5)
    (whole,) = resample([entry], seed=4)
    monkeypatch.setattr(bootstrap, "_BLOCK_NUMBERS", 300 * 7)
    (blocked,) = resample([entry], seed=4)
    (other,) = resample([entry], seed=5)
    assert np.array_equal(whole.resampled, blocked.resampled)
    assert not np.array_equal(whole.resampled, other.resampled)
