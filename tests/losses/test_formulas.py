"""Every loss against its paper's sums, written as loops over pairs in fp64, gradient included."""

import itertools
import math
import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from looktwice.losses import (
    dcl,
    dcl_chance,
    info_nce,
    info_nce_chance,
    margin_triplet,
    margin_triplet_chance,
    nt_logistic,
    nt_logistic_chance,
    nt_xent,
    nt_xent_chance,
    sup_con,
    sup_con_chance,
    symmetric_info_nce,
    symmetric_info_nce_chance,
)

NUM, DIM = 5, 4


def similarity(u, v, normalize):
    dot = sum(a * b for a, b in zip(u, v, strict=True))
    return dot / (u.square().sum() * v.square().sum()).sqrt() if normalize else dot


def log_sum(terms):
    peak = max(term.item() for term in terms)
    return peak + sum((term - peak).exp() for term in terms).log()


def interleaved(z0, z1):
    """SimCLR's order: the views of picture k are 2k and 2k + 1."""
    return [view for pair in zip(z0, z1, strict=True) for view in pair]


def slow_nt_xent(z0, z1, temperature, normalize=True, drop_positive=False):
    """SimCLR's equation 1 and algorithm 1; DCL's equations 5 and 6 drop the positive."""
    z = interleaved(z0, z1)
    total = 0.0
    for i in range(len(z)):
        j = i ^ 1
        others = [
            similarity(z[i], z[k], normalize) / temperature
            for k in range(len(z))
            if k != i and not (drop_positive and k == j)
        ]
        total = total + log_sum(others) - similarity(z[i], z[j], normalize) / temperature
    return total / len(z)


def slow_dcl(z0, z1, temperature, normalize=True):
    return slow_nt_xent(z0, z1, temperature, normalize, drop_positive=True)


def slow_info_nce(queries, keys, queue=None, temperature=1.0, normalize=True):
    """MoCo's algorithm 1 with a queue, MoCo v3's `ctr` without."""
    total = 0.0
    for i, query in enumerate(queries):
        logits = [
            similarity(query, key, normalize) / temperature
            for key in ([keys[i], *queue] if queue is not None else keys)
        ]
        total = total + log_sum(logits) - logits[0 if queue is not None else i]
    return total / len(queries)


def slow_symmetric_info_nce(q0, q1, k0, k1, temperature, normalize=True):
    """MoCo v3's algorithm 1 and its code's factor."""
    options = {"temperature": temperature, "normalize": normalize}
    return sum(slow_info_nce(q, k, **options) * (2 * temperature) for q, k in ((q0, k1), (q1, k0)))


def anchors(z0, z1, normalize):
    """Each view's similarity with its partner, and with the views of other pictures."""
    z = interleaved(z0, z1)
    for i in range(len(z)):
        negatives = [similarity(z[i], z[k], normalize) for k in range(len(z)) if k // 2 != i // 2]
        yield similarity(z[i], z[i ^ 1], normalize), negatives


def semi_hard_negatives(positive, negatives):
    farther = [negative for negative in negatives if negative < positive]
    return [max(farther, key=lambda s: s.item())] if farther else []


def log_sigmoid(x):
    return -torch.log1p(torch.exp(-x)) if x > 0 else x - torch.log1p(torch.exp(x))


def slow_nt_logistic(z0, z1, temperature, normalize=True, semi_hard=False):
    """SimCLR's table 2."""
    total = 0.0
    for positive, negatives in anchors(z0, z1, normalize):
        used = semi_hard_negatives(positive, negatives) if semi_hard else negatives
        total = total - log_sigmoid(positive / temperature)
        total = total - sum(log_sigmoid(-s / temperature) for s in used) / max(1, len(used))
    return total / (2 * len(z0))


def slow_margin_triplet(z0, z1, margin, normalize=True, semi_hard=False):
    """SimCLR's table 2."""
    total = 0.0
    for positive, negatives in anchors(z0, z1, normalize):
        used = semi_hard_negatives(positive, negatives) if semi_hard else negatives
        hinges = [s - positive + margin for s in used if s - positive + margin > 0]
        total = total + sum(hinges) / max(1, len(used))
    return total / (2 * len(z0)) + 0 * z0.sum()


def slow_sup_con(z, labels, temperature, normalize=True):
    """SupCon's equation 2, the mean over anchors that have a positive."""
    total, counted = 0 * z.sum(), 0
    for i in range(len(z)):
        logits = {
            a: similarity(z[i], z[a], normalize) / temperature for a in range(len(z)) if a != i
        }
        positives = [p for p in logits if labels[p] == labels[i]]
        if positives:
            counted += 1
            rest = log_sum(list(logits.values()))
            total = total - sum(logits[p] - rest for p in positives) / len(positives)
    return total / max(1, counted)


LABELS = torch.tensor([3, 1, 3, 7, 1, 3, 9])  # 7 and 9 have no positive

# name: the loss, the oracle, shapes of the inputs, other arguments, least value
CASES = {
    "nt_xent": (nt_xent, slow_nt_xent, [(NUM, DIM)] * 2, {"temperature": 0.3}, 0),
    "dcl": (dcl, slow_dcl, [(NUM, DIM)] * 2, {"temperature": 0.3}, -math.inf),
    "info_nce": (info_nce, slow_info_nce, [(NUM, DIM)] * 2, {"temperature": 0.3}, 0),
    "info_nce, queue": (
        lambda q, k, queue, **rest: info_nce(q, k, queue=queue, **rest),
        slow_info_nce,
        [(NUM, DIM), (NUM, DIM), (7, DIM)],
        {"temperature": 0.3},
        0,
    ),
    "symmetric_info_nce": (
        symmetric_info_nce,
        slow_symmetric_info_nce,
        [(NUM, DIM)] * 4,
        {"temperature": 0.3},
        0,
    ),
    "nt_logistic": (nt_logistic, slow_nt_logistic, [(NUM, DIM)] * 2, {"temperature": 0.3}, 0),
    "nt_logistic, semi-hard": (
        nt_logistic,
        slow_nt_logistic,
        [(NUM, DIM)] * 2,
        {"temperature": 0.3, "semi_hard": True},
        0,
    ),
    "margin_triplet": (margin_triplet, slow_margin_triplet, [(NUM, DIM)] * 2, {"margin": 0.4}, 0),
    "margin_triplet, semi-hard": (
        margin_triplet,
        slow_margin_triplet,
        [(NUM, DIM)] * 2,
        {"margin": 0.4, "semi_hard": True},
        0,
    ),
    "sup_con": (
        lambda z, **rest: sup_con(z, LABELS, **rest),
        lambda z, **rest: slow_sup_con(z, LABELS, **rest),
        [(len(LABELS), DIM)],
        {"temperature": 0.3},
        0,
    ),
}
every_loss = pytest.mark.parametrize("name", CASES)


def drawn(shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def value_and_gradients(loss, inputs, **arguments):
    inputs = [z.detach().clone().requires_grad_() for z in inputs]
    value = loss(*inputs, **arguments)
    value.backward()
    return value.detach(), [z.grad for z in inputs]


def assert_close(found, expected, tolerance=1e-12):
    assert found[0].item() == pytest.approx(expected[0].item(), rel=tolerance, abs=tolerance)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm() + 1e-300


@every_loss
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_are_the_papers(name, normalize, seed):
    loss, slow, shapes, arguments, _ = CASES[name]
    arguments = {**arguments, "normalize": normalize}
    inputs = drawn(shapes, seed)
    assert_close(
        value_and_gradients(loss, inputs, **arguments),
        value_and_gradients(slow, inputs, **arguments),
    )


@settings(max_examples=40)
@given(
    name=st.sampled_from([name for name in CASES if not name.startswith("margin")]),
    temperature=st.sampled_from([0.001, 0.01, 0.02499, 0.025, 0.05, 0.5, 3.0, 100.0]),
    seed=st.integers(0, 10**6),
)
def test_any_temperature_gives_the_papers_sums(name, temperature, seed):
    loss, slow, shapes, arguments, _ = CASES[name]
    inputs = drawn(shapes, seed)
    arguments = {**arguments, "temperature": temperature}
    tolerance = max(1e-12, 1e-14 / temperature)  # of the similarities' own rounding
    assert_close(
        value_and_gradients(loss, inputs, **arguments),
        value_and_gradients(slow, inputs, **arguments),
        tolerance,
    )


@every_loss
def test_gradients_are_those_of_finite_differences(name):
    loss, _, shapes, arguments, _ = CASES[name]
    inputs = [z.requires_grad_() for z in drawn(shapes, seed=4)]
    assert torch.autograd.gradcheck(lambda *z: loss(*z, **arguments), inputs)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(name, dtype):
    loss, _, shapes, arguments, _ = CASES[name]
    inputs = drawn(shapes, dtype=dtype)
    narrow = value_and_gradients(loss, inputs, **arguments)
    wide = value_and_gradients(loss, [z.float() for z in inputs], **arguments)
    assert narrow[0].dtype == torch.float32
    assert torch.equal(narrow[0], wide[0])
    for ours, theirs in zip(narrow[1], wide[1], strict=True):
        assert torch.equal(ours, theirs.to(dtype))


@every_loss
def test_autocast_changes_no_bit(name):
    loss, _, shapes, arguments, _ = CASES[name]
    inputs = drawn(shapes, dtype=torch.float32)
    expected = value_and_gradients(loss, inputs, **arguments)
    inputs = [z.requires_grad_() for z in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*inputs, **arguments)
    value.backward()
    assert torch.equal(value.detach(), expected[0])
    assert all(torch.equal(z.grad, g) for z, g in zip(inputs, expected[1], strict=True))


@every_loss
def test_without_gradients_the_value_is_the_same(name):
    loss, _, shapes, arguments, _ = CASES[name]
    inputs = [z.requires_grad_() for z in drawn(shapes)]
    with torch.no_grad():
        value = loss(*inputs, **arguments)
    assert not value.requires_grad
    assert torch.equal(value, loss(*inputs, **arguments).detach())


@every_loss
def test_only_what_requires_a_gradient_gets_one(name):
    loss, _, shapes, arguments, _ = CASES[name]
    expected = value_and_gradients(loss, drawn(shapes), **arguments)[1]
    for chosen in range(len(shapes)):
        inputs = drawn(shapes)
        inputs[chosen].requires_grad_()
        loss(*inputs, **arguments).backward()
        assert (inputs[chosen].grad - expected[chosen]).norm() <= 1e-13 * expected[chosen].norm()
        assert all(z.grad is None for i, z in enumerate(inputs) if i != chosen)


@every_loss
def test_memory_order_and_inputs_stay(name):
    loss, _, shapes, arguments, _ = CASES[name]
    inputs = drawn(shapes)
    expected = value_and_gradients(loss, inputs, **arguments)
    transposed = [z.T.contiguous().T for z in inputs]
    strided = [torch.stack([z, z], dim=1)[:, 1] for z in inputs]
    for others in (transposed, strided):
        kept = [z.clone() for z in others]
        assert_close(value_and_gradients(loss, others, **arguments), expected)
        assert all(map(torch.equal, others, kept))


@every_loss
def test_identical_embeddings_are_at_chance(name):
    loss, _, shapes, arguments, _ = CASES[name]
    zeros = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    chance = {
        "nt_xent": nt_xent_chance(NUM),
        "dcl": dcl_chance(NUM),
        "info_nce": info_nce_chance(NUM),
        "info_nce, queue": info_nce_chance(NUM, queue_size=7),
        "symmetric_info_nce": symmetric_info_nce_chance(NUM, 0.3),
        "nt_logistic": nt_logistic_chance(),
        "nt_logistic, semi-hard": math.log(2),  # the positive's term alone
        "margin_triplet": margin_triplet_chance(0.4),
        "margin_triplet, semi-hard": 0.0,
        "sup_con": sup_con_chance(len(LABELS)),
    }[name]
    assert loss(*zeros, **arguments).item() == pytest.approx(chance, rel=1e-12)
    if not name.startswith("nt_logistic"):
        ones = [torch.ones(shape, dtype=torch.float64) for shape in shapes]
        assert loss(*ones, **arguments).item() == pytest.approx(chance, rel=1e-12)


def test_chance_is_what_it_is_called():
    assert nt_xent_chance(256) == pytest.approx(6.2364, abs=1e-4)
    assert info_nce_chance(1, queue_size=65536) == pytest.approx(11.0904, abs=1e-4)


@every_loss
def test_zero_vectors_are_similar_to_nothing_and_get_no_gradient(name):
    loss, _, shapes, arguments, _ = CASES[name]
    inputs = drawn(shapes)
    for z in inputs:
        z[1] = 0
        z[2] = 1e-13
    value, gradients = value_and_gradients(loss, inputs, **arguments)
    unit = [F.normalize(z, dim=1) for z in inputs]
    for z in unit:
        z[1:3] = 0
    assert value.item() == pytest.approx(
        loss(*unit, **arguments, normalize=False).item(), rel=1e-12
    )
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert not gradient[1:3].any()


@every_loss
@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e30])
def test_length_does_not_count_even_where_its_square_has_no_number(name, scale):
    loss, _, shapes, arguments, _ = CASES[name]
    inputs = drawn(shapes, dtype=torch.float32)
    expected = loss(*inputs, **arguments)
    found = loss(*[z * scale for z in inputs], **arguments)
    if scale == 1e-30:  # no direction at all
        expected = loss(*[z * 0 for z in inputs], **arguments)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@every_loss
def test_what_diverged_is_not_hidden(name):
    loss, _, shapes, arguments, _ = CASES[name]
    for bad in (math.nan, math.inf):
        inputs = drawn(shapes, dtype=torch.float32)
        inputs[0][0, 0] = bad
        assert not loss(*inputs, **arguments).isfinite()


@settings(max_examples=int(os.environ.get("LOOKTWICE_CASES", "500")))
@given(data=st.data())
def test_everything_stays_finite(data):
    name = data.draw(st.sampled_from(list(CASES)))
    loss, _, shapes, arguments, least = CASES[name]
    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    dtype = data.draw(st.sampled_from(dtypes))
    if "temperature" in arguments:
        exponent = data.draw(st.floats(-3, 2))
        arguments = {**arguments, "temperature": 10**exponent}
    normalize = data.draw(st.booleans())
    inputs = drawn(shapes, data.draw(st.integers(0, 10**6)))
    rows = list(itertools.chain.from_iterable(inputs))
    for row in rows:  # views of rows: these change the inputs
        change = data.draw(st.sampled_from(["none", "zero", "short", "long", "copied"]))
        if change == "copied":
            row.copy_(rows[0])
        else:
            row *= {"none": 1, "zero": 0, "short": 1e-3, "long": 1e4}[change]
    inputs = [z.to(dtype).requires_grad_() for z in inputs]
    value = loss(*inputs, **arguments, normalize=normalize)
    assert value.isfinite()
    assert value >= least
    # As a loss scale does, keep gradients in the range of float16.
    (value * 2**-20).backward()
    assert all(z.grad.isfinite().all() for z in inputs)


@every_loss
def test_bad_embeddings_are_named(name):
    loss, _, shapes, arguments, _ = CASES[name]
    needs = "needs (two|queries|embeddings)"
    too_few = 0 if "queue" in name else 1
    with pytest.raises(ValueError, match=needs):
        loss(*[torch.ones(shape)[:too_few] for shape in shapes], **arguments)
    with pytest.raises(ValueError, match=needs):
        loss(*[torch.ones(shape)[:, :, None] for shape in shapes], **arguments)
    with pytest.raises(ValueError, match=needs):
        loss(*[torch.ones(shape)[:, :0] for shape in shapes], **arguments)
    with pytest.raises(ValueError, match=r"needs floating embeddings, not torch.int64"):
        loss(*[torch.ones(shape, dtype=torch.int64) for shape in shapes], **arguments)
    if len(shapes) > 1:
        with pytest.raises(ValueError, match=rf"{needs}.* not \(3, 4\)"):
            loss(torch.ones(3, 4), *drawn(shapes[1:]), **arguments)
        with pytest.raises(ValueError, match="on one device, not cpu and meta"):
            loss(*drawn(shapes[:-1]), torch.ones(shapes[-1], device="meta"), **arguments)


@every_loss
@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf])
def test_bad_numbers_are_named(name, bad):
    loss, _, shapes, arguments, _ = CASES[name]
    number = "margin" if "margin" in arguments else "temperature"
    if number == "margin" and bad == 0:
        assert loss(*drawn(shapes), **{**arguments, number: bad}).isfinite()
        return
    with pytest.raises(ValueError, match=rf"{number} must be .*, not {bad}"):
        loss(*drawn(shapes), **{**arguments, number: bad})


def test_a_queue_of_another_width_and_bad_labels_are_named():
    z = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"a queue \(K, D\), not .* and \(5, 3\)"):
        info_nce(z, z, queue=torch.ones(5, 3), temperature=1.0)
    with pytest.raises(ValueError, match=r"a queue \(K, D\), not .* and \(0, 2\)"):
        info_nce(z, z, queue=torch.ones(0, 2), temperature=1.0)
    with pytest.raises(ValueError, match=r"labels \(M,\), not \(3, 2\) and \(2,\)"):
        sup_con(z, torch.tensor([0, 1]), temperature=1.0)
    with pytest.raises(ValueError, match=r"integer labels, not torch.float32"):
        sup_con(z, torch.ones(3), temperature=1.0)


def test_a_single_query_may_look_among_a_queue():
    q, k, queue = drawn([(1, 3), (1, 3), (4, 3)])
    found = info_nce(q, k, queue=queue, temperature=0.2)
    assert found.item() == pytest.approx(slow_info_nce(q, k, queue, 0.2).item(), rel=1e-12)


def test_sup_con_with_a_label_for_each_picture_is_nt_xent():
    views = drawn([(6, 2, 3)])[0]
    labels = torch.arange(6).repeat_interleave(2)
    found = sup_con(views.flatten(0, 1), labels, temperature=0.1)
    expected = nt_xent(views[:, 0], views[:, 1], temperature=0.1)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_sup_con_without_any_positive_is_zero():
    z = drawn([(4, 3)])[0].requires_grad_()
    loss = sup_con(z, torch.arange(4), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert not z.grad.any()


def test_semi_hard_negatives_are_the_closest_of_those_farther_than_the_positive():
    angles = torch.tensor([[0.0, 90.0, 180.0], [30.0, 100.0, 200.0]], dtype=torch.float64)
    z0, z1 = torch.stack([angles.deg2rad().cos(), angles.deg2rad().sin()], dim=2)

    def cos(degrees):
        return math.cos(math.radians(degrees))

    # For each view: its partner's angle, and that of its closest farther negative.
    chosen = [(30, 90), (10, 60), (20, 80), (30, 60), (10, 70), (20, 100)]
    expected = sum(max(0.0, cos(n) - cos(p) + 0.8) for p, n in chosen) / 6
    found = margin_triplet(z0, z1, margin=0.8, semi_hard=True)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    # A negative closer than the positive is not used.
    z0[1] = torch.tensor([cos(10), math.sin(math.radians(10))])
    changed = margin_triplet(z0, z1, margin=0.8, semi_hard=True)
    assert changed.item() == pytest.approx(
        slow_margin_triplet(z0, z1, 0.8, semi_hard=True).item(), rel=1e-12
    )
