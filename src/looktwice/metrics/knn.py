"""Weighted k-nearest-neighbour classification on features, exact and in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from looktwice.errors import UsageError

# Similarities held at once, in float32 numbers (16 MiB): queries are taken in blocks of
# BLOCK_NUMBERS // bank size.
BLOCK_NUMBERS = 1 << 22


def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` bank pictures of largest cosine similarity to each query.

    Args:
        bank: (N, D) features.
        queries: (Q, D) features.
        k: 1 .. N.

    Returns:
        Similarities float32 (Q, k), largest first, and bank indices int64 (Q, k). Of equally
        similar pictures the one that comes first in the bank is the nearer.

    Raises:
        UsageError: ``k`` is below 1 or above the bank's size.
    """
    if not 1 <= k <= len(bank):
        raise UsageError(f"k must lie in 1 .. {len(bank)}, the size of the bank; found {k}")
    directions = F.normalize(bank.float(), dim=1).T
    rows = max(1, BLOCK_NUMBERS // len(bank))
    found = [
        _largest(F.normalize(block.float(), dim=1) @ directions, k)
        for block in torch.split(queries, rows)
    ]
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


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


def knn_scores(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    ks: Sequence[int],
    num_classes: int,
    temperature: float = 0.1,
) -> dict[int, Tensor]:
    """Score each class by the votes of the k nearest pictures, for several k in one pass.

    A neighbour of cosine similarity s votes with weight exp(s / temperature), as in MoCo's
    k-NN monitor (facebookresearch/moco, CIFAR demo) after Wu et al. 2018, section 3.4. Weights
    are taken relative to the nearest neighbour's, so that no temperature overflows.

    Args:
        bank: (N, D) features.
        bank_labels: int64 (N,), 0 .. num_classes - 1.
        queries: (Q, D) features.
        ks: numbers of neighbours, each 1 .. N.
        num_classes: C.
        temperature: > 0.

    Returns:
        For each k, float32 scores (Q, C) that sum to 1.
    """
    similarity, indices = nearest(bank, queries, max(ks))
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    votes = bank_labels[indices]
    scores = {}
    for k in ks:
        summed = weights.new_zeros(len(queries), num_classes)
        summed.scatter_add_(1, votes[:, :k], weights[:, :k])
        scores[k] = summed / summed.sum(dim=1, keepdim=True)
    return scores


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
