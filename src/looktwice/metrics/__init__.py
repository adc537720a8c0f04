"""Pure functions of features: weighted k-NN, and health without labels."""

from __future__ import annotations

from looktwice.metrics.contrastive import contrastive_top1
from looktwice.metrics.health import (
    LEARNING_PATIENCE,
    PATIENCE,
    Health,
    bound_in_blocks,
    effective_rank,
    health_verdict,
    invariance,
    measure_health,
)
from looktwice.metrics.knn import class_votes, knn_predict, knn_scores, nearest

__all__ = [
    "LEARNING_PATIENCE",
    "PATIENCE",
    "Health",
    "bound_in_blocks",
    "class_votes",
    "contrastive_top1",
    "effective_rank",
    "health_verdict",
    "invariance",
    "knn_predict",
    "knn_scores",
    "measure_health",
    "nearest",
]
