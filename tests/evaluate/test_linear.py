"""The linear probe's optimum against scikit-learn, and its scalings."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from looktwice.evaluate import linear
from looktwice.evaluate.linear import LinearModel, Standardiser, UnitLength, fit_path


def problem(count, dimensions, classes=4, seed=0):
    """Classes that overlap, features of very different scales and far from the origin."""
    generator = np.random.default_rng(seed)
    labels = np.resize(np.arange(classes), count)
    centres = generator.normal(size=(classes, dimensions))
    mixing = generator.normal(size=(dimensions, dimensions)) * np.geomspace(1, 0.05, dimensions)
    features = (centres[labels] + 1.5 * generator.normal(size=(count, dimensions))) @ mixing + 3
    return torch.from_numpy(features), torch.from_numpy(labels)


def objective(model, features, labels, l2):
    """The objective as the module documents it, by autograd-free torch in float64."""
    logits = features.double() @ model.weights.T + model.bias
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return float(loss + l2 / 2 * (model.weights**2).sum())


@pytest.mark.parametrize("shape", [(300, 8), (60, 60), (40, 100)], ids=["tall", "square", "wide"])
def test_the_optimum_is_scikit_learns(shape, monkeypatch):
    monkeypatch.setattr(linear, "BLOCK", 128)  # of 300 pictures: the last one is partial
    features, labels = problem(*shape)
    strengths = (1.0, 0.1, 0.01)
    models = fit_path(features, labels, 4, strengths, tolerance=1e-8)
    for l2, model in zip(strengths, models, strict=True):
        oracle = LogisticRegression(C=1 / (len(labels) * l2), tol=1e-10, max_iter=10_000)
        oracle.fit(features.numpy(), labels.numpy())
        np.testing.assert_allclose(model.weights.numpy(), oracle.coef_, atol=2e-5)
        chances = model.scores(features).softmax(dim=1).numpy()
        np.testing.assert_allclose(chances, oracle.predict_proba(features.numpy()), atol=2e-5)


def test_the_working_tolerance_is_close_to_the_optimum():
    features, labels = problem(400, 20)
    standardised = Standardiser.of(features)(features)
    strengths = (1.0, 0.1, 0.01, 0.001)
    quick = list(fit_path(standardised, labels, 4, strengths))
    exact = list(fit_path(standardised.double(), labels, 4, strengths, tolerance=1e-8))
    for l2, near, best in zip(strengths, quick, exact, strict=True):
        least = objective(best, standardised, labels, l2)
        assert least <= objective(near, standardised, labels, l2) + 1e-9 <= (1 + 1e-5) * least
        same = near.predict(standardised) == best.predict(standardised)
        assert same.double().mean() >= 0.99


def test_what_one_strength_taught_serves_the_next(monkeypatch):
    features, labels = problem(300, 30)
    features = Standardiser.of(features)(features).double()
    evaluations = []
    evaluate = linear._Problem._value_and_gradient
    monkeypatch.setattr(
        linear._Problem,
        "_value_and_gradient",
        lambda *arguments: evaluations.append(1) or evaluate(*arguments),
    )

    def needed():
        evaluations.clear()
        list(fit_path(features, labels, 4, (1.0, 0.3, 0.1, 0.03, 0.01, 0.003), tolerance=1e-6))
        return len(evaluations)

    taught = needed()
    monkeypatch.setattr(linear._Problem, "_known", lambda *_: None)
    assert taught < 0.9 * needed(), taught


def test_what_was_learnt_is_the_curvature_at_the_other_strength():
    """Against differences of the gradient, along the last steps, which are short."""
    features, labels = problem(300, 10)
    features = Standardiser.of(features)(features).double()
    problem_ = linear._Problem(features, torch.ones(10).double(), labels, 4)
    solution = problem_.solve(0.1, 1e-9)
    scale = torch.linspace(0.5, 2, 11).double().expand(4, 11)
    known = problem_._known(0.01, scale)
    for step, change in zip(known.steps[-3:], known.changes[-3:], strict=True):
        ends = [
            problem_._value_and_gradient(point, 0.01)[1] * scale
            for point in (solution, solution + step.view(4, 11) * scale)
        ]
        expected = (ends[1] - ends[0]).flatten()
        assert (change - expected).norm() < 1e-3 * expected.norm()


def test_strengths_of_every_size_converge_from_any_start():
    features, labels = problem(30, 50)
    for l2 in (1e4, 1e-4):
        (alone,) = fit_path(features, labels, 4, [l2], tolerance=1e-9)
        *_, last = fit_path(features, labels, 4, [10.0, 0.1, l2], tolerance=1e-9)
        torch.testing.assert_close(last.weights, alone.weights, atol=1e-3 / max(1, l2), rtol=1e-3)


def test_unequal_classes_without_weights_give_their_frequencies():
    features, _ = problem(100, 5)
    labels = torch.tensor([0] * 70 + [1] * 30)
    (model,) = fit_path(features, labels, 2, [1e9], tolerance=1e-8)
    chances = model.scores(features).softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(chances, torch.tensor([0.7, 0.3]).double(), atol=1e-5, rtol=0)


def test_features_that_never_vary_are_harmless():
    features, labels = problem(60, 6)
    features[:, 2] = 4.0
    (model,) = fit_path(features, labels, 4, [0.1], tolerance=1e-8)
    assert model.weights[:, 2].abs().max() < 1e-9
    (flat,) = fit_path(torch.full((8, 3), 2.0), torch.arange(8) % 4, 4, [0.1])
    assert flat.predict(torch.full((2, 3), 2.0)).tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(8))
def test_features_most_of_which_are_dead(seed):
    """As of a network whose ReLUs died; a float32 decomposition fails for some of these."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(1500, 2, generator=generator) @ torch.randn(2, 768, generator=generator)
    dead = torch.arange(768) % 2 == 0
    features = torch.where(dead, 0.0, few)
    features = Standardiser.of(features)(features)
    labels = (features[:, 1] > 0.2).long()
    (model,) = fit_path(features, labels, 2, [1e-2], tolerance=1e-8)
    (alone,) = fit_path(features[:, ~dead], labels, 2, [1e-2], tolerance=1e-8)
    assert model.weights[:, dead].abs().max() == 0
    torch.testing.assert_close(model.weights[:, ~dead], alone.weights, atol=1e-5, rtol=1e-4)


def test_a_tie_is_the_lowest_class():
    model = LinearModel(torch.zeros(3, 2).double(), torch.zeros(3).double())
    assert model.predict(torch.ones(2, 2)).tolist() == [0, 0]


def test_standardiser_is_scikit_learns():
    features, _ = problem(50, 7)
    features[:, 0] = 1e4 / 3
    oracle = StandardScaler().fit(features[:30].numpy()).transform(features.numpy())
    found = Standardiser.of(features[:30])(features)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), oracle, atol=1e-5)


def test_unit_length_keeps_directions_only():
    features, _ = problem(50, 7)
    scaling = UnitLength.of(features)
    found = scaling(features)
    torch.testing.assert_close(found, scaling(features * torch.arange(1, 51)[:, None]))
    assert found.var(dim=0, correction=0).mean() == pytest.approx(1.0, rel=1e-5)
    assert torch.isfinite(UnitLength.of(torch.zeros(3, 2))(torch.zeros(3, 2))).all()
