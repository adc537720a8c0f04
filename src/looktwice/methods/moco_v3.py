"""MoCo v3: queries find their keys within a large batch, through a prediction head."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from looktwice.losses import info_nce, info_nce_chance
from looktwice.methods.base import Embedded, Method, Pairs, Views, over_views, sum_of_means
from looktwice.methods.moco import chosen
from looktwice.methods.momentum import MomentumEncoder, momentum_at


@final
class MoCoV3(Method):
    """Encoder with a prediction head, momentum encoder, no queue (arXiv 2104.02057, algorithm 1).

    Args:
        backbone: pictures to features.
        projection_head: features to embeddings.
        predictor: embeddings to predictions of the other view's key.
        temperature: of the softmax, above 0; the loss of a pair is multiplied by twice that.
        momentum: of the momentum encoder, 0-1.
        momentum_schedule: see `momentum_at`; published: cosine.
        pairs: (query view, key view); published: both ways.
        normalize: scale embeddings to unit length.
        shuffle: whether keys are computed in other batch-norm groups than queries.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projection_head: nn.Module,
        predictor: nn.Module,
        *,
        temperature: float,
        momentum: float,
        momentum_schedule: str = "cosine",
        pairs: Pairs = ((0, 1), (1, 0)),
        normalize: bool = True,
        shuffle: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = projection_head
        self.predictor = predictor
        self.momentum_encoder = MomentumEncoder(nn.Sequential(backbone, projection_head))
        self.shuffles = shuffle
        self._temperature, self._normalize = temperature, normalize
        self._momentum, self._schedule = momentum, momentum_schedule
        self._pairs = pairs
        self._queries = sorted({query for query, _ in pairs})
        self._keys = sorted({key for _, key in pairs})

    def project(self, pictures: Tensor) -> Tensor:
        """Map pictures (M, C, S, S) to predictions (M, D)."""
        predictions: Tensor = self.predictor(self.projection_head(self.backbone(pictures)))
        return predictions

    def embed(self, views: Views) -> Tensor:
        """Map views to predictions (B, queries, D), one view at a time, as published."""
        queries = [over_views(self.project, (view,)) for view in chosen(views, self._queries)]
        return torch.cat(queries, dim=1)

    def embed_target(self, views: Views) -> Tensor:
        """Map views to keys (B, keys, D), one view at a time."""
        keys = [over_views(self.momentum_encoder, (view,)) for view in chosen(views, self._keys)]
        return torch.cat(keys, dim=1)

    def loss(self, batch: Embedded) -> Tensor:
        """Return the sum over queries of the mean over each one's keys of 2τ × cross-entropy."""
        assert batch.target is not None
        losses = [
            info_nce(
                batch.online[:, self._queries.index(query)],
                batch.target[:, self._keys.index(key)],
                temperature=self._temperature,
                normalize=self._normalize,
            )
            for query, key in self._pairs
        ]
        return 2 * self._temperature * sum_of_means(losses, self._pairs)

    def chance_loss(self, batch_size: int) -> float:
        """Return 2τ log B for each query."""
        return len(self._queries) * 2 * self._temperature * info_nce_chance(batch_size)

    def after_step(self, batch: Embedded, progress: float) -> None:  # noqa: ARG002
        """Move the momentum encoder."""
        momentum = momentum_at(progress, self._momentum, self._schedule)
        self.momentum_encoder.follow(nn.Sequential(self.backbone, self.projection_head), momentum)
