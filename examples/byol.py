"""BYOL (arXiv 2006.07733) as a method of one's own: no negatives, a head that predicts.

python examples/byol.py FOLDER
"""

import sys

import torch.nn.functional as F
from torch import Tensor, nn

import looktwice
from looktwice.methods import Embedded, Method, MomentumEncoder, Views, momentum_at, over_views


class BYOL(Method):
    """An online network predicts what a slowly following one makes of the other view."""

    def __init__(
        self,
        backbone: nn.Module,
        projection_head: nn.Module,
        *,
        embedding_dim: int = 128,  # that of `model.embedding_dim`
        momentum: float = 0.996,
    ) -> None:
        super().__init__()
        self.backbone, self.projection_head = backbone, projection_head
        self.momentum_encoder = MomentumEncoder(nn.Sequential(backbone, projection_head))
        hidden = nn.Linear(embedding_dim, 4 * embedding_dim)
        norm = nn.BatchNorm1d(4 * embedding_dim)
        self.predictor = nn.Sequential(
            hidden, norm, nn.ReLU(), nn.Linear(4 * embedding_dim, embedding_dim)
        )
        self.momentum = momentum

    def project(self, pictures: Tensor) -> Tensor:
        """Pictures (M, C, S, S) to predictions (M, D)."""
        return self.predictor(self.projection_head(self.backbone(pictures)))

    def embed_target(self, views: Views) -> Tensor:
        """Views to the second network's projections (B, V, D); nothing is learnt here."""
        return over_views(self.momentum_encoder, views)

    def loss(self, batch: Embedded) -> Tensor:
        """‖p - z‖² of unit vectors, each of two views predicting the other (equation 2)."""
        p, z = F.normalize(batch.online, dim=2), F.normalize(batch.target, dim=2)
        return sum((2 - 2 * (p[:, i] * z[:, 1 - i]).sum(1)).mean() for i in (0, 1))

    def chance_loss(self, batch_size: int) -> float:
        """Predictions at right angles to what they should be: 2 for each view."""
        return 4.0

    def after_step(self, batch: Embedded, progress: float) -> None:
        """Let the second network follow, ever more slowly (section 3.2)."""
        online = nn.Sequential(self.backbone, self.projection_head)
        self.momentum_encoder.follow(online, momentum_at(progress, self.momentum, "cosine"))


if __name__ == "__main__":
    print(looktwice.pretrain(sys.argv[1], method=BYOL, settings={"train.epochs": 20}))
