"""Means over seeds (or draws of labels) and test pictures, and what these allow to say.

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
RESAMPLES = 4000  # of `mean_interval`

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

    def interval_at(self, coverage: float) -> tuple[float, float]:
        """Return the interval of another coverage, in (0, 1)."""
        return _around(self.mean, self.error, self.freedom, coverage)

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


def over_pictures(values: Doubles, truth: Labels | None = None) -> Estimate:
    """Estimate accuracy, balanced where classes are given, or a difference of two: values (S, T).

    Of two seeds the interval holds the truth in 86 to 96 % of cases, since two that happen to be
    near each other hide how far seeds vary; of three in 93 % or more, of five in 95 (simulated).

    Args:
        values: share of draws in which a picture was right, or differences of two such.
        truth: classes (S, T), for most measures the same with every seed; pictures are samples of
            their class with the first seed, classes are fixed. None: plain accuracy, of pictures
            that are samples of all.
    """
    truth = np.zeros(values.shape, np.int64) if truth is None else truth
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


def share_interval(estimate: Estimate, num_pictures: int) -> tuple[float, float]:
    """Return the 95 % interval of a share: within 0 .. 1, and not without width at either.

    Wilson's (J. Am. Stat. Assoc. 22, 1927) with Student's t, of as many pictures as would have the
    estimate's error by themselves (Korn & Graubard, Survey Methodology 24, 1998); of
    `num_pictures` where that is 0, as when all are right.
    """
    p, variance = estimate.mean, estimate.error**2
    size = p * (1 - p) / variance if variance > 0 else num_pictures
    t = float(stats.t.ppf((1 + COVERAGE) / 2, estimate.freedom))
    whole = 1 + t**2 / size
    centre = (p + t**2 / (2 * size)) / whole
    half = t / whole * math.sqrt(p * (1 - p) / size + (t / (2 * size)) ** 2)
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def gain_interval(
    estimate: Estimate, num_pictures: int, coverage: float = COVERAGE
) -> tuple[float, float]:
    """Return the interval of a difference of two shares, not without width where they never differ.

    There it is that of two more pictures, on each of which another one was right alone (Bonett &
    Price, J. Educ. Behav. Stat. 37, 2012).
    """
    if estimate.error > 0:
        return estimate.interval_at(coverage)
    size = num_pictures + 2
    ours, theirs = ((num_pictures * max(0.0, s * estimate.mean) + 1) / size for s in (1, -1))
    mean = ours - theirs
    error = math.sqrt((ours + theirs - mean**2) / size)
    low, high = _around(mean, error, num_pictures, coverage)
    return max(-1.0, min(low, estimate.mean)), min(1.0, max(high, estimate.mean))


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
    sd = float(means.std(ddof=1)) if len(means) > 1 else None
    interval = _around(mean, error, freedom, COVERAGE)
    return Estimate(mean, sd, interval, error, freedom, len(means))


def _around(mean: float, error: float, freedom: float, coverage: float) -> tuple[float, float]:
    half = float(stats.t.ppf((1 + coverage) / 2, freedom)) * error
    return mean - half, mean + half
