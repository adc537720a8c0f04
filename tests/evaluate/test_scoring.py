"""What every protocol reports, beside scikit-learn."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    recall_score,
    top_k_accuracy_score,
)

from looktwice.errors import DataError
from looktwice.evaluate.scoring import (
    Outcome,
    balanced_share,
    entries,
    rank,
    read_truth,
    share,
)

CLASSES, PICTURES = 7, 300


@pytest.fixture(scope="module")
def problem():
    """Unequal classes, and scores of two draws that lean towards the truth."""
    generator = np.random.default_rng(0)
    truth = generator.choice(CLASSES, PICTURES, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])
    scores = generator.normal(size=(2, PICTURES, CLASSES))
    scores[:, np.arange(PICTURES), truth] += 1
    return truth, scores


def outcome(scores):
    return Outcome(torch.stack([rank(torch.from_numpy(draw)) for draw in scores]), {})


def entry(outcomes, truth, num_classes=CLASSES):
    (found,) = entries({"p": outcomes}, truth, num_classes, titles={"p": "a title"})
    return json.loads(json.dumps(found, allow_nan=False))


def test_balanced_share_is_scikit_learns_and_of_equal_classes_the_plain_one(problem):
    truth, scores = problem
    predicted, truth = torch.from_numpy(scores[0].argmax(axis=1)), torch.from_numpy(truth)
    assert balanced_share(predicted, truth) == pytest.approx(
        balanced_accuracy_score(truth, predicted), abs=1e-11
    )
    assert balanced_share(predicted, truth) != pytest.approx(share(predicted, truth), abs=0.01)
    equal = torch.arange(70) % CLASSES
    for seed in range(20):
        order = torch.randperm(70, generator=torch.Generator().manual_seed(seed))
        assert balanced_share(equal[order], equal) == round(share(equal[order], equal), 12)


def test_numbers_are_scikit_learns(problem):
    truth, scores = problem
    found = entry({"encoder": outcome(scores)}, truth)
    row = found["rows"]["encoder"]
    predicted = scores.argmax(axis=2)
    accuracies = (predicted == truth).mean(axis=1)
    assert row["accuracy"] == pytest.approx(accuracies.mean())
    assert row["sd"] == pytest.approx(accuracies.std(ddof=1))
    both = np.tile(truth, 2)
    assert row["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(both, predicted.ravel())
    )
    assert row["per_class"] == pytest.approx(recall_score(both, predicted.ravel(), average=None))
    assert row["top5"] == pytest.approx(
        top_k_accuracy_score(both, scores.reshape(-1, CLASSES), k=5)
    )
    assert row["interval"][0] < row["accuracy"] < row["interval"][1]
    assert row["top5_interval"][0] < row["top5"] < row["top5_interval"][1]
    assert found["confusion"] == confusion_matrix(both, predicted.ravel()).tolist()


def test_a_class_that_test_lacks_counts_nowhere(problem):
    truth, scores = problem
    kept = truth != 2
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(truth[kept], scores[0][kept].argmax(axis=1))
    row = entry({"encoder": outcome(scores[:1, kept])}, truth[kept])["rows"]["encoder"]
    assert row["balanced_accuracy"] == pytest.approx(expected)
    assert row["per_class"][2] is None
    assert row["sd"] is None


def test_five_classes_have_no_top5():
    truth = np.arange(10) % 5
    row = entry({"a": outcome(np.eye(5)[truth][None])}, truth, 5)["rows"]["a"]
    assert row["accuracy"] == row["balanced_accuracy"] == 1
    assert "top5" not in row


def test_ties_go_to_the_lowest_class():
    assert rank(torch.tensor([[0.0, 1, 1, 0, 1, 0, 0]])).tolist() == [[1, 2, 4, 0, 3]]


def test_all_right_is_an_interval_of_some_width(problem):
    """Of 40 pictures all right: Wilson's interval, not [1, 1]; so for none."""
    truth = problem[0][:40]
    for right in (truth, (truth + 1) % CLASSES):
        row = entry({"encoder": outcome(np.eye(CLASSES)[right][None])}, truth)["rows"]["encoder"]
        hits = int((right == truth).sum())
        expected = stats.binomtest(hits, 40).proportion_ci(method="wilson")
        assert row["interval"] == pytest.approx([expected.low, expected.high], abs=0.006)
        assert row["interval"][1] - row["interval"][0] > 0.08


@pytest.mark.parametrize("draws", [2, 3, 5])
def test_intervals_hold_where_draws_vary_more_than_pictures(draws):
    """Accuracy, top-5 and differences of simulated draws; resampling L of L: 50, 74 and 84 %."""
    generator = np.random.default_rng(0)
    truth, trials = np.zeros(400, np.int64), 300
    covered = np.zeros(3)
    for _ in range(trials):
        pair = []
        for _ in range(2):
            share = generator.normal(0.5, 0.12, (draws, 1))
            drawn = generator.random((draws, 400))
            ranked = np.full((draws, 400, 5), 1)
            ranked[:, :, 0] -= drawn < share
            ranked[:, :, 4] -= drawn < share + 0.2
            pair.append(Outcome(torch.from_numpy(ranked), {}))
        found = entry(dict(zip(("encoder", "untrained"), pair, strict=True)), truth)
        row, gap = found["rows"]["encoder"], found["differences"]["untrained"]
        held = ((0.5, row["interval"]), (0.7, row["top5_interval"]), (0, gap["interval"]))
        covered += [low <= value <= high for value, (low, high) in held]
    # Of two draws no more is promised; see `over_pictures`.
    assert covered.min() / trials >= (0.84 if draws == 2 else 0.91)


def test_pairing_takes_out_what_is_common():
    truth = np.zeros(1000, np.int64)
    right = np.random.default_rng(0).random(1000) < 0.7
    better = right.copy()
    better[np.flatnonzero(~right)[:50]] = True
    rows = [outcome(np.eye(2)[1 - hits.astype(int)][None]) for hits in (better, right, right)]
    found = entry(dict(zip("abc", rows, strict=True)), truth, 2)
    gain = found["differences"]["b"]
    half = 1.96 * np.sqrt(0.05 * 0.95 / 1000)
    assert gain["difference"] == pytest.approx(0.05)
    assert gain["interval"] == pytest.approx([0.05 - half, 0.05 + half], abs=1e-4)
    assert gain == found["differences"]["c"]


def test_differences_are_from_the_first_row(problem):
    truth, scores = problem
    right = np.eye(CLASSES)[truth][None]
    found = entry({"z": outcome(right), "encoder": outcome(scores[:1])}, truth)
    gap = 1 - (scores[0].argmax(axis=1) == truth).mean()
    assert found["reference"] == "z"
    assert found["differences"]["encoder"]["difference"] == pytest.approx(gap)


def test_a_test_label_out_of_range_is_one_line():
    with pytest.raises(DataError, match="outside 0 .. 2"):
        read_truth(np.array([0, 3]), 3)
