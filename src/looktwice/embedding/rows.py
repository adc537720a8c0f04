"""Rows of an embedding: which picture, and its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """Some rows of an embedding, n of them.

    Attributes:
        splits: of each picture: train, validation or test.
        indices: int64 (n,): its place in the split, from 0, unreadable pictures counted.
        names: its name, unique in its split.
        labels: the name of its class; None where it has none.
        features: by layer, float32 or float16 (n, D).
    """

    splits: list[str]
    indices: NDArray[np.int64]
    names: list[str]
    labels: list[str | None]
    features: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.names)
