import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from looktwice.data import permute

_MASK = (1 << 64) - 1


def _slow_permutation(n, seed, epoch):
    """The definition, in Python integers: pairs of half-rounds, walking on while outside."""
    keys = [int(k) for k in np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(16)]
    bits = max(2, (n - 1).bit_length())
    right_bits, left_bits = bits // 2, bits - bits // 2

    def mix(word, num_bits):
        word = word * 0xFF51AFD7ED558CCD & _MASK
        word = (word ^ word >> 32) * 0xC4CEB9FE1A85EC53 & _MASK
        return word >> 64 - num_bits

    def once(value):
        left, right = value >> right_bits, value & ((1 << right_bits) - 1)
        for first, second in zip(keys[::2], keys[1::2], strict=True):
            left ^= mix(right ^ first, left_bits)
            right ^= mix(left ^ second, right_bits)
        return left << right_bits | right

    def walk(value):
        value = once(value)
        while value >= n:
            value = once(value)
        return value

    return [walk(i) for i in range(n)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 17, 64, 65, 257])
def test_equals_its_definition(n):
    assert permute(n, 7, 3, np.arange(n)).tolist() == _slow_permutation(n, 7, 3)


def test_is_the_same_forever():
    """A run must be resumable with the next release: these numbers may never change."""
    assert permute(10, 0, 0, np.arange(10)).tolist() == [4, 7, 6, 2, 3, 1, 8, 5, 9, 0]
    assert permute(10**12, 5, 9, [0, 1, 10**12 - 1]).tolist() == [
        729117106158,
        281978422288,
        137568964326,
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_is_a_bijection(n, seed, epoch):
    assert np.array_equal(np.sort(permute(n, seed, epoch, np.arange(n))), np.arange(n))


@pytest.mark.parametrize("n", [10**9 + 7, 2**40 + 1, 2**62])
def test_huge_lengths_need_no_memory(n):
    positions = np.arange(0, n, n // 1000)
    found = permute(n, 1, 2, positions)
    assert found.min() >= 0
    assert found.max() < n
    assert len(set(found.tolist())) == len(set(positions.tolist()))


@given(st.lists(st.integers(0, 999), max_size=50))
def test_any_slice_gives_the_same(positions):
    whole = permute(1000, 11, 4, np.arange(1000))
    assert np.array_equal(permute(1000, 11, 4, positions), whole[np.array(positions, int)])


@pytest.mark.parametrize("n", [2, 3, 5, 8, 9, 16, 17, 100])
def test_positions_are_uniform_over_epochs(n):
    epochs = 2000
    orders = np.stack([permute(n, 21, epoch, np.arange(n)) for epoch in range(epochs)])
    counts = np.stack([np.bincount(column, minlength=n) for column in orders.T])
    chi_square = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    assert 1e-4 < stats.chi2.cdf(chi_square, (n - 1) ** 2) < 1 - 1e-4


@pytest.mark.parametrize("n", [3, 4, 5, 8, 9, 16])
@pytest.mark.parametrize("places", [(0, 1), (1, -1)])
def test_pairs_are_uniform_over_epochs(n, places):
    epochs = 3000
    pairs = np.stack([permute(n, 33, epoch, np.arange(n)[list(places)]) for epoch in range(epochs)])
    counts = np.bincount(pairs @ [n, 1], minlength=n * n).reshape(n, n)
    assert np.trace(counts) == 0
    assert stats.chisquare(counts[~np.eye(n, dtype=bool)]).pvalue > 1e-4


def test_orders_of_three_and_four_are_uniform():
    for n in (3, 4):
        orders = [tuple(permute(n, 2, epoch, np.arange(n)).tolist()) for epoch in range(3000)]
        counts = [orders.count(order) for order in itertools.permutations(range(n))]
        assert stats.chisquare(counts).pvalue > 1e-4


def test_seeds_and_epochs_give_unrelated_orders():
    n = 5000
    first = permute(n, 0, 0, np.arange(n))
    for seed, epoch in ((0, 1), (1, 0), (1, 1)):
        other = permute(n, seed, epoch, np.arange(n))
        assert (first == other).sum() < 10  # Poisson(1)
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.06  # 4 standard deviations


def test_neighbours_do_not_stay_neighbours():
    order = permute(1 << 16, 3, 0, np.arange(1 << 16))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / 256
    assert (np.abs(np.diff(order)) == 1).sum() < 15  # Poisson(2)


@pytest.mark.parametrize(("n", "positions"), [(0, []), (2**62 + 1, [0]), (5, [5]), (5, [-1])])
def test_out_of_range(n, positions):
    with pytest.raises(ValueError, match="must be"):
        permute(n, 0, 0, positions)
