"""How often the contrastive task is solved."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1024  # rows of similarities held at once


@torch.no_grad()
def contrastive_top1(z0: Tensor, z1: Tensor, *, normalize: bool = True) -> float:
    """Return the share of the 2N views whose partner is the most similar of all others, 0-1.

    A tie counts as a miss, so that a constant encoder scores 0.

    Args:
        z0: embeddings of the first views, (N, D), floating.
        z1: embeddings of the second views, (N, D).
        normalize: compare by cosine, else by dot product, as the loss does.
    """
    z = torch.cat([z0, z1]).float()
    z = F.normalize(z, dim=1) if normalize else z
    partners = torch.arange(len(z), device=z.device).roll(len(z0))
    solved = torch.zeros((), dtype=torch.int64, device=z.device)
    for rows in torch.split(torch.arange(len(z), device=z.device), BLOCK):
        similarity = torch.einsum("id,jd->ij", z[rows], z)
        similarity[torch.arange(len(rows), device=z.device), rows] = -torch.inf
        partner = similarity.gather(1, partners[rows, None])
        solved += ((similarity >= partner).sum(dim=1) == 1).sum()
    return solved.item() / len(z)
