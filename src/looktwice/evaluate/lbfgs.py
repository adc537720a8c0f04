"""L-BFGS for smooth convex functions, in few tensor operations a step.

torch.optim.LBFGS does the same in some two hundred small operations, which is where all the time
goes when a fit has a hundred pictures; SciPy's multiplies in threads of its own, which torch's
thread count does not govern.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MEMORY = 40  # steps remembered
SUFFICIENT = 1e-4  # share of the promised decrease that a step must bring (Armijo)
MAX_HALVINGS = 20


class Curvature(NamedTuple):
    """What is known of a Hessian: steps (M, P), and how the gradient changed along each (M, P)."""

    steps: Tensor
    changes: Tensor


def minimise(
    value_and_gradient: Callable[[Tensor], tuple[float, Tensor]],
    start: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    noise: float,
    known: Curvature | None = None,
) -> tuple[Tensor, Curvature]:
    """Return a point where no gradient's entry is above ``tolerance``, and what was learnt there.

    Limited-memory BFGS in its compact form (Byrd, Nocedal & Schnabel 1994, theorem 2.2), with
    steps of 1 that are halved until the value falls enough. Also ends when no step lowers the
    value, which is then at the limit of its precision, or after ``max_iterations``.

    Args:
        value_and_gradient: a convex function of a flat tensor, whose Hessian is best about 1.
        start: float64 (P,).
        tolerance: > 0.
        max_iterations: >= 0.
        noise: relative rounding of the value.
        known: what is known of the Hessian before, from an earlier, similar problem.
    """
    point = start
    value, gradient = value_and_gradient(point)
    steps, changes = known or Curvature(
        start.new_empty(0, len(start)), start.new_empty(0, len(start))
    )
    for _ in range(max_iterations):
        if gradient.abs().max() <= tolerance:
            break
        direction = -_newton_step(gradient, steps, changes)
        slope = float(direction @ gradient)
        length = 1.0
        for _ in range(MAX_HALVINGS):
            step = length * direction
            new_value, new_gradient = value_and_gradient(point + step)
            if new_value <= value + SUFFICIENT * length * slope + noise * abs(value):
                break
            length /= 2
        else:
            break
        change = new_gradient - gradient
        point, value, gradient = point + step, new_value, new_gradient
        # Positive on a convex function, but for rounding.
        if step @ change > 0:
            steps = torch.cat([steps, step[None]])[-MEMORY:]
            changes = torch.cat([changes, change[None]])[-MEMORY:]
    return point, Curvature(steps, changes)


def _newton_step(gradient: Tensor, steps: Tensor, changes: Tensor) -> Tensor:
    """Multiply the gradient (P,) by the inverse Hessian that steps and changes (M, P) imply."""
    if not len(steps):
        return gradient
    products = steps @ changes.T
    squares = changes @ changes.T
    scale = products[-1, -1] / squares[-1, -1]
    upper = products.triu()
    first = torch.linalg.solve_triangular(upper, (steps @ gradient)[:, None], upper=True)
    inner = products.diagonal()[:, None] * first + scale * (
        squares @ first - (changes @ gradient)[:, None]
    )
    second = torch.linalg.solve_triangular(upper.T, inner, upper=False)
    newton: Tensor = scale * (gradient - changes.T @ first[:, 0]) + steps.T @ second[:, 0]
    return newton
