"""Unit vectors, and similarities of embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from looktwice.losses.arguments import without_autocast, working_dtype

# As in torch.nn.functional.normalize; there a shorter vector is divided by this, here it is 0.
NO_DIRECTION = 1e-12


def unit_(z: Tensor) -> Tensor:
    """Scale rows of z (N, D) to unit length, in place; return 1 / their lengths, (N, 1).

    Rows whose entries are all below 1e-12 in size become 0, with 0 for 1 / length. Entries are
    divided by the largest first: no length under- or overflows, whatever the type.
    """
    peak = torch.linalg.vector_norm(z, ord=torch.inf, dim=1, keepdim=True)
    peak.clamp_min_(NO_DIRECTION)
    length: Tensor = torch.linalg.vector_norm(z.div_(peak), dim=1, keepdim=True)
    inverse = length.reciprocal().masked_fill_(length < 0.5, 0.0)  # at least 1 unless clamped
    z.mul_(inverse)
    inverse.div_(peak)
    return inverse


def through_unit_(gradient: Tensor, direction: Tensor, inverse: Tensor, scale: float) -> None:
    """Turn the gradient at unit vectors, (N, D), in place into that at the vectors they came from.

    Args:
        gradient: overwritten.
        direction: unit vectors times the root of `scale`.
        inverse: what `unit_` returned.
        scale: positive.
    """
    along = torch.einsum("nd,nd->n", gradient, direction)[:, None]
    gradient.addcmul_(direction, along, value=-1 / scale).mul_(inverse)


def similarities(z: Tensor, normalize: bool) -> Tensor:
    """Return the dot products of all embeddings (M, D), (M, M), by autograd; O(M²) memory."""
    with without_autocast(z.device):
        z = z.to(working_dtype(z))
        if normalize:
            peak = torch.linalg.vector_norm(z.detach(), ord=torch.inf, dim=1, keepdim=True)
            z = z / peak.clamp_min_(NO_DIRECTION)
            length = torch.linalg.vector_norm(z.detach(), dim=1, keepdim=True)
            z = F.normalize(z.masked_fill(length < 0.5, 0.0), dim=1)
        return torch.einsum("id,jd->ij", z, z)
