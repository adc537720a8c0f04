"""How much a loss makes of a negative, by how similar it is: the why of SimCLR's table 4."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

POSITIVE: Final = 0.6
"""Similarity of the query and its positive."""
OTHERS: Final = torch.linspace(-0.4, 0.6, 126, dtype=torch.float64)
"""Similarities of the other negatives, as of a batch of 64 that is half trained."""

# One query's loss of its positive's similarity and its negatives' (K,), as arXiv 2002.05709, table
# 2, has them; many negatives joined as `looktwice.losses` joins them.
_Loss = Callable[[Tensor, Tensor], Tensor]


def _nt_xent(temperature: float) -> _Loss:
    return lambda p, n: (torch.cat([p[None], n]) / temperature).logsumexp(0) - p / temperature


def _nt_logistic(temperature: float) -> _Loss:
    return lambda p, n: -F.logsigmoid(p / temperature) - F.logsigmoid(-n / temperature).mean()


def _margin(margin: float) -> _Loss:
    return lambda p, n: (n - p + margin).clamp_min(0).mean()


LOSSES: Final[Mapping[str, _Loss]] = {
    "NT-Xent 0.1": _nt_xent(0.1),
    "NT-Xent 0.5": _nt_xent(0.5),
    "NT-Logistic 0.2": _nt_logistic(0.2),
    "margin 0.4": _margin(0.4),
}


def negative_weights(loss: str, similarities: Tensor) -> Tensor:
    """Return how strongly a loss pushes a negative away, relative to the mean of the others.

    That is the derivative by the negative's similarity, beside 126 others between -0.4 and 0.6 and
    a positive at 0.6.

    Args:
        loss: one of `LOSSES`.
        similarities: of the negative, (M,) float64, -1 .. 1.
    """
    return torch.stack([_relative(LOSSES[loss], similarity) for similarity in similarities])


def _relative(loss: _Loss, similarity: Tensor) -> Tensor:
    negatives = torch.cat([similarity[None], OTHERS]).requires_grad_()
    positive = torch.tensor(POSITIVE, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(loss(positive, negatives), negatives)
    return gradient[0] / gradient[1:].mean()
