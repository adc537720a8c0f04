"""MoCo v1 and v2: queries find their keys among those of earlier batches, kept in a queue."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looktwice.losses import info_nce, info_nce_chance
from looktwice.methods.base import Embedded, Method, Pairs, Views, over_views, sum_of_means
from looktwice.methods.momentum import MomentumEncoder, momentum_at


@final
class MoCo(Method):
    """Encoder, momentum encoder and queue (arXiv 1911.05722, algorithm 1).

    v2 (arXiv 2003.04297) is the same with another head and policy. The loss is the sum over
    queries of the mean over each one's keys: one term as published, two when symmetric
    (the published CIFAR demo), three with three crops.

    Args:
        backbone: pictures to features.
        projection_head: features to embeddings.
        embedding_dim: D.
        temperature: of the softmax, above 0.
        queue_size: keys K kept; a batch's keys must fit in.
        momentum: of the momentum encoder, 0-1.
        momentum_schedule: see `momentum_at`.
        pairs: (query view, key view).
        normalize: scale embeddings to unit length.
        shuffle: whether keys are computed in other batch-norm groups than queries.
    """

    queue: Tensor
    queue_end: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        projection_head: nn.Module,
        *,
        embedding_dim: int,
        temperature: float,
        queue_size: int,
        momentum: float,
        momentum_schedule: str = "constant",
        pairs: Pairs = ((0, 1),),
        normalize: bool = True,
        shuffle: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = projection_head
        self.momentum_encoder = MomentumEncoder(nn.Sequential(backbone, projection_head))
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, embedding_dim), dim=1))
        self.register_buffer("queue_end", torch.zeros((), dtype=torch.int64))
        self.shuffles = shuffle
        self._temperature, self._normalize = temperature, normalize
        self._momentum, self._schedule = momentum, momentum_schedule
        self._pairs = pairs
        self._queries = sorted({query for query, _ in pairs})
        self._keys = sorted({key for _, key in pairs})

    def project(self, pictures: Tensor) -> Tensor:
        """Map pictures (M, C, S, S) to embeddings (M, D)."""
        embeddings: Tensor = self.projection_head(self.backbone(pictures))
        return embeddings

    def embed(self, views: Views) -> Tensor:
        """Map views to queries (B, queries, D), one view at a time, as published."""
        queries = [over_views(self.project, (view,)) for view in chosen(views, self._queries)]
        return torch.cat(queries, dim=1)

    def embed_target(self, views: Views) -> Tensor:
        """Map views to keys (B, keys, D), one view at a time."""
        keys = torch.cat(
            [over_views(self.momentum_encoder, (view,)) for view in chosen(views, self._keys)],
            dim=1,
        )
        return F.normalize(keys, dim=2) if self._normalize else keys

    def loss(self, batch: Embedded) -> Tensor:
        """Return the sum over queries of InfoNCE against their keys and the queue."""
        assert batch.target is not None
        losses = [
            info_nce(
                batch.online[:, self._queries.index(query)],
                batch.target[:, self._keys.index(key)],
                temperature=self._temperature,
                normalize=self._normalize,
                queue=self.queue,
            )
            for query, key in self._pairs
        ]
        return sum_of_means(losses, self._pairs)

    def chance_loss(self, batch_size: int) -> float:
        """Return log(1 + K) for each query."""
        return len(self._queries) * info_nce_chance(batch_size, len(self.queue))

    @torch.no_grad()
    def after_step(self, batch: Embedded, progress: float) -> None:
        """Move the momentum encoder; let the batch's keys replace the oldest of the queue."""
        momentum = momentum_at(progress, self._momentum, self._schedule)
        self.momentum_encoder.follow(nn.Sequential(self.backbone, self.projection_head), momentum)
        assert batch.target is not None
        keys = batch.target.transpose(0, 1).flatten(0, 1)  # all of one view, then of the next
        places = (self.queue_end + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[places] = keys.to(self.queue.dtype)
        self.queue_end.copy_((self.queue_end + len(keys)) % len(self.queue))


def chosen(views: Views, wanted: list[int]) -> list[Tensor]:
    """Return some views, each (B, 1, C, S, S), by number across all sizes."""
    each = [view for part in views for view in torch.split(part, 1, dim=1)]
    return [each[number] for number in wanted]
