"""SimCLR: two views of one picture must find each other among all others of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from looktwice.methods.base import Embedded, Method, Pairs

PairLoss = Callable[[Tensor, Tensor], Tensor]


@final
class SimCLR(Method):
    """Backbone, projection head and a loss of pairs (arXiv 2002.05709, algorithm 1).

    Args:
        backbone: pictures to features.
        projection_head: features to embeddings.
        loss: of the embeddings of two views, each (B, D), such as `losses.nt_xent`.
        chance: the loss for B pictures when all embeddings are alike; None without such a level.
        pairs: of views; the loss is the mean over them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projection_head: nn.Module,
        *,
        loss: PairLoss,
        chance: Callable[[int], float] | None,
        pairs: Pairs = ((0, 1),),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = projection_head
        self._loss, self._chance, self._pairs = loss, chance, pairs

    def project(self, pictures: Tensor) -> Tensor:
        """Map pictures (M, C, S, S) to embeddings (M, D)."""
        embeddings: Tensor = self.projection_head(self.backbone(pictures))
        return embeddings

    def loss(self, batch: Embedded) -> Tensor:
        """Return the mean loss over the pairs of views."""
        z = batch.online
        return torch.stack([self._loss(z[:, i], z[:, j]) for i, j in self._pairs]).mean()

    def chance_loss(self, batch_size: int) -> float | None:
        """Return what the loss of embeddings that are all alike is."""
        return self._chance(batch_size) if self._chance else None
