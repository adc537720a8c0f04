"""Contrastive losses: pure functions of embeddings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(z0: Tensor, z1: Tensor, *, temperature: float, normalize: bool = True) -> Tensor:
    """Return NT-Xent, the normalised temperature-scaled cross-entropy of SimCLR.

    Each of the 2N embeddings must find its partner among the other 2N - 1 (arXiv 2002.05709,
    equation 1 and algorithm 1); guessing gives `nt_xent_chance(N)`.

    Args:
        z0: embeddings of the first views, (N, D), floating.
        z1: embeddings of the second views, (N, D); row i belongs to row i of `z0`.
        temperature: positive.
        normalize: scale every embedding to unit length first.

    Returns:
        The mean over all 2N embeddings, a scalar; float32 or wider.

    Raises:
        ValueError: shapes that differ, fewer than two pairs, or a temperature not above 0.
    """
    if z0.ndim != 2 or z0.shape != z1.shape or len(z0) < 2:
        raise ValueError(
            "nt_xent needs two (N, D) tensors of one shape with N ≥ 2, "
            f"not {tuple(z0.shape)} and {tuple(z1.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    logits = similarity_logits(torch.cat([z0, z1]), temperature, normalize)
    partner = torch.arange(len(logits), device=logits.device).roll(len(z0))
    return F.cross_entropy(logits, partner)


def similarity_logits(z: Tensor, temperature: float, normalize: bool = True) -> Tensor:
    """Return all pairs' similarity over temperature, (M, M), with -inf on the diagonal.

    Half precision is widened first: in it, unit length underflows and logits overflow.
    """
    z = z if z.dtype == torch.float64 else z.float()
    z = F.normalize(z, dim=1) if normalize else z
    logits = torch.einsum("id,jd->ij", z, z) / temperature
    return logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -math.inf)


def nt_xent_chance(num_pairs: int) -> float:
    """Return the loss of guessing among the 2N - 1 others, log(2N - 1), in nats."""
    return math.log(2 * num_pairs - 1)


def info_nce(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float,
    normalize: bool = True,
    queue: Tensor | None = None,
) -> Tensor:
    """InfoNCE."""
    if normalize:
        queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    if queue is None:
        logits = queries @ keys.T / temperature
        return F.cross_entropy(logits, torch.arange(len(queries)))
    positive = (queries * keys).sum(1, keepdim=True)
    logits = torch.cat([positive, queries @ queue.to(queries.dtype).T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.int64))


def sup_con(z: Tensor, labels: Tensor, *, temperature: float, normalize: bool = True) -> Tensor:
    """SupCon."""
    log_p = similarity_logits(z, temperature, normalize).log_softmax(1)
    same = (labels[:, None] == labels) & ~torch.eye(len(z), dtype=torch.bool)
    return -(log_p.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1)).mean()
