"""Softmax cross-entropy of queries against candidates, some queries at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from looktwice.losses.tiles import Pattern, diagonals

PANEL_ROWS = 128


class Sums(NamedTuple):
    """Tensors of zeros that gradients are added to, of the shapes they belong to; None: unwanted.

    Where the candidates are the queries, both may be one tensor.
    """

    queries: Tensor | None
    candidates: Tensor | None
    beside: Tensor | None = None


def cross_entropy_in_panels(
    queries: Tensor,
    candidates: Tensor,
    pattern: Pattern,
    gradient: Sums,
    *,
    beside: Tensor | None = None,
    panel: int | None = None,
) -> Tensor:
    """Return each query's log2 of its summed 2^(q·c), less its q·positive.

    A panel holds all similarities of some queries, and their largest is subtracted before
    exponentials are taken: exact whatever the similarities. The gradient of all queries' sum is
    taken from the same panel; 6 N K D operations in all, O((N + K)·D) memory.

    Args:
        queries: (N, D), float32 or float64.
        candidates: (K, D).
        pattern: of the (N, K) similarities.
        gradient: gets the gradient of the sum over queries added.
        beside: positives that are no candidates of other queries, (N, D); the pattern is empty.
        panel: number of queries at a time.

    Returns:
        (N,).
    """
    entropies, positives = queries.new_empty(len(queries)), queries.new_empty(len(queries))
    panel = min(panel or PANEL_ROWS, len(queries))
    memory = queries.new_empty(panel, len(candidates) + (beside is not None))
    for start in range(0, len(queries), panel):
        q = queries[start : start + panel]
        rows = slice(start, start + len(q))
        x = memory[: len(q)]
        similarities = x if beside is None else x[:, 1:]
        torch.mm(q, candidates.T, out=similarities)
        if beside is not None:
            x[:, 0] = torch.einsum("nd,nd->n", q, beside[rows])
            targets = [(rows, x[:, 0])]
        else:
            targets = list(diagonals(x, start, 0, pattern.positives))
        for target_rows, part in targets:
            positives[target_rows] = part
        for _, part in diagonals(x, start, 0, pattern.excluded):
            part.fill_(-torch.inf)
        peak = x.amax(dim=1, keepdim=True)
        sums = x.sub_(peak).exp2_().sum(dim=1, keepdim=True)
        entropies[rows] = (peak[:, 0] - positives[rows]).add_(sums[:, 0].log2())
        x.div_(sums)
        for _, part in targets:
            part.sub_(1)
        if gradient.queries is not None:
            gradient.queries[rows].addmm_(similarities, candidates)
            if beside is not None:
                gradient.queries[rows].addcmul_(x[:, :1], beside[rows])
        if gradient.candidates is not None:
            gradient.candidates.addmm_(similarities.T, q)
        if gradient.beside is not None:
            torch.mul(x[:, :1], q, out=gradient.beside[rows])
    return entropies
