"""Contrastive learning of visual features: from unlabelled pictures to an encoder with proof."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from looktwice.data import open_source
    from looktwice.embedder import Embedder
    from looktwice.estimator import load_encoder
    from looktwice.train import pretrain, resume

__version__ = "0.1.0"
__all__ = ["Embedder", "__version__", "load_encoder", "open_source", "pretrain", "resume"]

# Torch takes seconds to import: each name is loaded when it is first asked for.
_HOMES = {
    "Embedder": "looktwice.embedder",
    "load_encoder": "looktwice.estimator",
    "open_source": "looktwice.data",
    "pretrain": "looktwice.train",
    "resume": "looktwice.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
