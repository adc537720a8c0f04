"""The losses that SimCLR compares NT-Xent with: each negative by itself, not by its hardness."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from looktwice.losses.arguments import check_pairs, check_temperature
from looktwice.losses.directions import similarities


def nt_logistic(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float,
    normalize: bool = True,
    semi_hard: bool = False,
) -> Tensor:
    """Return NT-Logistic: is this the other view of the same picture, yes or no?

    For an embedding u, its partner v⁺ and negatives v⁻, the negative of log σ(u·v⁺/τ) +
    log σ(-u·v⁻/τ) (arXiv 2002.05709, table 2). The paper leaves open how the terms of many
    negatives are joined: here their mean is taken over the 2N - 2 views of other pictures, so that
    the positive weighs as much as all of them together, then the mean over the 2N embeddings.

    With `semi_hard` only one negative counts, the most similar of those that are less similar than
    the positive (section 5.1, after FaceNet, arXiv 1503.03832, section 3.2; there is no margin that
    it could be within); an embedding without such a negative has its positive's term alone. Equally
    similar ones share the gradient. Guessing gives `nt_logistic_chance()` at best. O(N²) memory.

    Args:
        z0: embeddings of the first views, (N, D), floating.
        z1: embeddings of the second views, (N, D); row i belongs to row i of `z0`.
        temperature: positive.
        normalize: scale every embedding to unit length first.
        semi_hard: use each embedding's semi-hard negative only.

    Returns:
        Nats, at least 0, a scalar; float32 or float64.

    Raises:
        ValueError: shapes that differ, fewer than two pairs, embeddings that are not floating, or
            a temperature that is not a finite number above 0.
    """
    check_pairs("nt_logistic", z0, z1)
    check_temperature(temperature)
    positive, negatives = _positive_and_negatives(z0, z1, normalize, semi_hard)
    return -(F.logsigmoid(positive / temperature) + F.logsigmoid(-negatives / temperature)).mean()


def margin_triplet(
    z0: Tensor,
    z1: Tensor,
    *,
    margin: float,
    normalize: bool = True,
    semi_hard: bool = False,
) -> Tensor:
    """Return the triplet loss: the partner must be more similar than each negative by a margin.

    For an embedding u, its partner v⁺ and negatives v⁻, max(u·v⁻ - u·v⁺ + m, 0)
    (arXiv 2002.05709, table 2). The paper leaves open how the terms of many negatives are joined:
    here their mean is taken over the 2N - 2 views of other pictures, those with no loss included,
    then the mean over the 2N embeddings.

    With `semi_hard` only one negative counts, the most similar of those that are less similar than
    the positive and within the margin (section 5.1, after FaceNet, arXiv 1503.03832, section 3.2);
    an embedding without one has no loss. Equally similar ones share the gradient. Without it,
    guessing gives `margin_triplet_chance(margin)`. O(N²) memory.

    Args:
        z0: embeddings of the first views, (N, D), floating.
        z1: embeddings of the second views, (N, D); row i belongs to row i of `z0`.
        margin: of similarities, at least 0.
        normalize: scale every embedding to unit length first.
        semi_hard: use each embedding's semi-hard negative only.

    Returns:
        A mean of similarities' differences, at least 0, a scalar; float32 or float64.

    Raises:
        ValueError: shapes that differ, fewer than two pairs, embeddings that are not floating, or
            a margin that is negative or not finite.
    """
    check_pairs("margin_triplet", z0, z1)
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must be at least 0 and finite, not {margin}")
    positive, negatives = _positive_and_negatives(z0, z1, normalize, semi_hard)
    return (negatives - positive + margin).clamp_min(0).mean()


def _positive_and_negatives(
    z0: Tensor, z1: Tensor, normalize: bool, semi_hard: bool
) -> tuple[Tensor, Tensor]:
    """Return similarities with the partner, (2N, 1), and with the negatives that count.

    Those are all, (2N, 2N - 2), or the semi-hard one, (2N, 1), -inf where there is none.
    """
    num = len(z0)
    cosine = similarities(torch.cat([z0, z1]), normalize)
    positive = torch.cat([cosine.diagonal(num), cosine.diagonal(-num)])[:, None]
    picture = torch.arange(num, device=cosine.device).repeat(2)
    negative = picture[:, None] != picture
    if not semi_hard:
        return positive, cosine[negative].view(2 * num, -1)
    farther = cosine.masked_fill(~negative | (cosine >= positive), -math.inf)
    return positive, farther.amax(dim=1, keepdim=True)
