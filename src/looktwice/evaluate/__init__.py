"""Proof: protocols on frozen features, each beside raw pixels and the untrained network."""

from __future__ import annotations

from looktwice.evaluate.features import raw_pixels
from looktwice.evaluate.health import health_report
from looktwice.evaluate.protocol import SplitFeatures, SplitLabels, evaluate_features
from looktwice.evaluate.run import evaluate_run, table

__all__ = [
    "SplitFeatures",
    "SplitLabels",
    "evaluate_features",
    "evaluate_run",
    "health_report",
    "raw_pixels",
    "table",
]
