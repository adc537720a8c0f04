"""Means over seeds and test pictures, their differences, and what these allow to say.

What is measured of a variant is how often each of T test pictures was right with each of S seeds,
(S, T). Seeds and pictures are both samples, and crossed: each seed meets each picture. So the
variance of the mean is (MS_seeds + MS_pictures - MS_rest) / (S T), from the mean squares of a
two-way analysis of variance with both effects random (Searle, Casella & McCulloch 1992, Variance
Components, chapter 4), pictures within their classes; intervals are Student's t with
Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946). A bootstrap that resamples seeds
and pictures counts the rest, which is mostly what remains of a paired difference, three times (Owen
2007, arXiv 0711.3857), and percentiles of three seeds cover too little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

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


def over_pictures(values: Doubles, truth: Labels) -> Estimate:
    """Estimate balanced accuracy, or a difference of two, from values (S, T).

    Args:
        values: share of draws in which a picture was right, or differences of two such.
        truth: classes (S, T), for most measures the same with every seed; pictures are samples of
            their class with the first seed, classes are fixed.
    """
    num_seeds, _ = values.shape
    weights = np.stack([balanced_weights(labels) for labels in truth])
    means: Doubles = (values * weights).mean(axis=1)
    pictures, rest = _parts_by_class(values, truth[0])
    if num_seeds == 1:
        return _estimate(means, sum(v for v, _ in pictures), _satterthwaite(pictures))
    seeds = float(means.var(ddof=1)) / num_seeds, num_seeds - 1
    variance, between = sum(v for v, _ in pictures), seeds[0] - sum(v for v, _ in rest)
    if between <= 0:  # seeds differ by no more than chance
        return _estimate(means, variance, _satterthwaite(pictures))
    variance += between
    return _estimate(means, variance, _satterthwaite([seeds, *pictures, *rest], variance))


_Part = tuple[float, float]
"""A share of the variance of the mean, and its degrees of freedom."""


def _parts_by_class(values: Doubles, truth: Labels) -> tuple[list[_Part], list[_Part]]:
    """Return what pictures, and what the rest, add to the variance of the mean, by class."""
    labels = np.unique(truth)
    num_seeds = len(values)
    pictures, rest = [], []
    for label in labels:
        members = values[:, truth == label]
        count = members.shape[1]
        if count == 1:
            continue  # how far its class's pictures differ cannot be told
        share = 1 / (count * len(labels) ** 2)
        means = members.mean(axis=0)
        pictures.append((share * float(means.var(ddof=1)), count - 1))
        if num_seeds > 1:
            left = members - means - members.mean(axis=1, keepdims=True) + means.mean()
            freedom = (num_seeds - 1) * (count - 1)
            rest.append((share * float((left**2).sum()) / freedom / num_seeds, freedom))
    return pictures, rest


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


def _satterthwaite(parts: Sequence[_Part], total: float | None = None) -> float:
    """Return the degrees of freedom of a sum of parts; `total` where some are taken off."""
    total = sum(variance for variance, _ in parts) if total is None else total
    below = sum(variance**2 / freedom for variance, freedom in parts)
    return total**2 / below if below > 0 else min((freedom for _, freedom in parts), default=1.0)


def _estimate(means: Doubles, variance: float, freedom: float) -> Estimate:
    mean, error = float(means.mean()), math.sqrt(variance)
    half = float(stats.t.ppf((1 + COVERAGE) / 2, freedom)) * error
    sd = float(means.std(ddof=1)) if len(means) > 1 else None
    return Estimate(mean, sd, (mean - half, mean + half), error, freedom, len(means))
