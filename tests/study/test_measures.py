"""What is measured of a run is what the protocols of `looktwice eval` measure of it."""

import io

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from looktwice import train
from looktwice.config import resolve
from looktwice.evaluate import evaluate_target
from looktwice.evaluate.features import raw_pixels
from looktwice.evaluate.scoring import share
from looktwice.metrics import effective_rank
from looktwice.run import open_data
from looktwice.study.measures import is_score, measure, needs_head, parts, title


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures):
    flags = {
        "data.source": str(pictures),
        "augment.size": 8,
        "model.image_size": 8,
        "train.batch_size": 16,
        "train.steps": 6,
        "train.threads": 1,
    }
    config = resolve(recipe="simclr-tiny", flags=flags, environ={})
    return train.start(
        config, tmp_path_factory.mktemp("run") / "a", command="t", file=io.StringIO()
    )


def accuracy(record):
    """Plain accuracy, from the digits."""
    return np.mean([int(digit) for digit in record["right"]]) / record["draws"]


def test_scores_are_those_of_the_protocols_if_chosen_by_the_same(run, monkeypatch):
    monkeypatch.setattr("looktwice.study.measures.balanced_share", share)
    splits = open_data(run.config().data)
    names = ("linear", "knn", "labels-10", "linear-z", "knn-z")
    found = measure(run, splits, names, ("encoder",), seed=3)["encoder"]
    baselines = measure(run, splits, ("linear",), ("raw-pixels", "untrained"), seed=3)
    standard = {
        entry["name"]: entry["rows"]
        for entry in evaluate_target(run.path, "standard", seed=3).result["protocols"]
    }
    for name in ("linear", "knn", "labels-10"):
        row = standard[name]["encoder"]
        assert accuracy(found[name]) == pytest.approx(row["accuracy"], abs=1e-12)
        assert found[name]["balanced_accuracy"] == pytest.approx(row["balanced_accuracy"])
        assert found[name]["validation_accuracy"] == pytest.approx(row["validation_accuracy"])
    for row in ("raw-pixels", "untrained"):
        expected = standard["linear"][row]["accuracy"]
        assert accuracy(baselines[row]["linear"]) == pytest.approx(expected, abs=1e-12)
    by_layer = evaluate_target(run.path, "layers", seed=3).result["protocols"]
    z = {entry["name"]: entry["rows"]["z"]["accuracy"] for entry in by_layer}
    assert accuracy(found["linear-z"]) == pytest.approx(z["linear"], abs=1e-12)
    assert accuracy(found["knn-z"]) == pytest.approx(z["knn"], abs=1e-12)


def test_classes_have_equal_weight_on_validation_too(run):
    splits = open_data(run.config().data)
    found = measure(run, splits, ("knn",), ("raw-pixels",), seed=3)["raw-pixels"]["knn"]
    pixels = [raw_pixels(part)[0] for part in (splits.train, splits.validation)]
    known, truth = splits.train.labels, splits.validation.labels
    assert len(set(np.bincount(truth))) > 1, "unequal classes"
    best = max(
        balanced_accuracy_score(truth, vote(k, t).fit(pixels[0], known).predict(pixels[1]))
        for k in (5, 10, 20, 50, 200)
        if k <= len(known)
        for t in (0.1, 0.05, 0.02, 0.2)
    )
    assert found["validation_accuracy"] == pytest.approx(best)


def vote(k, temperature):
    return KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    )


def test_another_side_is_another_encoder(run):
    splits = open_data(run.config().data)
    found = measure(run, splits, ("linear@8", "linear", "linear@16"), ("encoder",), seed=0)
    encoder = found["encoder"]
    assert encoder["linear@8"]["right"] == encoder["linear"]["right"]
    assert encoder["linear@16"]["right"] != encoder["linear"]["right"]


def test_other_measures_are_there_with_what_the_run_cost(run):
    splits = open_data(run.config().data)
    names = ("contrastive", "rank", "bits", "histogram", "lost")
    found = measure(run, splits, names, ("encoder",), seed=0)["encoder"]
    for name in names:
        assert any(map(parts(name), found)), name
    assert {"seconds", "memory_mb", "pictures_per_second"} <= found.keys()
    assert 1 <= found["rank"]["value"] <= 768
    assert set(found["lost-rotation-h"]["truth"]) == {0, 1, 2, 3}
    flat = torch.ones(20, 8) + 1e-9 * torch.randn(20, 8)
    assert effective_rank(flat.double()) == pytest.approx(1, abs=0.05)


def test_names():
    assert is_score("labels-10")
    assert not is_score("bound")
    assert is_score("linear-z")
    assert not is_score("linear-z", of_features=True)
    assert [needs_head(n) for n in ("lost", "knn-z", "knn")] == [True, True, False]
    assert title("labels-10") == "10 labels a class"
    assert title("linear-z@48") == "linear probe on z, tested at 48 px"
    assert title("lost-rotation-z") == "rotation, from z"
