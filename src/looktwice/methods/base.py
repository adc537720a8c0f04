"""What every method is: views to embeddings, embeddings of the whole batch to a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from looktwice.metrics import contrastive_top1

Views = tuple[Tensor, ...]
"""One tensor (B, views, C, S, S) for each size of views, normalised floats."""

Pairs = tuple[tuple[int, int], ...]
"""Which views must find each other."""


@dataclass(frozen=True)
class Embedded:
    """A global batch of B pictures as a loss sees it.

    Attributes:
        online: (B, V, D) from `Method.embed`; the loss's gradient is taken here.
        target: (B, V', D') from `Method.embed_target`, without gradient; None where a method has
            no second network.
        labels: int64 (B,); None unless the method asks for them.
    """

    online: Tensor
    target: Tensor | None = None
    labels: Tensor | None = None


class Method(nn.Module, ABC):
    """What is learnt: a network, and a loss of the embeddings of a whole batch.

    Both are apart so that a batch can be computed in pieces, by one process after another or by
    many at once: `embed` sees pieces, `loss` sees the whole. All that is learnt stands in `embed`;
    the loss has no parameters of its own.

    Attributes:
        backbone: what is kept when training is over.
        uses_labels: whether the loss looks at labels.
        shuffles: whether `embed_target` sees the pictures of a batch in another order, so that
            they fall into other batch-norm groups (shuffling BN, arXiv 1911.05722, section 3.3).
        normalize: whether `top1` compares embeddings by cosine, else by dot product.
    """

    backbone: nn.Module
    normalize: bool = True
    uses_labels: bool = False
    shuffles: bool = False

    @abstractmethod
    def project(self, pictures: Tensor) -> Tensor:
        """Map pictures (M, C, S, S), normalised floats, to embeddings (M, D) for `online`."""

    @abstractmethod
    def loss(self, batch: Embedded) -> Tensor:
        """Return the scalar loss of a whole batch; equal on every process."""

    @abstractmethod
    def chance_loss(self, batch_size: int) -> float | None:
        """Return the loss of an encoder that tells no picture from another, in nats.

        None where there is no such level, as with semi-hard negatives.
        """

    def embed(self, views: Views) -> Tensor:
        """Map views to embeddings (B, V, D); views of one size share their batch-norm groups."""
        return over_views(self.project, views)

    def embed_target(self, views: Views) -> Tensor | None:  # noqa: ARG002
        """Map views to a second network's embeddings (B, V', D'); called without gradient."""
        return None

    def after_step(self, batch: Embedded, progress: float) -> None:
        """Change what no gradient changes: momentum encoders, queues.

        Args:
            batch: what the loss saw.
            progress: share of the run that is done, above 0 to 1.
        """

    def top1(self, batch: Embedded) -> float:
        """Return how often the task is solved, 0-1: by default of first views for last ones."""
        other = batch.online if batch.target is None else batch.target
        return contrastive_top1(batch.online[:, 0], other[:, -1], normalize=self.normalize)


def sum_of_means(losses: Sequence[Tensor], pairs: Pairs) -> Tensor:
    """Return the sum over queries of the mean of their pairs' losses, pairs being (query, key)."""
    keys = Counter(query for query, _ in pairs)
    shares = [loss / keys[query] for loss, (query, _) in zip(losses, pairs, strict=True)]
    return torch.stack(shares).sum()


def over_views(project: Callable[[Tensor], Tensor], views: Views) -> Tensor:
    """Apply a map of pictures (M, C, S, S) to all views: (B, V, D), one call for each size."""
    parts = [project(v.flatten(0, 1)).view(*v.shape[:2], -1) for v in views]
    return torch.cat(parts, dim=1)
