"""Weighted k-nearest-neighbour classification on features, exact and in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from looktwice.errors import UsageError

# A block of similarities is (QUERIES, ROWS), 16 MiB of float32: little memory, and enough of both
# for a matrix product to run at full speed.
QUERIES = 1024
ROWS = 4096
GROUP = 64  # similarities of which the largest alone is compared, as a rule; divides ROWS
LIMIT = 4  # candidates kept, in k


def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` bank pictures of largest cosine similarity to each query.

    Exact: every similarity is computed, in float32, on the device of the bank. Beyond the result
    it holds under 200 MB at k = 200, whatever the sizes of the bank and the queries.

    Args:
        bank: (N, D) features, finite.
        queries: (Q, D) features, on the same device; Q may be 0.
        k: 1 .. N.

    Returns:
        Similarities float32 (Q, k), largest first, and bank indices int64 (Q, k). Of equally
        similar pictures the one that comes first in the bank is the nearer.

    Raises:
        UsageError: ``k`` is below 1 or above the bank's size.
    """
    if not 1 <= k <= len(bank):
        raise UsageError(f"k must lie in 1 .. {len(bank)}, the size of the bank; found {k}")
    if not len(queries):
        none = bank.new_empty(0, k, dtype=torch.float32)
        return none, none.long()
    rows = max(ROWS, -(-k // GROUP) * GROUP)
    block = max(1, QUERIES * ROWS // rows)
    found = [_nearest(bank, _directions(part), k, rows) for part in torch.split(queries, block)]
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def _directions(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=1)


def _nearest(bank: Tensor, queries: Tensor, k: int, rows: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` nearest to a block of directions (B, D), ``rows`` of the bank at a time."""
    first, *others = torch.split(bank, rows)
    candidates = _Candidates(queries @ _directions(first).T, k, rows)
    block = queries.new_empty(len(queries), rows)  # used again: fresh memory is slow
    start = rows
    for part in others:
        torch.mm(queries, _directions(part).T, out=block[:, : len(part)])
        block[:, len(part) :] = -torch.inf
        candidates.add(block, start)
        start += rows
    return candidates.best()


@final
class _Candidates:
    """What may be among the k nearest of each query (B,), in the order of the bank.

    That is what was more similar than the k-th best known so far. Of a bank in random order few
    are, about k log(N / rows); where there are many, as in a bank sorted by class, they are cut
    to the best k again and again.
    """

    def __init__(self, similarity: Tensor, k: int, rows: int) -> None:
        """Begin with the first pictures of the bank, similarities (B, k .. rows)."""
        num_queries, room = len(similarity), LIMIT * k + rows
        self._k = k
        # The first `count` of each row are candidates; -inf and nothing follow.
        self._similarity = similarity.new_full((num_queries, room), -torch.inf)
        self._indices = torch.zeros_like(self._similarity, dtype=torch.int64)
        self._count = self._indices.new_full((num_queries,), k)
        self._indices[:, :k] = _largest(similarity, k)
        self._similarity[:, :k] = similarity.gather(1, self._indices[:, :k])
        self._kth = self._similarity[:, :k].amin(dim=1, keepdim=True)

    def add(self, similarity: Tensor, start: int) -> None:
        """Add the bank pictures ``start`` and following, of similarities (B, rows)."""
        query, column, found = self._better(similarity)
        added = torch.bincount(query, minlength=len(similarity))
        position = torch.arange(len(query), device=query.device) - (added.cumsum(0) - added)[query]
        position += self._count[query]
        self._similarity[query, position] = found
        self._indices[query, position] = column + start
        self._count += added
        full = (self._count > LIMIT * self._k).nonzero()[:, 0]
        if len(full):
            self._cut(full)

    def _better(self, similarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return row, column and value of what is above the k-th best, in order.

        What equals the k-th best is not: that one comes first in the bank.
        """
        groups = similarity.view(len(similarity), -1, GROUP)
        query, group = (groups.amax(dim=2) > self._kth).nonzero().unbind(dim=1)
        members = groups[query, group]
        hit, member = (members > self._kth[query]).nonzero().unbind(dim=1)
        return query[hit], group[hit] * GROUP + member, members[hit, member]

    def _cut(self, queries: Tensor) -> None:
        """Reduce the candidates of some queries (M,) to the best k."""
        k, width = self._k, int(self._count[queries].max())
        similarity, indices = self._similarity[queries, :width], self._indices[queries, :width]
        columns = _largest(similarity, k)
        best = similarity.gather(1, columns)
        self._similarity[queries, k:width] = -torch.inf
        self._similarity[queries, :k] = best
        self._indices[queries, :k] = indices.gather(1, columns)
        self._kth[queries] = best.amin(dim=1, keepdim=True)
        self._count[queries] = k

    def best(self) -> tuple[Tensor, Tensor]:
        """Return the k largest similarities (B, k), in order, and where they are in the bank."""
        width = int(self._count.max())
        columns = _largest(self._similarity[:, :width], self._k)
        found, indices = (x.gather(1, columns) for x in (self._similarity, self._indices))
        found, order = found.sort(dim=1, descending=True, stable=True)
        return found, indices.gather(1, order)


def _largest(similarity: Tensor, k: int) -> Tensor:
    """Return the columns of each row's ``k`` largest (B, k), ascending; of equals the first."""
    kth = similarity.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    kept = similarity >= kth
    # More than k where several equal the k-th, none where that is no number: sort those whole.
    odd = (kept.sum(dim=1) != k).nonzero()[:, 0]
    if len(odd):
        first = similarity[odd].argsort(dim=1, descending=True, stable=True)[:, :k]
        kept[odd] = torch.zeros_like(kept[odd]).scatter_(1, first, True)
    return kept.nonzero()[:, 1].view(-1, k)


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
