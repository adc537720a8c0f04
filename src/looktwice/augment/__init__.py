"""Views of pictures: policies of operations, drawn by key and applied by one kernel."""

from __future__ import annotations

from looktwice.augment.named import policy
from looktwice.augment.operations import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Operation,
    RandomResizedCrop,
)
from looktwice.augment.policy import Policy

__all__ = [
    "ColorJitter",
    "GaussianBlur",
    "Grayscale",
    "HorizontalFlip",
    "Operation",
    "Policy",
    "RandomResizedCrop",
    "policy",
]
