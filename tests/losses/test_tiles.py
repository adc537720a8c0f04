"""Losses computed in pieces against plain quadratic forms, over many sizes of pieces."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from looktwice.losses import dcl, info_nce, nt_xent, pairs, queries, tiles


def plain_nt_xent(z0, z1, temperature, normalize=True, drop_positive=False):
    z = torch.cat([z0, z1])
    z = F.normalize(z, dim=1) if normalize else z
    logits = z @ z.T / temperature
    partner = torch.arange(len(z)).roll(len(z0))
    left_out = torch.eye(len(z), dtype=torch.bool)
    positives = logits.gather(1, partner[:, None])
    if drop_positive:
        left_out = left_out | F.one_hot(partner, len(z)).bool()
    return (logits.masked_fill(left_out, -math.inf).logsumexp(1) - positives[:, 0]).mean()


def plain_info_nce(q, k, queue=None, temperature=1.0, normalize=True):
    if normalize:
        q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
        queue = None if queue is None else F.normalize(queue, dim=1)
    if queue is None:
        return F.cross_entropy(q @ k.T / temperature, torch.arange(len(q)))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def in_tiles(z0, z1, *, temperature, tile, normalize=True, drop_positive=False):
    num = len(z0)
    excluded = (0, num, -num) if drop_positive else (0,)
    pattern = tiles.Pattern(positives=(num, -num), excluded=excluded)
    return pairs._each_against_all(z0, z1, pattern, temperature, normalize, tile=tile)


def drawn(*shapes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def value_and_gradients(loss, inputs, **arguments):
    inputs = [z.detach().clone().requires_grad_() for z in inputs]
    value = loss(*inputs, **arguments)
    (3 * value).backward()
    return value.detach(), [z.grad for z in inputs]


def assert_close(found, expected, tolerance=1e-12):
    assert found[0].item() == pytest.approx(expected[0].item(), rel=tolerance)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm() + 1e-13  # solved: nearly 0


@pytest.mark.parametrize("drop_positive", [False, True])
@pytest.mark.parametrize("temperature", [0.02, 0.5])  # in panels, in tiles
@pytest.mark.parametrize("tile", [1, 2, 3, 5, 8, 13, 100])
@pytest.mark.parametrize("num", [2, 3, 4, 9])
def test_any_tile_gives_the_plain_form(num, tile, temperature, drop_positive):
    inputs = drawn((num, 3), (num, 3), seed=num)
    arguments = {"temperature": temperature, "drop_positive": drop_positive}
    assert_close(
        value_and_gradients(in_tiles, inputs, **arguments, tile=tile),
        value_and_gradients(plain_nt_xent, inputs, **arguments),
    )


@pytest.mark.parametrize("panel", [1, 3, 5, 100])
@pytest.mark.parametrize("queue", [0, 1, 11])
def test_any_panel_gives_the_plain_form(panel, queue):
    inputs = drawn((7, 3), (7, 3), *([(queue, 3)] if queue else []))

    def in_panels(q, k, queue=None):
        return queries._find_keys(q, k, queue, 0.2, True, panel=panel)

    assert_close(
        value_and_gradients(in_panels, inputs),
        value_and_gradients(plain_info_nce, inputs, temperature=0.2),
    )


@pytest.mark.parametrize("tile", [3, 8])
@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_gradient_of_tiles_is_that_of_finite_differences(tile, temperature):
    inputs = [z.requires_grad_() for z in drawn((4, 3), (4, 3))]
    assert torch.autograd.gradcheck(
        lambda z0, z1: in_tiles(z0, z1, temperature=temperature, tile=tile), inputs
    )


# More rows than two tiles and than ten panels, and multiples of neither.
LARGE = (tiles.CPU_TILE + 41, 16)


@pytest.mark.parametrize("temperature", [0.02, 0.025, 0.1, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_large_batches_give_the_plain_form(temperature, normalize):
    inputs = drawn(LARGE, LARGE)
    arguments = {"temperature": temperature, "normalize": normalize}
    assert_close(
        value_and_gradients(nt_xent, inputs, **arguments),
        value_and_gradients(plain_nt_xent, inputs, **arguments),
    )
    assert_close(
        value_and_gradients(dcl, inputs, **arguments),
        value_and_gradients(plain_nt_xent, inputs, **arguments, drop_positive=True),
    )
    assert_close(
        value_and_gradients(info_nce, inputs, **arguments),
        value_and_gradients(plain_info_nce, inputs, **arguments),
    )


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5])
def test_float32_is_within_rounding_of_float64(temperature):
    z0, noise = drawn(LARGE, LARGE, dtype=torch.float32)
    for z1 in (noise, z0 + 0.1 * noise):  # untrained, and solved
        inputs = [z0, z1]
        for loss in (nt_xent, info_nce):
            narrow = value_and_gradients(loss, inputs, temperature=temperature)
            wide = value_and_gradients(loss, [z.double() for z in inputs], temperature=temperature)
            assert_close(narrow, wide, 1e-5)


def test_a_solved_batch_has_no_loss_below_zero():
    z = F.one_hot(torch.arange(64)).float()
    for temperature in (0.001, 0.02, 0.025, 0.05):
        value, gradients = value_and_gradients(nt_xent, [z, z], temperature=temperature)
        assert 0 <= value < 1e-6
        assert all(gradient.norm() < 1e-5 for gradient in gradients)


def test_repeated_calls_give_the_same_bits():
    inputs = drawn(LARGE, LARGE, dtype=torch.float32)
    for loss, temperature in ((nt_xent, 0.5), (nt_xent, 0.01), (info_nce, 0.1)):
        first, *others = (
            value_and_gradients(loss, inputs, temperature=temperature) for _ in range(4)
        )
        for other in others:
            assert torch.equal(first[0], other[0])
            assert all(map(torch.equal, first[1], other[1]))


def test_threads_change_no_more_than_rounding():
    inputs = drawn(LARGE, LARGE, dtype=torch.float32)
    before = torch.get_num_threads()
    found = {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found[threads] = value_and_gradients(nt_xent, inputs, temperature=0.2)
    finally:
        torch.set_num_threads(before)
    assert_close(found[1], found[2], 2e-6)


def test_tiles_and_panels_meet_where_one_takes_over():
    inputs = drawn((300, 16), (300, 16))
    below = value_and_gradients(nt_xent, inputs, temperature=math.nextafter(0.025, 0))
    assert_close(value_and_gradients(nt_xent, inputs, temperature=0.025), below)


class Largest(TorchDispatchMode):
    """Remembers the elements of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize(
    ("loss", "temperature", "most"),
    [
        (nt_xent, 0.5, tiles.CPU_TILE**2),
        (dcl, 0.5, tiles.CPU_TILE**2),
        (nt_xent, 0.01, 128 * 4000),
        (info_nce, 0.5, 128 * 2000),
    ],
)
def test_no_matrix_of_all_pairs_is_made(loss, temperature, most):
    z0, z1 = (z.requires_grad_() for z in drawn((2000, 8), (2000, 8), dtype=torch.float32))
    with Largest() as largest:
        loss(z0, z1, temperature=temperature).backward()
    assert 4000 * 8 < largest.elements <= most


def test_without_gradients_only_the_value_is_computed(monkeypatch):
    inputs = drawn((9, 3), (9, 3))
    called = []
    monkeypatch.setattr(tiles._Tiles, "gradient", lambda *_: called.append(1))
    nt_xent(*inputs, temperature=0.5)
    with torch.no_grad():
        nt_xent(*[z.requires_grad_() for z in inputs], temperature=0.5)
    assert not called


@pytest.mark.parametrize("loss", [nt_xent, dcl, info_nce])
def test_second_derivatives_are_refused(loss):
    z0, z1 = (z.requires_grad_() for z in drawn((4, 3), (4, 3)))
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(loss(z0, z1, temperature=0.5), z0, create_graph=True)


def test_backward_may_be_repeated():
    z0, z1 = (z.requires_grad_() for z in drawn((4, 3), (4, 3)))
    loss = nt_xent(z0, z1, temperature=0.5)
    first = torch.autograd.grad(loss, [z0, z1], retain_graph=True)
    second = torch.autograd.grad(2 * loss, [z0, z1])
    assert all(torch.equal(2 * a, b) for a, b in zip(first, second, strict=True))


def test_inputs_of_two_types_get_gradients_of_their_own():
    z0, z1 = drawn((4, 3), (4, 3))
    z0, z1 = z0.float().requires_grad_(), z1.requires_grad_()
    loss = nt_xent(z0, z1, temperature=0.5)
    loss.backward()
    assert loss.dtype == z1.grad.dtype == torch.float64
    assert z0.grad.dtype == torch.float32
