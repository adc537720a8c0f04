"""Paired bootstrap: one set of resampled test pictures for every row and protocol."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 4000
COVERAGE = 0.95
_BLOCK_NUMBERS = 1 << 22  # counts held at once

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over draws of labels and test pictures, with its resamples.

    Attributes:
        draws: accuracy of each draw (L,).
        resampled: accuracy in each resample (RESAMPLES,), paired with every other Accuracy of
            the same call.
    """

    draws: Doubles
    resampled: Doubles

    @property
    def mean(self) -> float:
        """Accuracy, 0 .. 1, averaged over draws."""
        return float(self.draws.mean())

    @property
    def sd(self) -> float | None:
        """Standard deviation over draws (L - 1 in the denominator); None for a single draw."""
        return float(self.draws.std(ddof=1)) if len(self.draws) > 1 else None


def resample(correct: list[NDArray[np.bool_]], seed: int) -> list[Accuracy]:
    """Resample test pictures, and draws of labels where there are several.

    Percentile bootstrap (Efron & Tibshirani 1993, section 13.3). Row l of all entries with the
    same number of draws is taken to be the same draw, and is resampled together.

    Args:
        correct: for each thing measured, (L, T) whether draw l got test picture t right.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    means = _picture_means(np.concatenate(correct).astype(np.float32), generator)
    shares: dict[int, Doubles] = {}
    results = []
    first = 0
    for entry in correct:
        num_draws = len(entry)
        if num_draws not in shares:
            uniform = np.full(num_draws, 1 / num_draws)
            shares[num_draws] = generator.multinomial(num_draws, uniform, RESAMPLES) / num_draws
        own = means[:, first : first + num_draws]
        first += num_draws
        results.append(Accuracy(entry.mean(axis=1), (own * shares[num_draws]).sum(axis=1)))
    return results


def _picture_means(values: NDArray[np.float32], generator: np.random.Generator) -> Doubles:
    """Return the mean of each row of ``values`` (M, T) in each resample of T, (RESAMPLES, M)."""
    size = values.shape[1]
    rows = max(1, _BLOCK_NUMBERS // size)
    blocks = []
    for first in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - first)
        picked = generator.integers(size, size=(count, size))
        picked += size * np.arange(count)[:, None]
        times = np.bincount(picked.ravel(), minlength=count * size).reshape(count, size)
        # Sums of small whole numbers: exact in float32.
        blocks.append(times.astype(np.float32) @ values.T)
    means: Doubles = np.concatenate(blocks).astype(np.float64) / size
    return means


def pack(correct: NDArray[np.bool_]) -> list[str]:
    """Return whether draw l got picture t right, (L, T), as text: a line a draw, bits in base64."""
    return [base64.b64encode(np.packbits(draw).tobytes()).decode("ascii") for draw in correct]


def unpack(lines: Sequence[str], num_pictures: int) -> NDArray[np.bool_]:
    """Return what `pack` packed, (L, T)."""
    bits = [np.frombuffer(base64.b64decode(line), np.uint8) for line in lines]
    return np.unpackbits(np.stack(bits), axis=1, count=num_pictures).astype(bool)


def interval(resampled: Doubles, coverage: float = COVERAGE) -> list[float]:
    """Return [low, high], the central share of resampled accuracies or differences."""
    tail = (1 - coverage) / 2
    return [float(bound) for bound in np.quantile(resampled, [tail, 1 - tail])]


def mean_interval(values: Doubles, seed: int) -> list[float]:
    """Return [low, high], the 95 % interval of the mean of independent values (M,), M >= 8.

    Percentile bootstrap, its percentiles expanded so that few values do not make it narrow: by
    Student's t and by sqrt(M / (M - 1)) (Hesterberg 2015, arXiv 1411.5279, "expanded percentile").
    Below 8 values resampling them cannot tell how far their mean may lie.
    """
    count = len(values)
    generator = np.random.default_rng(seed)
    means = values[generator.integers(count, size=(RESAMPLES, count))].mean(axis=1)
    wide = (count / (count - 1)) ** 0.5 * stats.t.ppf((1 + COVERAGE) / 2, count - 1)
    tail = stats.norm.cdf(-wide)
    return [float(bound) for bound in np.quantile(means, [tail, 1 - tail])]
