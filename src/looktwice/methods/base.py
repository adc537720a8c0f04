"""What every method is: views to embeddings, embeddings to a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Method(nn.Module, ABC):
    """A contrastive method; `embed` and `loss` are apart so that a batch can be cut in pieces."""

    backbone: nn.Module

    @abstractmethod
    def embed(self, views: Tensor) -> Tensor:
        """Map views (B, V, C, H, W), normalised floats, to embeddings (B, V, D)."""

    @abstractmethod
    def loss(self, embeddings: Tensor) -> Tensor:
        """Return the scalar loss of embeddings (B, V, D)."""

    @abstractmethod
    def chance_loss(self, batch_size: int) -> float:
        """Return the loss of an encoder that tells no picture from another, in nats."""
