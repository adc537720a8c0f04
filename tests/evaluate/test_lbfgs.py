"""The minimiser against closed forms, and its compact form against the textbook's recursion."""

import pytest
import torch

from looktwice.evaluate.lbfgs import _newton_step, minimise


def two_loops(gradient, steps, changes):
    """Nocedal & Wright 2006, algorithm 7.4."""
    q = gradient.clone()
    alphas = []
    for s, y in reversed(list(zip(steps, changes, strict=True))):
        alpha = (s @ q) / (y @ s)
        q = q - alpha * y
        alphas.append(alpha)
    r = (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1]) * q
    for s, y, alpha in zip(steps, changes, reversed(alphas), strict=True):
        r = r + s * (alpha - (y @ r) / (y @ s))
    return r


@pytest.mark.parametrize("remembered", [1, 2, 7])
def test_compact_form_equals_the_two_loops(remembered):
    generator = torch.Generator().manual_seed(remembered)
    steps = torch.randn(remembered, 12, generator=generator, dtype=torch.float64)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    changes = steps @ (root @ root.T + torch.eye(12))
    gradient = torch.randn(12, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        _newton_step(gradient, steps, changes), two_loops(gradient, steps, changes)
    )


def test_a_quadratic_is_solved():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    hessian, target = root @ root.T / 30 + 0.1 * torch.eye(30), torch.arange(30).double()

    def quadratic(x):
        gradient = hessian @ (x - target)
        return float((x - target) @ gradient / 2), gradient

    found, _ = minimise(
        quadratic, torch.zeros(30).double(), tolerance=1e-9, max_iterations=500, noise=0
    )
    torch.testing.assert_close(found, target, atol=1e-7, rtol=0)


def test_steps_are_halved_until_the_value_falls():
    values = []

    def steep(x):  # log cosh(50 x): a first step of 1 along the gradient lands far away
        values.append(float(torch.log(torch.cosh(50 * x)).sum()))
        return values[-1], 50 * torch.tanh(50 * x)

    found, _ = minimise(
        steep, torch.tensor([0.3]).double(), tolerance=1e-6, max_iterations=100, noise=0
    )
    assert abs(float(found)) < 1e-8
    assert values[1] > values[0]


def test_it_ends_when_told_or_when_nothing_falls():
    calls = []

    def flat(x):  # a gradient that promises what the value never gives
        calls.append(x)
        return 1.0, torch.ones(1).double()

    start = torch.zeros(1).double()
    assert minimise(flat, start, tolerance=1e-6, max_iterations=9, noise=0)[0] is start
    assert len(calls) == 21
    assert minimise(flat, start, tolerance=1.0, max_iterations=9, noise=0)[0] is start
    assert len(calls) == 22


def test_what_was_learnt_saves_steps_on_a_similar_problem():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    hessian = root @ root.T / 30 + 0.1 * torch.eye(30)
    calls = []

    def towards(target):
        def quadratic(x):
            calls.append(x)
            gradient = hessian @ (x - target)
            return float((x - target) @ gradient / 2), gradient

        return quadratic

    def solve(target, known):
        calls.clear()
        start = torch.zeros(30).double()
        found, learnt = minimise(
            towards(target), start, tolerance=1e-6, max_iterations=500, noise=0, known=known
        )
        torch.testing.assert_close(found, target, atol=1e-4, rtol=0)
        return len(calls), learnt

    first, learnt = solve(torch.arange(30).double(), None)
    again, _ = solve(torch.arange(30).double().flip(0), learnt)
    anew, _ = solve(torch.arange(30).double().flip(0), None)
    assert again < 0.7 * anew == 0.7 * first, (first, again, anew)
