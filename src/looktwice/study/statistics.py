"""Means over seeds and test pictures, their differences, and what these allow to say.

What is measured of a variant is how often each of T test pictures was right with each of S seeds,
(S, T). Seeds and pictures are both samples: a bootstrap that resamples both (crossed, hierarchical:
Owen 2007, arXiv 0711.3857, "pigeonhole bootstrap") gives the standard error of a mean or of a
paired difference. Three seeds are few, and resampling them makes two things too small, which are
mended: the share of the variance that is between seeds is scaled by S / (S - 1) (Efron & Tibshirani
1993, equation 5.12), and intervals are taken with Student's t and Satterthwaite's degrees of
freedom, in place of percentiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 2000
COVERAGE = 0.95

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty, all in the measure's own unit.

    Attributes:
        mean: over seeds and pictures.
        sd: over seeds (S - 1 in the denominator); None for one seed.
        interval: 95 %; of one seed, over pictures alone.
        error: standard error.
        freedom: degrees of freedom of `error`.
        seeds: S.
    """

    mean: float
    sd: float | None
    interval: tuple[float, float]
    error: float
    freedom: float
    seeds: int

    @property
    def p(self) -> float:
        """Two-sided p-value of a mean of 0."""
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.freedom))


def balanced_weights(truth: Labels) -> Doubles:
    """Return weights (T,), mean 1, that give every class of labels (T,) the same say."""
    _, inverse, counts = np.unique(truth, return_inverse=True, return_counts=True)
    weights: Doubles = len(truth) / (len(counts) * counts[inverse])
    return weights


def over_pictures(values: Doubles, truth: Labels, *, seed: int = 0) -> Estimate:
    """Estimate balanced accuracy, or a difference of two, from values (S, T).

    Args:
        values: share of draws in which a picture was right, or differences of two such.
        truth: classes (T,); pictures are resampled within their class.
        seed: of the resampling.
    """
    num_seeds, num_pictures = values.shape
    weighted = values * balanced_weights(truth)
    means: Doubles = weighted.mean(axis=1)
    pictures, seeds = _resamples(np.asarray(truth, np.int64).tobytes(), num_seeds, seed)
    by_seed = pictures.astype(np.float64) @ weighted.T / num_pictures  # (RESAMPLES, S)
    picture_variance = float(by_seed.mean(axis=1).var())
    if num_seeds == 1:
        return _estimate(means, picture_variance, num_pictures - 1)
    together = float((by_seed * seeds).sum(axis=1).var())
    seed_variance = max(0.0, together - picture_variance) * num_seeds / (num_seeds - 1)
    variance = picture_variance + seed_variance
    freedom = _satterthwaite((picture_variance, num_pictures - 1), (seed_variance, num_seeds - 1))
    return _estimate(means, variance, freedom)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Estimate the mean of one number a seed (S,): Student's t."""
    numbers = np.asarray(values, np.float64)
    if len(numbers) == 1:
        return Estimate(float(numbers[0]), None, (math.nan, math.nan), math.nan, math.nan, 1)
    return _estimate(numbers, float(numbers.var(ddof=1)) / len(numbers), len(numbers) - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979, Scand. J. Statist. 6)."""
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


@functools.lru_cache(maxsize=16)
def _resamples(truth: bytes, num_seeds: int, seed: int) -> tuple[NDArray[np.uint16], Doubles]:
    """Draw how often pictures (RESAMPLES, T) and in what share seeds (RESAMPLES, S) are taken.

    A table asks for the same again and again, for every variant and difference.

    Args:
        truth: the bytes of labels int64 (T,).
        num_seeds: S.
        seed: of the drawing.
    """
    labels = np.frombuffer(truth, np.int64)
    generator = np.random.default_rng([seed, num_seeds, len(labels)])
    pictures = _counts_of_pictures(labels, generator)
    uniform = np.full(num_seeds, 1 / num_seeds)
    return pictures.astype(np.uint16), generator.multinomial(
        num_seeds, uniform, RESAMPLES
    ) / num_seeds


def _counts_of_pictures(truth: Labels, generator: np.random.Generator) -> Doubles:
    """Return how often each picture is drawn in each resample of its class, (RESAMPLES, T)."""
    counts = np.zeros((RESAMPLES, len(truth)))
    for label in np.unique(truth):
        members = np.flatnonzero(truth == label)
        uniform = np.full(len(members), 1 / len(members))
        counts[:, members] = generator.multinomial(len(members), uniform, RESAMPLES)
    return counts


def _satterthwaite(*parts: tuple[float, float]) -> float:
    """Return the degrees of freedom of a sum of variances, each with its own."""
    total = sum(variance for variance, _ in parts)
    below = sum(variance**2 / freedom for variance, freedom in parts)
    return total**2 / below if below > 0 else min(freedom for _, freedom in parts)


def _estimate(means: Doubles, variance: float, freedom: float) -> Estimate:
    mean, error = float(means.mean()), math.sqrt(variance)
    half = float(stats.t.ppf((1 + COVERAGE) / 2, freedom)) * error
    sd = float(means.std(ddof=1)) if len(means) > 1 else None
    return Estimate(mean, sd, (mean - half, mean + half), error, freedom, len(means))
