"""Weighted k-NN against a slow loop and scikit-learn; ties and bounded memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from looktwice.errors import UsageError
from looktwice.metrics import knn, knn_predict, knn_scores, nearest


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(150, 12, generator=generator)
    labels = torch.randint(5, (150,), generator=generator)
    queries = torch.randn(40, 12, generator=generator) * 7
    return bank, labels, queries


def slow_scores(bank, labels, queries, k, classes, temperature):
    """MoCo's vote, one query at a time, in float64."""

    def unit(x):
        return x / np.linalg.norm(x)

    rows = []
    for query in queries.double().numpy():
        similarity = [float(unit(query) @ unit(row)) for row in bank.double().numpy()]
        order = sorted(range(len(similarity)), key=lambda i: (-similarity[i], i))[:k]
        votes = np.zeros(classes)
        for i in order:
            votes[labels[i]] += np.exp(similarity[i] / temperature)
        rows.append(votes / votes.sum())
    return np.array(rows)


def test_scores_equal_the_slow_loop(data):
    bank, labels, queries = data
    scores = knn_scores(bank, labels, queries, [1, 5, 20, 150], 5, temperature=0.1)
    assert list(scores) == [1, 5, 20, 150]
    for k, found in scores.items():
        expected = slow_scores(bank, labels, queries, k, 5, 0.1)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_predictions_equal_scikit_learn(data):
    bank, labels, queries = data
    for k, found in knn_predict(bank, labels, queries, [3, 10], 5, temperature=0.07).items():
        oracle = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
        ).fit(bank.numpy(), labels.numpy())
        assert found.tolist() == oracle.predict(queries.numpy()).tolist()


def test_blocks_change_nothing(data, monkeypatch):
    bank, labels, queries = data
    whole = knn_predict(bank, labels, queries, [1, 10], 5)
    monkeypatch.setattr(knn, "QUERIES", 7)
    monkeypatch.setattr(knn, "ROWS", 16)
    monkeypatch.setattr(knn, "GROUP", 8)
    for k, found in knn_predict(bank, labels, queries, [1, 10], 5).items():
        assert torch.equal(found, whole[k])


def corners(count, seed):
    """Corners of a cube: cosines are multiples of 1/8, exact in any precision, and tie often."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (count, 16), generator=generator).float() * 2 - 1


@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
@pytest.mark.parametrize("k", [1, 7, 64, 300])
def test_ties_are_in_the_order_of_the_bank_across_blocks(monkeypatch, order, k):
    monkeypatch.setattr(knn, "QUERIES", 8)
    monkeypatch.setattr(knn, "ROWS", 64)
    monkeypatch.setattr(knn, "GROUP", 8)
    bank, queries = corners(1500, 0), corners(30, 1)
    if order != "random":  # the worst and the best that can happen to the first query
        bank = bank[(bank @ queries[0]).argsort(descending=order == "descending")]
    similarity, indices = nearest(bank, queries, k)
    exact = (queries.double() @ bank.double().T / 16).numpy()
    expected = np.array([np.lexsort((np.arange(1500), -row))[:k] for row in exact])
    assert indices.tolist() == expected.tolist()
    np.testing.assert_array_equal(similarity.numpy(), np.take_along_axis(exact, expected, 1))


def test_a_bank_sorted_by_class_gives_what_float64_does(monkeypatch):
    monkeypatch.setattr(knn, "ROWS", 128)
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(5, 32, generator=generator)
    bank = centres.repeat_interleave(600, dim=0) + torch.randn(3000, 32, generator=generator)
    queries = centres.repeat(8, 1) + torch.randn(40, 32, generator=generator)
    similarity, indices = nearest(bank, queries, 50)
    exact = F.normalize(queries.double(), dim=1) @ F.normalize(bank.double(), dim=1).T
    torch.testing.assert_close(
        similarity.double(), exact.sort(dim=1, descending=True).values[:, :50], atol=1e-6, rtol=0
    )
    torch.testing.assert_close(exact.gather(1, indices), similarity.double(), atol=1e-6, rtol=0)
    assert all(len(set(row)) == 50 for row in indices.tolist())


MEMORY = """
import torch
from pathlib import Path
from looktwice.metrics import nearest

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

torch.set_num_threads(1)
bank = torch.randn(300_000, 256)
queries = torch.randn(256, 256)
nearest(bank[:5000], queries[:8], 5)
before = peak()
nearest(bank, queries, 200)
print(peak() - before)
"""


def test_a_large_bank_is_not_copied():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 150  # MiB; the bank itself is 293


def test_features_that_are_no_numbers_do_not_stop_a_run(data):
    bank, labels, queries = data
    scores = knn_scores(bank * torch.nan, labels, queries, [5], 5)[5]
    assert scores.shape == (40, 5)


def test_of_equal_neighbours_the_first_in_the_bank_wins():
    bank = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [8.0, 0.0], [1.0, 1.0]])
    similarity, indices = nearest(bank, torch.tensor([[1.0, 0.0]] * 3), 3)
    assert indices.tolist() == [[1, 2, 3]] * 3
    assert similarity.tolist() == [[1.0, 1.0, 1.0]] * 3
    assert nearest(bank, torch.tensor([[1.0, 0.0]]), 5)[1].tolist() == [[1, 2, 3, 4, 5]]
    votes = torch.tensor([0, 3, 2, 1, 1, 0])
    assert knn_predict(bank, votes, torch.tensor([[1.0, 0.0]]), [3, 4], 4) == {
        3: torch.tensor([1]),  # 3, 2 and 1 have one vote each: the lowest class
        4: torch.tensor([1]),
    }


def test_any_temperature_is_finite(data):
    bank, labels, queries = data
    for temperature in (1e-4, 0.011, 1e4):
        scores = knn_scores(bank, labels, queries, [20], 5, temperature)[20]
        torch.testing.assert_close(scores.sum(dim=1), torch.ones(40))


def test_a_feature_of_zeros_is_nobodys_neighbour():
    similarity, _ = nearest(torch.zeros(2, 3), torch.ones(1, 3), 1)
    assert similarity.tolist() == [[0.0]]


@pytest.mark.parametrize("k", [0, 151])
def test_k_out_of_range(data, k):
    with pytest.raises(UsageError, match=rf"k must lie in 1 .. 150.*found {k}"):
        nearest(data[0], data[2], k)


def test_no_queries_have_no_neighbours(data):
    bank, labels, queries = data
    some, none = (nearest(bank, part, 7) for part in (queries, queries[:0]))
    assert [found.shape for found in none] == [(0, 7), (0, 7)]
    assert [found.dtype for found in none] == [found.dtype for found in some]
    assert knn_predict(bank, labels, queries[:0], [3], 5)[3].shape == (0,)
