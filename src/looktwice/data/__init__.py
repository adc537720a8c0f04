"""How pictures come in: sources, splits, order, and batches of views."""

from __future__ import annotations

from looktwice.data.loader import BadPicture, Batch, Loader
from looktwice.data.open import Data, open_official, open_source, open_splits
from looktwice.data.shuffle import permute
from looktwice.data.sources import ArraySource, FileSource, Source, join, subset
from looktwice.data.splits import Splits

__all__ = [
    "ArraySource",
    "BadPicture",
    "Batch",
    "Data",
    "FileSource",
    "Loader",
    "Source",
    "Splits",
    "join",
    "open_official",
    "open_source",
    "open_splits",
    "permute",
    "subset",
]
