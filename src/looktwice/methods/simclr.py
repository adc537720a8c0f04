"""SimCLR: two views of one picture must find each other among all others of the batch."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from looktwice.losses import nt_xent, nt_xent_chance
from looktwice.methods.base import Method


@final
class SimCLR(Method):
    """Backbone, projection head and NT-Xent (arXiv 2002.05709, algorithm 1)."""

    def __init__(
        self, backbone: nn.Module, projection_head: nn.Module, *, temperature: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = projection_head
        self.temperature = temperature

    def embed(self, views: Tensor) -> Tensor:
        """Map views (B, 2, C, H, W) to embeddings (B, 2, D); all views share one batch-norm."""
        embeddings: Tensor = self.projection_head(self.backbone(views.flatten(0, 1)))
        return embeddings.view(*views.shape[:2], -1)

    def loss(self, embeddings: Tensor) -> Tensor:
        """Return NT-Xent of embeddings (B, 2, D)."""
        return nt_xent(embeddings[:, 0], embeddings[:, 1], temperature=self.temperature)

    def chance_loss(self, batch_size: int) -> float:
        """Return log(2B - 1)."""
        return nt_xent_chance(batch_size)
