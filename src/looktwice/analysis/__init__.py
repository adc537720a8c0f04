"""Pictures of features: a flat map of them, and where in a picture they come from."""

from __future__ import annotations

from looktwice.analysis.analyze import Analysis, Layout, analyze
from looktwice.analysis.cam import class_cam, grad_cam, last_map, similarity_cam
from looktwice.analysis.panels import Panel, Seen
from looktwice.analysis.points import Points
from looktwice.analysis.similarity import Similarities, similarities
from looktwice.analysis.tsne import agreement, kept_neighbours, tsne

__all__ = [
    "Analysis",
    "Layout",
    "Panel",
    "Points",
    "Seen",
    "Similarities",
    "agreement",
    "analyze",
    "class_cam",
    "grad_cam",
    "kept_neighbours",
    "last_map",
    "similarities",
    "similarity_cam",
    "tsne",
]
