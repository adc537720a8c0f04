"""Multinomial logistic regression on frozen features: the linear probe, solved to its optimum.

Objective, with N pictures, weights W (C, D) and an unpenalised bias b (C,)::

    f(W, b) = mean_i cross_entropy(W x_i + b, y_i) + l2 / 2 * ||W||^2

which is scikit-learn's ``LogisticRegression`` at ``C = 1 / (N * l2)``. It is strictly convex in
W, so there is one optimum, and the solver may change coordinates as it likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from looktwice.evaluate.lbfgs import Curvature, minimise

# Largest entry of the gradient where a solution is accepted, in coordinates where the Hessian is
# about the identity: the excess of the objective is then of the order of its square. Relative to
# the gradient at W = 0 where that is below 1, since strong regularisation makes everything small.
TOLERANCE = 1e-4
MAX_ITERATIONS = 500
BLOCK = 4096  # pictures whose coordinates are in the cache together
# Of fewer pictures than features, components below this share of the largest variance are rounding.
RANK_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Standardiser:
    """Mean and scale (D,) float64 of each feature; a feature that never varies keeps scale 1."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standardiser:
        """Measure ``features`` (N, D)."""
        exact = features.double()
        scale, mean = torch.std_mean(exact, dim=0, correction=0)
        varies = scale > 1e-6 * exact.abs().amax(dim=0)
        return cls(mean, torch.where(varies, scale, 1.0))

    def __call__(self, features: Tensor) -> Tensor:
        """Return float32 (N, D) features of mean 0 and standard deviation 1."""
        return ((features - self.mean) / self.scale).float()


@dataclass(frozen=True)
class UnitLength:
    """Features of length 1, times one number that makes their mean variance 1."""

    scale: float

    @classmethod
    def of(cls, features: Tensor) -> UnitLength:
        """Measure ``features`` (N, D)."""
        variance = float(F.normalize(features.double(), dim=1).var(dim=0, correction=0).mean())
        return cls(variance**-0.5 if variance > 0 else 1.0)

    def __call__(self, features: Tensor) -> Tensor:
        """Return float32 (N, D) features of equal length: only their direction counts."""
        return F.normalize(features, dim=1).float() * self.scale


@dataclass(frozen=True)
class LinearModel:
    """Weights (C, D) and bias (C,), float64."""

    weights: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Return the logits (N, C) of ``features`` (N, D), in the features' precision."""
        return F.linear(features, self.weights.to(features.dtype), self.bias.to(features.dtype))

    def predict(self, features: Tensor) -> Tensor:
        """Return the class (N,) int64 of the largest score; the lowest class of a tie."""
        return self.scores(features).argmax(dim=1)


def fit_path(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    strengths: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
) -> Iterator[LinearModel]:
    """Fit one model for each l2 strength, each started from the solution before it.

    The optimal W lies in the span of the centred features (its gradient does), so the problem is
    solved in their principal components. There the Hessian is nearly diagonal, about
    variance * mean p (1 - p) + l2, and scaling by its inverse root leaves a problem that L-BFGS
    solves in tens of steps.

    Args:
        features: float32 or float64 (N, D), standardised; sets the precision of the products.
        labels: int64 (N,), 0 .. num_classes - 1; every class at least once.
        num_classes: C.
        strengths: l2 > 0, best from strong to weak; solved as the iterator is advanced.
        tolerance: see ``TOLERANCE``.
    """
    centre = features.double().mean(dim=0)
    centred = (features - centre).to(features.dtype)
    components, variances = _principal_components(centred)
    problem = _Problem(centred @ components.to(features.dtype), variances, labels, num_classes)
    for l2 in strengths:
        solution = problem.solve(l2, tolerance)
        weights = solution[:, :-1] @ components.T
        yield LinearModel(weights, solution[:, -1] - weights @ centre)


def _principal_components(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return orthonormal directions (D, R) that span ``centred`` (N, D), and variances (R,)."""
    count, dimensions = centred.shape
    if count >= dimensions:
        # Any orthonormal basis of the space of what varies serves, so rounding of the products does
        # no harm. Float64, and only what varies: else the decomposition fails for some features.
        live = (centred != 0).any(dim=0)
        varying = centred[:, live]
        variances, inner = torch.linalg.eigh((varying.T @ varying / count).double())
        components = inner.new_zeros(dimensions, len(inner))
        components[live] = inner
        return components, variances.clamp(min=0)
    exact = centred.double()
    variances, vectors = torch.linalg.eigh(exact @ exact.T / count)
    kept = variances > RANK_TOLERANCE * variances[-1]
    variances = variances[kept]
    return exact.T @ (vectors[:, kept] / (count * variances).sqrt()), variances


class _Problem:
    """The objective over principal components; the last solution is where the next one starts.

    A solution is (C, R + 1), float64: the weights, and the bias in the last column.
    """

    def __init__(
        self, coordinates: Tensor, variances: Tensor, labels: Tensor, num_classes: int
    ) -> None:
        # Read twice an evaluation, the second time from the cache.
        self._blocks = list(
            zip(torch.split(coordinates, BLOCK), torch.split(labels, BLOCK), strict=True)
        )
        self._rows = torch.arange(min(BLOCK, len(labels)))
        self._count = len(labels)
        self._noise = torch.finfo(coordinates.dtype).eps
        self._variances = variances  # (R,) float64
        frequencies = torch.bincount(labels, minlength=num_classes).double() / len(labels)
        self._learnt: tuple[Curvature, float] | None = None
        # Without weights the optimal bias is the log of the class frequencies.
        weights = variances.new_zeros(num_classes, len(variances))
        self._solution = torch.cat([weights, frequencies.log()[:, None]], dim=1)
        self._first_gradient = self._value_and_gradient(self._solution, 0.0)[1]

    def solve(self, l2: float, tolerance: float) -> Tensor:
        """Return the optimum (C, R + 1) at strength ``l2``."""
        curvature = self._curvature()
        hessian = torch.cat([curvature * self._variances + l2, curvature[None]])
        scale = hessian.rsqrt()
        steepest = float((self._first_gradient * scale).abs().max())

        def value_and_gradient(flat: Tensor) -> tuple[float, Tensor]:
            value, gradient = self._value_and_gradient(flat.view_as(self._solution) * scale, l2)
            return value, (gradient * scale).flatten()

        found, learnt = minimise(
            value_and_gradient,
            (self._solution / scale).flatten(),
            tolerance=tolerance * min(1.0, steepest),
            max_iterations=MAX_ITERATIONS,
            noise=self._noise,
            known=self._known(l2, scale),
        )
        self._learnt = self._rescaled(learnt, scale), l2
        self._solution = found.view_as(self._solution) * scale
        return self._solution

    def _known(self, l2: float, scale: Tensor) -> Curvature | None:
        """Return what was learnt at another strength, in coordinates divided by `scale` (C, R + 1).

        It is exact there too: the Hessians differ by a multiple of the weights' identity.
        """
        if self._learnt is None:
            return None
        (steps, changes), before = self._learnt
        steps = steps.view(-1, *self._solution.shape)
        changes = changes.view_as(steps).clone()
        changes[..., :-1] += (l2 - before) * steps[..., :-1]
        return self._rescaled(Curvature(steps, changes), 1 / scale)

    def _rescaled(self, curvature: Curvature, scale: Tensor) -> Curvature:
        """Return a curvature after its coordinates were multiplied by `scale` (C, R + 1)."""
        steps, changes = (part.view(-1, *self._solution.shape) for part in curvature)
        return Curvature((steps * scale).flatten(1), (changes / scale).flatten(1))

    def _curvature(self) -> Tensor:
        """Return the mean of p (1 - p) over pictures and classes at the present solution."""
        total = 0.0
        for coordinates, _ in self._blocks:
            chances = _scores(coordinates, self._solution).softmax(dim=0)
            total += float((chances * (1 - chances)).double().sum())
        mean = total / (self._count * len(self._solution))
        return self._solution.new_tensor(mean).clamp(min=1e-6)

    def _value_and_gradient(self, solution: Tensor, l2: float) -> tuple[float, Tensor]:
        """Return f and its gradient (C, R + 1)."""
        loss = 0.0
        gradient = torch.zeros_like(solution)
        for coordinates, own in self._blocks:
            log_chances = _scores(coordinates, solution).log_softmax(dim=0)
            own_rows = self._rows[: len(own)]
            loss -= float(log_chances[own, own_rows].double().sum())
            residual = log_chances.exp_()
            residual[own, own_rows] -= 1
            gradient[:, :-1] += residual @ coordinates
            gradient[:, -1] += residual.double().sum(dim=1)
        gradient /= self._count
        weights = solution[:, :-1]
        gradient[:, :-1] += l2 * weights
        return loss / self._count + float(l2 / 2 * weights.square().sum()), gradient


def _scores(coordinates: Tensor, solution: Tensor) -> Tensor:
    """Return logits (C, N), in the precision of the coordinates (N, R)."""
    exact = solution.to(coordinates.dtype)
    # Classes first: sums over a few classes are quick along the outer axis only.
    return F.linear(coordinates, exact[:, :-1], exact[:, -1]).T.contiguous()
