"""How often the contrastive task is solved."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def contrastive_top1(z0: Tensor, z1: Tensor) -> float:
    """Return the share of the 2N views whose partner is nearest by cosine, 0-1.

    A tie counts as a miss, so that a constant encoder scores 0.

    Args:
        z0: embeddings of the first views, (N, D), floating.
        z1: embeddings of the second views, (N, D).
    """
    z = F.normalize(torch.cat([z0, z1]).float(), dim=1)
    cosine = torch.einsum("id,jd->ij", z, z).fill_diagonal_(-2.0)
    partner = torch.cat([cosine.diagonal(len(z0)), cosine.diagonal(-len(z0))])
    return float(((cosine >= partner[:, None]).sum(dim=1) == 1).double().mean())
