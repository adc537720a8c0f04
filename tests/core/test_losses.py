"""NT-Xent against the sums of SimCLR's equation 1, written as slow loops in fp64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from looktwice.losses import nt_xent, nt_xent_chance


def slow_nt_xent(z0, z1, temperature):
    """Equation 1 as printed: l(i, j) over all 2N embeddings, positives (2k-1, 2k)."""
    z = [row for pair in zip(z0.tolist(), z1.tolist(), strict=True) for row in pair]
    unit = [[v / math.hypot(*row) for v in row] for row in z]

    def similarity(i, k):
        return math.fsum(a * b for a, b in zip(unit[i], unit[k], strict=True))

    def term(i, j):
        top = similarity(i, j) / temperature
        others = [similarity(i, k) / temperature for k in range(len(z)) if k != i]
        peak = max(others)
        return peak + math.log(math.fsum(math.exp(o - peak) for o in others)) - top

    pairs = range(0, len(z), 2)
    return math.fsum(term(k, k + 1) + term(k + 1, k) for k in pairs) / len(z)


@settings(max_examples=40, deadline=None)
@given(
    num=st.integers(2, 9),
    dim=st.integers(1, 6),
    temperature=st.sampled_from([0.005, 0.05, 0.5, 3.0]),
    seed=st.integers(0, 10**6),
)
def test_equals_the_papers_sums(num, dim, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    z0, z1 = torch.randn(2, num, dim, generator=generator, dtype=torch.float64)
    expected = slow_nt_xent(z0, z1, temperature)
    assert nt_xent(z0, z1, temperature=temperature).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_is_that_of_finite_differences():
    z = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: nt_xent(t[0], t[1], temperature=0.3), z)


def test_identical_embeddings_give_the_chance_level():
    z = torch.ones(7, 5)
    assert nt_xent(z, z, temperature=0.1).item() == pytest.approx(nt_xent_chance(7), rel=1e-6)
    assert nt_xent_chance(256) == pytest.approx(6.2364, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_temperatures_do_not_overflow(dtype):
    z = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    z.requires_grad_()
    loss = nt_xent(z, z * 1e-3, temperature=0.001)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


def test_without_normalisation_length_counts():
    z0, z1 = torch.eye(3, dtype=torch.float64), 2 * torch.eye(3, dtype=torch.float64)
    expected = 0.5 * (
        math.log(math.e**2 + 4) - 2 + math.log(math.e**2 + 4) - 2
    )  # partner at 2; two zeros of each view among the others
    assert nt_xent(z0, z1, temperature=1.0, normalize=False).item() == pytest.approx(expected)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"two \(N, D\) tensors"):
        nt_xent(torch.ones(3, 2), torch.ones(2, 2), temperature=1.0)
    with pytest.raises(ValueError, match="temperature must be above 0, not 0"):
        nt_xent(torch.ones(3, 2), torch.ones(3, 2), temperature=0)
