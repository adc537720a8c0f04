"""Health against slow loops and closed forms; the verdict in words."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from looktwice.errors import UsageError
from looktwice.metrics import (
    LEARNING_PATIENCE,
    PATIENCE,
    Health,
    bound_in_blocks,
    contrastive_top1,
    health_verdict,
    invariance,
    measure_health,
)
from looktwice.metrics import health as module
from looktwice.metrics.health import (
    alignment,
    collapsed_dimensions,
    effective_rank,
    infonce_bound,
    uniformity,
    view_auc,
)

N, D, TEMPERATURE = 24, 6, 0.2


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(1)
    z0 = torch.randn(N, D, generator=generator) + 0.5
    return z0, z0 + 0.8 * torch.randn(N, D, generator=generator)


def unit(z):
    rows = z.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_measures_equal_slow_loops(views):
    health = measure_health(*views, TEMPERATURE)
    u0, u1 = unit(views[0]), unit(views[1])
    both = np.concatenate([u0, u1])
    pairs = [(i, j) for i, j in itertools.permutations(range(2 * N), 2) if i % N != j % N]
    assert health.positive_similarity == pytest.approx(
        np.mean([a @ b for a, b in zip(u0, u1, strict=True)])
    )
    assert health.negative_similarity == pytest.approx(
        np.mean([both[i] @ both[j] for i, j in pairs])
    )
    assert health.alignment == pytest.approx(
        np.mean([((a - b) ** 2).sum() for a, b in zip(u0, u1, strict=True)])
    )
    potentials = [
        np.log(
            np.mean(
                [
                    np.exp(-2 * ((u[i] - u[j]) ** 2).sum())
                    for i, j in itertools.combinations(range(N), 2)
                ]
            )
        )
        for u in (u0, u1)
    ]
    assert health.uniformity == pytest.approx(np.mean(potentials))
    assert health.dimensions == D


def test_bound_and_top1_equal_the_paper_term_by_term(views):
    health = measure_health(*views, TEMPERATURE)
    both = np.concatenate([unit(views[0]), unit(views[1])])
    losses, hits = [], []
    for i in range(2 * N):
        mate = (i + N) % (2 * N)
        others = [k for k in range(2 * N) if k != i]
        total = sum(math.exp(both[i] @ both[k] / TEMPERATURE) for k in others)
        losses.append(-math.log(math.exp(both[i] @ both[mate] / TEMPERATURE) / total))
        hits.append(max(others, key=lambda k: both[i] @ both[k]) == mate)
    assert health.infonce_bound == pytest.approx(math.log(2 * N - 1) - np.mean(losses))
    assert health.infonce_ceiling == pytest.approx(math.log(2 * N - 1))
    assert health.top1 == pytest.approx(np.mean(hits))


def test_effective_rank_is_rankme(views):
    singular = np.linalg.svd(unit(views[0]), compute_uv=False)
    share = singular / singular.sum() + 1e-7
    assert effective_rank(views[0]) == pytest.approx(np.exp(-(share * np.log(share)).sum()))


def test_closed_forms():
    corners = torch.eye(D)
    assert effective_rank(corners) == pytest.approx(D, abs=1e-4)
    assert effective_rank(torch.ones(N, D)) == pytest.approx(1.0, abs=1e-4)
    assert alignment(corners, -corners) == pytest.approx(4.0)
    assert uniformity(corners) == pytest.approx(-4.0)  # squared distance 2, t = 2
    assert infonce_bound(torch.ones(N, D), torch.ones(N, D), 0.1)[0] == pytest.approx(0.0)
    bound, ceiling = infonce_bound(corners, corners, 0.01)
    assert bound == pytest.approx(ceiling)


def test_zeros_have_rank_one_and_no_dimension_in_use():
    zeros = measure_health(torch.zeros(N, D), torch.zeros(N, D), TEMPERATURE)
    assert zeros.effective_rank == pytest.approx(1.0, abs=1e-4)
    assert (zeros.collapsed_dimensions, zeros.infonce_bound) == (1.0, pytest.approx(0.0))
    assert (zeros.positive_similarity, zeros.negative_similarity) == (0.0, 0.0)


def test_collapsed_dimensions_are_counted():
    z = torch.randn(1000, 8, generator=torch.Generator().manual_seed(3))
    assert collapsed_dimensions(z) == 0.0
    # Beside six dimensions of deviation 1/sqrt(6), one of a five hundredth of that, and a dead one.
    z[:, 3] /= 500
    z[:, 5] = 0.0
    assert collapsed_dimensions(z) == pytest.approx(2 / 8)
    assert collapsed_dimensions(torch.ones(N, D)) == 1.0
    # A constant in one dimension leaves the others the deviation of what is beside it.
    z[:, 5] = 10.0
    deviations = unit(z).std(axis=0) * np.sqrt(8)
    assert collapsed_dimensions(z) == pytest.approx((deviations < 0.01).mean())


def test_the_bound_in_blocks_equals_a_slow_loop(views):
    found = bound_in_blocks(*views, temperature=TEMPERATURE, candidates=7)
    u0, u1 = unit(views[0]), unit(views[1])
    expected = []
    for block in (range(7), range(7, 14), range(14, 21)):
        terms = []
        for query, keys in ((u0, u1), (u1, u0)):
            for i in block:
                scores = [math.exp(query[i] @ keys[j] / TEMPERATURE) for j in block]
                terms.append(math.log(scores[i - block[0]] / sum(scores)))
        expected.append(math.log(7) + np.mean(terms))
    assert found.tolist() == pytest.approx(expected)


def test_the_bound_in_blocks_stays_below_what_is_shared_and_below_its_ceiling():
    # One of four directions, the same in both views: exactly log 4 nats are shared.
    kinds = torch.randint(4, (4096,), generator=torch.Generator().manual_seed(4))
    corners = torch.eye(4)[kinds]
    shared = bound_in_blocks(corners, corners, temperature=0.05, candidates=64)
    error = float(shared.std()) / 8
    assert math.log(4) - 0.1 < float(shared.mean()) < math.log(4) + 3 * error
    independent = corners[torch.randperm(4096, generator=torch.Generator().manual_seed(5))]
    assert float(bound_in_blocks(corners, independent, temperature=1.0, candidates=64).mean()) < 0.0
    each = torch.eye(64)
    full = bound_in_blocks(each, each, temperature=0.02, candidates=64)
    assert full.tolist() == pytest.approx([math.log(64)])
    assert len(bound_in_blocks(each[:63], each[:63], temperature=0.1, candidates=64)) == 0


def test_invariance_equals_its_definition(views):
    before, after = unit(views[0]), unit(views[1])
    same = np.mean([a @ b for a, b in zip(before, after, strict=True)])
    different = np.mean([before[i] @ before[j] for i, j in itertools.permutations(range(N), 2)])
    expected = (same - different) / (1 - different)
    assert invariance(*views) == pytest.approx(expected)


def test_closed_forms_of_invariance():
    corners = torch.eye(D)
    assert invariance(corners, corners) == pytest.approx(1.0)
    assert invariance(corners, corners.roll(1, 0)) == pytest.approx(0.0)
    assert invariance(corners, -corners) == pytest.approx(-1.0)
    assert invariance(torch.ones(N, D), torch.ones(N, D)) is None
    assert invariance(torch.zeros(N, D), torch.zeros(N, D)) == pytest.approx(0.0)


def test_a_constant_embedding_scores_no_top1():
    constant = measure_health(torch.ones(N, D), torch.ones(N, D), TEMPERATURE)
    assert constant.top1 == 0.0
    assert constant.negative_similarity == pytest.approx(1.0)


def test_lengths_do_not_matter_and_small_temperatures_are_finite(views):
    z0, z1 = views
    scaled = measure_health(z0 * torch.arange(1, N + 1)[:, None], z1 * 100, TEMPERATURE)
    expected = measure_health(z0, z1, TEMPERATURE)
    for name, value in scaled.as_dict().items():
        assert value == pytest.approx(getattr(expected, name), abs=1e-6)
    assert math.isfinite(measure_health(z0, z1, 1e-3).infonce_bound)


def test_health_survives_json(views):
    health = measure_health(*views, TEMPERATURE)
    assert Health(**json.loads(json.dumps(health.as_dict()))) == health


def test_shapes_are_checked(views):
    with pytest.raises(UsageError, match="equal shape"):
        measure_health(views[0], views[1][:-1], TEMPERATURE)
    with pytest.raises(UsageError, match="N >= 2"):
        measure_health(views[0][:1], views[1][:1], TEMPERATURE)


UNTRAINED = Health(0.99, 0.93, 0.02, -0.3, 6.0, 0.0, 128, 0.4, 0.01, 6.2, 0.05, 0.6, 0.01)
LEARNED = dataclasses.replace(UNTRAINED, auc=0.9)
VERDICTS = {
    "healthy: two views of a picture are 0.80 similar, of different pictures 0.05; 61.0 of 128 "
    "dimensions in use (untrained 6.0)": dataclasses.replace(
        LEARNED, positive_similarity=0.8, negative_similarity=0.05, effective_rank=61.0
    ),
    # 0.0283 is two standard errors of the difference of two figures of error 0.01.
    "healthy: ": dataclasses.replace(UNTRAINED, auc=0.629),
    "not learning: views are told apart no better than by the untrained": dataclasses.replace(
        UNTRAINED, auc=0.628
    ),
    "collapsed: all pictures get nearly the same embedding (similarity 0.990": dataclasses.replace(
        LEARNED, negative_similarity=0.99
    ),
    "collapsed: no dimension differs between pictures": dataclasses.replace(
        LEARNED, negative_similarity=0.0, collapsed_dimensions=1.0
    ),
    "collapsed: 1.7 of 128 dimensions": dataclasses.replace(
        LEARNED, negative_similarity=0.0, effective_rank=1.7
    ),
    "not learning: views are told apart no better than by chance": dataclasses.replace(
        UNTRAINED,
        negative_similarity=0.0,
        positive_similarity=0.01,
        effective_rank=90.0,
        auc=0.519,
    ),
    "diverged": dataclasses.replace(UNTRAINED, infonce_bound=math.nan),
}


@pytest.mark.parametrize("expected", VERDICTS)
def test_verdict(expected):
    assert health_verdict(VERDICTS[expected], UNTRAINED).startswith(expected)


def test_to_be_less_bad_than_an_untrained_network_is_not_to_learn():
    worse = dataclasses.replace(UNTRAINED, auc=0.4)
    guessing = dataclasses.replace(UNTRAINED, auc=0.51)
    assert health_verdict(guessing, worse).startswith(
        "not learning: views are told apart no better than by chance"
    )


def test_the_standard_error_is_that_of_pictures(views):
    health = measure_health(*views, TEMPERATURE)
    u = np.concatenate([unit(each) for each in views])
    cosine = u @ u.T / TEMPERATURE
    losses = [
        np.log(np.exp(np.delete(cosine[i], i)).sum()) - cosine[i, (i + N) % (2 * N)]
        for i in range(2 * N)
    ]
    of_pictures = (np.array(losses[:N]) + losses[N:]) / 2
    assert health.infonce_error == pytest.approx(of_pictures.std(ddof=1) / np.sqrt(N))


def test_auc_is_scikit_learns_picture_by_picture(views, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 10)  # the last block is partial
    both = np.concatenate([unit(views[0]), unit(views[1])])
    cosine = both @ both.T
    areas = []
    for i in range(2 * N):
        negatives = [j for j in range(2 * N) if j % N != i % N]
        scores = [cosine[i, (i + N) % (2 * N)], *cosine[i, negatives]]
        areas.append(roc_auc_score([1] + [0] * len(negatives), scores))
    of_pictures = (np.array(areas[:N]) + areas[N:]) / 2
    assert view_auc(*views).numpy() == pytest.approx(of_pictures)
    health = measure_health(*views, TEMPERATURE)
    assert health.auc == pytest.approx(of_pictures.mean())
    assert health.auc_error == pytest.approx(of_pictures.std(ddof=1) / np.sqrt(N))


def test_embeddings_that_are_alike_guess(views):
    """Ties are broken neither way, also where float32 rounds them apart."""
    constant = torch.ones(N, D) * 0.37 + 1e-7 * torch.randn(N, D)
    assert (view_auc(constant, constant) == 0.5).all()
    line = torch.zeros(N, D)
    line[:, 0] = torch.tensor([1.0, -1.0]).repeat(N // 2)  # half of the others are just as near
    assert view_auc(line, line).mean() == pytest.approx(((N - 2) / 2 + N / 2 * 2) / (2 * (N - 1)))


def test_nobody_is_accused_before_a_hundred_steps_after_warm_up():
    constant = dataclasses.replace(
        UNTRAINED, negative_similarity=0.999, effective_rank=1.1, auc=0.51
    )
    after = dataclasses.replace(constant, auc=0.511)
    assert health_verdict(constant, constant, steps=-20).startswith("untrained")
    assert health_verdict(after, constant, steps=PATIENCE - 1).startswith("too early to tell")
    assert health_verdict(after, constant, steps=PATIENCE).startswith("collapsed")
    # A network that is frozen measures the same for ever, and is not called untrained for ever.
    assert health_verdict(constant, constant).startswith("collapsed")
    assert health_verdict(constant, constant, steps=1).startswith("too early to tell")
    assert health_verdict(LEARNED, UNTRAINED, steps=3).startswith("healthy")


def test_to_have_learned_nothing_yet_is_too_early_to_tell_where_collapse_is_not():
    """As slow as the slowest healthy run that the rule was chosen on, twice over."""
    slow = dataclasses.replace(UNTRAINED, auc=0.615)
    worse = dataclasses.replace(UNTRAINED, auc=0.4)
    assert PATIENCE < LEARNING_PATIENCE
    for learned_nothing in (slow, worse, UNTRAINED):
        before, after = (
            health_verdict(learned_nothing, UNTRAINED, steps=steps)
            for steps in (LEARNING_PATIENCE - 1, LEARNING_PATIENCE)
        )
        assert before.startswith("too early to tell: 6.0 of 128 dimensions")
        assert after.startswith("not learning")
        assert after.endswith("train longer, or try another learning rate, a lower one first")
    collapsed = dataclasses.replace(slow, effective_rank=1.1)
    assert health_verdict(collapsed, UNTRAINED, steps=PATIENCE).startswith("collapsed")
    # Of a run whose steps are not known, all rules hold.
    assert health_verdict(slow, UNTRAINED).startswith("not learning")


def test_embeddings_that_are_not_numbers_are_a_verdict_not_a_crash(views):
    broken = views[0].clone()
    broken[3, 2] = math.nan
    health = measure_health(broken, views[1], TEMPERATURE)
    assert health_verdict(health, UNTRAINED).startswith("diverged")


def test_real_embeddings_that_collapse_are_named():
    generator = torch.Generator().manual_seed(2)
    spread = torch.randn(256, 32, generator=generator)
    shaken = spread + 0.1 * torch.randn(256, 32, generator=generator)
    untrained = measure_health(
        spread + 5, spread + 5 + 2 * torch.randn(256, 32, generator=generator), 0.2
    )
    constant = measure_health(spread * 0.01 + 5, shaken * 0.01 + 5, 0.2)
    assert health_verdict(constant, untrained).startswith("collapsed: all pictures")
    line = torch.zeros(256, 32)
    line[:, 0] = spread[:, 0].sign()
    assert health_verdict(measure_health(line, line, 0.2), untrained).startswith(
        "collapsed: 1.0 of 32"
    )
    assert health_verdict(measure_health(spread, shaken, 0.2), untrained).startswith("healthy")


@pytest.mark.parametrize("normalize", [True, False])
def test_top1_ranks_as_the_loss_does(normalize):
    generator = np.random.default_rng(4)
    z = generator.normal(size=(80, 6)) * generator.lognormal(sigma=1.0, size=(80, 1))
    z[40:] = z[:40] + 0.8 * z[40:]
    rows = z / np.linalg.norm(z, axis=1, keepdims=True) if normalize else z
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    expected = np.mean(similarity.argmax(axis=1) == np.roll(np.arange(80), 40))
    found = contrastive_top1(torch.tensor(z[:40]), torch.tensor(z[40:]), normalize=normalize)
    assert found == pytest.approx(expected)
    assert 0.1 < expected < 0.9
