"""Proof: protocols on frozen features, each beside raw pixels and the untrained network."""

from __future__ import annotations

from looktwice.evaluate.features import raw_pixels
from looktwice.evaluate.health import health_report
from looktwice.evaluate.labels import SplitLabels
from looktwice.evaluate.protocol import SplitFeatures, evaluate_features
from looktwice.evaluate.protocols import PROTOCOLS, Evaluation, evaluate_target
from looktwice.evaluate.run import evaluate_run, table
from looktwice.evaluate.subject import Subject, open_subject

__all__ = [
    "PROTOCOLS",
    "Evaluation",
    "SplitFeatures",
    "SplitLabels",
    "Subject",
    "evaluate_features",
    "evaluate_run",
    "evaluate_target",
    "health_report",
    "open_subject",
    "raw_pixels",
    "table",
]
