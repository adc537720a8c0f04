"""Train, validation and test: three different things, carved where none is given."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.decoding import Ground
from looktwice.data.shuffle import permute
from looktwice.data.sources import Source, subset
from looktwice.errors import DataError, UsageError

_KEYS: Final = {"test": 1 << 63, "validation": (1 << 63) + (1 << 62)}
"""Where each split's permutations begin among the epochs: none is ever trained at."""

_Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Three sources without a picture in common.

    Attributes:
        train: what is learnt from.
        validation: what everything is chosen on.
        test: what is reported, and never chosen on; None when there are no labels.
    """

    train: Source
    validation: Source
    test: Source | None

    def over(self, ground: Ground) -> Splits:
        """Return the splits with the transparent parts of all pictures over a ground."""
        test = self.test and self.test.over(ground)
        return Splits(self.train.over(ground), self.validation.over(ground), test)

    def fingerprint(self) -> str:
        """Return a sha256 (hex) of all three, as `Source.fingerprint`."""
        parts = [part.fingerprint() for part in (self.train, self.validation, self.test) if part]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def carve(
    official: Mapping[str, Source],
    *,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> Splits:
    """Complete the official splits.

    Test is carved first, from a labelled train split; validation from what then is train.

    Args:
        official: "train", and "validation" and "test" where they exist.
        validation_fraction: share of train, in (0, 1).
        test_fraction: share of train, in (0, 1).
        seed: 0 to 2^64 - 1.

    Raises:
        UsageError: a fraction or the seed out of range.
        DataError: too few pictures to carve one off.
    """
    _check(validation_fraction, test_fraction, seed)
    train, test = official["train"], official.get("test")
    if test is None and train.labels is not None:
        train, test = _carve_one(train, "test", test_fraction, seed)
    validation = official.get("validation")
    if validation is None:
        train, validation = _carve_one(train, "validation", validation_fraction, seed)
    return Splits(train, validation, test)


def choose(labels: _Indices, fraction: float, seed: int, key: int) -> _Indices:
    """Choose a stratified random share of the labels (N,): indices (M,), ascending.

    M is ``fraction * N`` rounded, at least 1; classes get their share by largest remainders;
    each keeps at least one member unchosen.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    counts = _shares(sizes, max(1, round(fraction * len(labels))), fraction)
    chosen = [
        np.flatnonzero(labels == label)[permute(int(size), seed, key + rank, np.arange(count))]
        for rank, (label, size, count) in enumerate(zip(classes, sizes, counts, strict=True))
    ]
    return np.sort(np.concatenate(chosen))


def _shares(sizes: _Indices, total: int, fraction: float) -> _Indices:
    """Count what to choose of each class (C,), `total` altogether if every class can spare it."""
    counts: _Indices = np.floor(fraction * sizes).astype(np.int64)
    remainders = np.where(counts < sizes - 1, fraction * sizes - counts, -1.0)
    for label in np.argsort(-remainders, kind="stable")[: max(0, total - counts.sum())]:
        counts[label] += remainders[label] >= 0
    return counts


def _carve_one(source: Source, split: str, fraction: float, seed: int) -> tuple[Source, Source]:
    labels = np.zeros(len(source), np.int64) if source.labels is None else source.labels
    chosen = choose(labels, fraction, seed, _KEYS[split])
    if not chosen.size:
        raise DataError(
            f"no {split} pictures can be taken from the {len(source)} in {source.name!r}, since "
            "each class keeps one to train on: add pictures"
        )
    kept = np.setdiff1d(np.arange(len(source)), chosen, assume_unique=True)
    return subset(source, kept), subset(source, chosen)


def _check(validation_fraction: float, test_fraction: float, seed: int) -> None:
    for name, fraction in (("validation", validation_fraction), ("test", test_fraction)):
        if not 0 < fraction < 1:
            raise UsageError(f"{name}_fraction is {fraction}; it must be between 0 and 1")
    if not 0 <= seed < 1 << 64:
        raise UsageError(f"the seed of the splits is {seed}; it must be 0 to 2^64 - 1")
