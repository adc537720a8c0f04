"""A network that follows another one slowly."""

from __future__ import annotations

import copy
import math
from typing import final

import torch
from torch import Tensor, nn


@final
class MomentumEncoder(nn.Module):
    """A copy of a network whose weights are a moving average of the network's.

    MoCo (arXiv 1911.05722, equation 2). Its batch-norm statistics are its own.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map what the network maps."""
        embeddings: Tensor = self.network(pictures)
        return embeddings

    @torch.no_grad()
    def follow(self, network: nn.Module, momentum: float) -> None:
        """Set every weight to momentum × its own + (1 - momentum) × the network's."""
        own: list[Tensor] = list(self.network.parameters())
        others: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(own, others, 1.0 - momentum)


def momentum_at(progress: float, base: float, schedule: str) -> float:
    """Return the momentum at a share of the run, 0-1.

    ``constant``: base; ``cosine``: from base to 1 along half a cosine (BYOL, arXiv 2006.07733,
    section 3.2; MoCo v3's published code).
    """
    if schedule == "constant":
        return base
    return 1.0 - (1.0 - base) * 0.5 * (1.0 + math.cos(math.pi * progress))
