"""Weighted k-nearest-neighbour classification on features, exact and in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from looktwice.errors import UsageError

# A block of similarities is (QUERIES, ROWS): 16 MiB of float32, which a core's caches nearly hold,
# and enough of both for a matrix product to run at full speed.
QUERIES = 1024
ROWS = 4096


def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` bank pictures of largest cosine similarity to each query.

    Exact: every similarity is computed, in float32, on the device of the bank. Beyond the result
    it holds about 100 MB at k = 200, whatever the sizes of the bank and the queries.

    Args:
        bank: (N, D) features.
        queries: (Q, D) features, on the same device.
        k: 1 .. N.

    Returns:
        Similarities float32 (Q, k), largest first, and bank indices int64 (Q, k). Of equally
        similar pictures the one that comes first in the bank is the nearer.

    Raises:
        UsageError: ``k`` is below 1 or above the bank's size.
    """
    if not 1 <= k <= len(bank):
        raise UsageError(f"k must lie in 1 .. {len(bank)}, the size of the bank; found {k}")
    rows = max(ROWS, k)
    block = max(1, QUERIES * ROWS // rows)
    found = [_nearest(bank, _directions(part), k, rows) for part in torch.split(queries, block)]
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def _directions(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=1)


def _nearest(bank: Tensor, queries: Tensor, k: int, rows: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` nearest to a block of directions (B, D), ``rows`` of the bank at a time.

    Each query keeps candidates, in the order of the bank: what was more similar than its k-th best
    so far. Of a bank in random order few are (about k log(N / rows)); where there are many, as
    in a bank sorted by class, they are cut to the best k again and again.
    """
    first, *others = torch.split(bank, rows)
    best, indices = _largest(queries @ _directions(first).T, k)
    candidates = _Candidates(best, indices, rows)
    start = rows
    for part in others:
        candidates.add(queries @ _directions(part).T, start)
        start += len(part)
    return candidates.best()


@final
class _Candidates:
    """The k nearest so far (B, k) and room for more: the first ``count`` of each row are valid."""

    def __init__(self, best: Tensor, indices: Tensor, rows: int) -> None:
        self._k = best.shape[1]
        self._limit = 2 * self._k
        num_queries, room = len(best), self._limit + rows
        self._similarity = best.new_full((num_queries, room), -torch.inf)
        self._indices = indices.new_zeros(num_queries, room)
        self._similarity[:, : self._k] = best
        self._indices[:, : self._k] = indices
        self._kth = best[:, -1:].clone()
        self._count = indices.new_full((num_queries,), self._k)

    def add(self, similarity: Tensor, start: int) -> None:
        """Add the bank pictures ``start`` and following, of similarities (B, n)."""
        # Not if equal to the k-th: that one comes first in the bank.
        query, column = (similarity > self._kth).nonzero().unbind(dim=1)
        added = torch.bincount(query, minlength=len(similarity))
        position = torch.arange(len(query), device=query.device) - (added.cumsum(0) - added)[query]
        position += self._count[query]
        self._similarity[query, position] = similarity[query, column]
        self._indices[query, position] = column + start
        self._count += added
        full = (self._count > self._limit).nonzero()[:, 0]
        if len(full):
            self._cut(full)

    def _cut(self, queries: Tensor) -> None:
        """Reduce the candidates of some queries (M,) to the best k."""
        width = int(self._count[queries].max())
        best, order = _largest(self._similarity[queries, :width], self._k)
        self._similarity[queries, :width] = -torch.inf
        self._indices[queries, : self._k] = self._indices[queries[:, None], order]
        self._similarity[queries, : self._k] = best
        self._kth[queries, 0] = best[:, -1]
        self._count[queries] = self._k

    def best(self) -> tuple[Tensor, Tensor]:
        """Return the k largest similarities (B, k) and their indices."""
        width = int(self._count.max())
        best, order = _largest(self._similarity[:, :width], self._k)
        return best, self._indices.gather(1, order)


def _largest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest of each row (B, N) and where they are; ties in index order."""
    values, indices = similarity.topk(k, dim=1)
    # topk picks any of the values that tie with its last one: sort those rows whole.
    tied = (similarity >= values[:, -1:]).sum(dim=1) > k
    if tied.any():
        indices[tied] = similarity[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    indices = indices.sort(dim=1).values
    values, order = similarity.gather(1, indices).sort(dim=1, descending=True, stable=True)
    return values, indices.gather(1, order)


def class_votes(
    similarity: Tensor, labels: Tensor, num_classes: int, temperature: float = 0.1
) -> Tensor:
    """Score each class by the votes of a query's neighbours, as ``nearest`` finds them.

    A neighbour of cosine similarity s votes with weight exp(s / temperature), as in MoCo's
    k-NN monitor (facebookresearch/moco, CIFAR demo) after Wu et al. 2018, section 3.4. Weights
    are taken relative to the nearest neighbour's, so that no temperature overflows.

    Args:
        similarity: (Q, k), largest first.
        labels: int64 (Q, k), the neighbours' classes, 0 .. num_classes - 1.
        num_classes: C.
        temperature: > 0.

    Returns:
        Scores (Q, C) that sum to 1.
    """
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    summed = weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels, weights)
    return summed / summed.sum(dim=1, keepdim=True)


def knn_scores(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    ks: Sequence[int],
    num_classes: int,
    temperature: float = 0.1,
) -> dict[int, Tensor]:
    """Score each class by the votes of the k nearest pictures, for several k in one pass.

    Args:
        bank: (N, D) features.
        bank_labels: int64 (N,), 0 .. num_classes - 1.
        queries: (Q, D) features.
        ks: numbers of neighbours, each 1 .. N.
        num_classes: C.
        temperature: of ``class_votes``, > 0.

    Returns:
        For each k, float32 scores (Q, C) that sum to 1.
    """
    similarity, indices = nearest(bank, queries, max(ks))
    labels = bank_labels[indices]
    return {k: class_votes(similarity[:, :k], labels[:, :k], num_classes, temperature) for k in ks}


def knn_predict(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    ks: Sequence[int],
    num_classes: int,
    temperature: float = 0.1,
) -> dict[int, Tensor]:
    """Return, for each k, the class (Q,) int64 of the largest score; the lowest class of a tie.

    Arguments as in ``knn_scores``.
    """
    scores = knn_scores(bank, bank_labels, queries, ks, num_classes, temperature)
    return {k: score.argmax(dim=1) for k, score in scores.items()}
