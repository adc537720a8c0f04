"""Learning with labels, for comparison: cross-entropy, and supervised contrastive learning."""

from __future__ import annotations

import math
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from looktwice.losses import sup_con, sup_con_chance
from looktwice.methods.base import Embedded, Method


@final
class Supervised(Method):
    """Backbone and linear classifier under cross-entropy, each view counted on its own."""

    uses_labels = True

    def __init__(self, backbone: nn.Module, classifier: nn.Module, *, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self._num_classes = num_classes

    def project(self, pictures: Tensor) -> Tensor:
        """Map pictures (M, C, S, S) to logits (M, classes)."""
        logits: Tensor = self.classifier(self.backbone(pictures))
        return logits

    def loss(self, batch: Embedded) -> Tensor:
        """Return the mean cross-entropy over all views."""
        assert batch.labels is not None
        logits = batch.online.float() if batch.online.dtype.itemsize < 4 else batch.online
        labels = batch.labels[:, None].expand(logits.shape[:2])
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    def chance_loss(self, batch_size: int) -> float:  # noqa: ARG002
        """Return the log of the number of classes."""
        return math.log(self._num_classes)

    def top1(self, batch: Embedded) -> float:
        """Return the accuracy over all views, 0-1."""
        assert batch.labels is not None
        correct = batch.online.argmax(dim=2) == batch.labels[:, None]
        return float(correct.double().mean())


@final
class SupCon(Method):
    """SimCLR whose positives are all views of all pictures of the same class (arXiv 2004.11362)."""

    uses_labels = True

    def __init__(
        self,
        backbone: nn.Module,
        projection_head: nn.Module,
        *,
        temperature: float,
        normalize: bool = True,
        num_views: int = 2,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = projection_head
        self._temperature, self._normalize = temperature, normalize
        self._num_views = num_views

    def project(self, pictures: Tensor) -> Tensor:
        """Map pictures (M, C, S, S) to embeddings (M, D)."""
        embeddings: Tensor = self.projection_head(self.backbone(pictures))
        return embeddings

    def loss(self, batch: Embedded) -> Tensor:
        """Return SupCon's L_out over all views."""
        assert batch.labels is not None
        labels = batch.labels.repeat_interleave(batch.online.shape[1])
        return sup_con(
            batch.online.flatten(0, 1),
            labels,
            temperature=self._temperature,
            normalize=self._normalize,
        )

    def chance_loss(self, batch_size: int) -> float:
        """Return log(VB - 1) of V views."""
        return sup_con_chance(self._num_views * batch_size)
