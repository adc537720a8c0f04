"""How near the gradient of a way to train comes to that of the true large batch.

Accumulating the loss over pieces of a batch, as reproductions of SimCLR do, adds gradients of small
batches: each picture has the negatives of its own piece alone. Caching embeddings gives the large
batch's own gradient (`large_batch`).
"""

from __future__ import annotations

from contextlib import closing

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looktwice import config as configuration
from looktwice.build import Training, build
from looktwice.checkpoint import checkpoint_name, load_checkpoint
from looktwice.config import OWN, Config
from looktwice.data import Splits
from looktwice.losses import nt_xent
from looktwice.methods import Embedded, Method, OwnMethod
from looktwice.run import Run

NUM_BATCHES = 4


class NaiveAccumulation(Method):
    """SimCLR whose loss is the mean over pieces of the batch: no negatives between pieces.

    Args:
        backbone: pictures to features.
        projection_head: features to embeddings.
        piece: pictures of a piece.
        temperature: of NT-Xent.
    """

    def __init__(
        self, backbone: nn.Module, projection_head: nn.Module, *, piece: int, temperature: float
    ) -> None:
        super().__init__()
        self.backbone, self.projection_head = backbone, projection_head
        self._piece, self._temperature = piece, temperature

    def project(self, pictures: Tensor) -> Tensor:
        """Map pictures (M, C, S, S) to embeddings (M, D)."""
        embeddings: Tensor = self.projection_head(self.backbone(pictures))
        return embeddings

    def loss(self, batch: Embedded) -> Tensor:
        """Return the mean of the pieces' losses."""
        pieces = torch.split(batch.online, self._piece)
        losses = [nt_xent(z[:, 0], z[:, 1], temperature=self._temperature) for z in pieces]
        return torch.stack(losses).mean()

    def chance_loss(self, batch_size: int) -> float:  # noqa: ARG002
        """Return log(2 * piece - 1): what guessing among a piece's views costs."""
        return float(torch.tensor(2.0 * self._piece - 1).log())


def own_method(config: Config) -> OwnMethod | None:
    """Return `NaiveAccumulation`, in pieces of bn_group, where a study asks for a method `own`."""
    if config.method.name != OWN:
        return None
    piece, temperature = int(config.train.bn_group), config.method.temperature

    def make(backbone: nn.Module, projection_head: nn.Module) -> Method:
        return NaiveAccumulation(backbone, projection_head, piece=piece, temperature=temperature)

    return make


def gradient_cosines(run: Run, splits: Splits) -> tuple[float, float]:
    """Return the mean cosine to the true large batch's gradient before and after training.

    Of a few batches, at the run's own first and last weights. The true gradient is SimCLR's of the
    whole batch in one piece.
    """
    config = run.config()
    true = configuration.with_values(config, {"method.name": "simclr", "train.micro_batch": 0})
    found = []
    for weights in (None, load_checkpoint(run.checkpoints / checkpoint_name(config.train.steps))):
        ours, theirs = build(config, splits, own_method(config)), build(true, splits)
        for training in (ours, theirs):
            if weights is not None:
                training.method.load_state_dict(weights[0]["method"])
            training.method.train()
        found.append(_mean_cosine(ours, theirs))
    return found[0], found[1]


def _mean_cosine(ours: Training, theirs: Training) -> float:
    with closing(ours.loader.batches(0, NUM_BATCHES)) as batches:
        cosines = [
            float(F.cosine_similarity(_gradient(ours, b), _gradient(theirs, b), dim=0))
            for b in batches
        ]
    return sum(cosines) / len(cosines)


def _gradient(training: Training, batch: object) -> Tensor:
    """Return the gradient of all parameters as one vector, float64."""
    views = tuple(
        torch.from_numpy(part).to(training.device).permute(0, 1, 4, 2, 3)
        for part in batch.views  # type: ignore[attr-defined]
    )
    training.large_batch.backward(views, step=0)
    parts = [p.grad.flatten() for p in training.method.parameters() if p.grad is not None]
    return torch.cat(parts).double()
