"""The protocols: what is chosen where, what may be read when, and the numbers' shape."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from looktwice.errors import DataError, UsageError
from looktwice.evaluate import SplitFeatures, SplitLabels, evaluate_features, protocol
from looktwice.evaluate.labels import Known, amount_note, draw
from looktwice.evaluate.linear import Standardiser, fit_path
from looktwice.evaluate.protocol import predict
from looktwice.evaluate.scoring import balanced_share, share
from looktwice.metrics import nearest

CLASSES = ("ankle", "bag", "coat")
SIZES = {"train": 240, "validation": 60, "test": 90}


@pytest.fixture(scope="module")
def labels():
    return SplitLabels(**{split: np.resize(np.arange(3), n) for split, n in SIZES.items()})


def features(labels, noise, seed):
    """Three Gaussian classes in ten dimensions, the harder the noisier."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(3, 10))

    def split(name):
        given = getattr(labels, name)
        values = centres[given] + noise * generator.normal(size=(len(given), 10))
        return torch.from_numpy(values.astype(np.float32))

    return SplitFeatures(**{name: split(name) for name in SIZES})


@pytest.fixture(scope="module")
def rows(labels):
    return {
        "encoder": features(labels, 1.0, 0),
        "raw-pixels": features(labels, 2.0, 1),
        "untrained": features(labels, 4.0, 2),
    }


@pytest.fixture(scope="module")
def result(rows, labels):
    return evaluate_features(rows, labels, CLASSES, seed=0)


def test_the_result_is_json_in_the_agreed_shape(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    names = [entry["name"] for entry in result["protocols"]]
    assert names == ["knn", "linear", "labels-1", "labels-10", "labels-100"]
    titles = [entry["title"] for entry in result["protocols"]]
    assert titles[2:] == ["1 label a class", "10 labels a class", "100 labels a class"]
    for entry in result["protocols"]:
        few = entry["name"].startswith("labels")
        assert list(entry["rows"]) == ["encoder", "raw-pixels", "untrained"]
        assert list(entry["differences"]) == ["raw-pixels", "untrained"]
        for row in entry["rows"].values():
            assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
            assert row["draws"] == (5 if few else 1)
            assert (row["sd"] is not None) == few
        for baseline, gap in entry["differences"].items():
            expected = entry["rows"]["encoder"]["accuracy"] - entry["rows"][baseline]["accuracy"]
            assert gap["difference"] == pytest.approx(expected)
            assert gap["interval"][0] <= gap["difference"] <= gap["interval"][1]


def test_better_features_win(result):
    for entry in result["protocols"][1:]:
        assert entry["differences"]["untrained"]["interval"][0] > 0


def test_headline_takes_the_better_baseline(result):
    entry = result["protocols"][3]
    assert result["headline"] == {
        "protocol": "labels-10",
        "better_baseline": "raw-pixels",
        **entry["differences"]["raw-pixels"],
        "accuracy": entry["rows"]["encoder"]["accuracy"],
        "sd": entry["rows"]["encoder"]["sd"],
    }
    assert entry["rows"]["raw-pixels"]["accuracy"] > entry["rows"]["untrained"]["accuracy"]


def test_confusion_counts_the_linear_probe(result, labels):
    counts = np.array(result["confusion"])
    assert counts.sum(axis=1).tolist() == np.bincount(labels.test).tolist()
    accuracy = result["protocols"][1]["rows"]["encoder"]["accuracy"]
    assert counts.trace() / counts.sum() == pytest.approx(accuracy)


def test_neighbours_are_the_nearest_of_the_pool_for_every_class(result, rows, labels):
    pool = torch.nn.functional.normalize(rows["encoder"].pool, dim=1)
    pool_labels = np.concatenate([labels.train, labels.validation])
    queries = result["neighbours"]
    assert len({query["query"] for query in queries}) == 12
    assert np.bincount([query["query_label"] for query in queries]).tolist() == [4, 4, 4]
    for query in queries:
        one = torch.nn.functional.normalize(rows["encoder"].test[query["query"]], dim=0)
        expected = (pool @ one).argsort(descending=True)[:8]
        assert query["neighbours"] == expected.tolist()
        assert query["labels"] == pool_labels[expected].tolist()
        assert labels.test[query["query"]] == query["query_label"]


def oracle(k, temperature, bank, bank_labels, queries):
    vote = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    )
    return vote.fit(bank, bank_labels).predict(queries)


def test_k_and_temperature_are_chosen_on_validation_and_scored_with_both(result, rows, labels):
    pool_labels = np.concatenate([labels.train, labels.validation])
    for name, row in rows.items():
        tried = {
            (k, temperature): (
                oracle(k, temperature, row.train, labels.train, row.validation) == labels.validation
            ).mean()
            for k in (5, 10, 20, 50, 200)
            for temperature in (0.1, 0.05, 0.02, 0.2)
        }
        k, temperature = max(tried, key=tried.get)
        found = result["protocols"][0]["rows"][name]
        assert found["chosen"] == {"k": k, "temperature": temperature}
        assert found["validation_accuracy"] == pytest.approx(tried[k, temperature])
        scored = (oracle(k, temperature, row.pool, pool_labels, row.test) == labels.test).mean()
        assert found["accuracy"] == pytest.approx(scored)


def test_what_is_chosen_depends_on_the_goal():
    generator = np.random.default_rng(0)
    truth = generator.choice(3, 500, p=(0.8, 0.15, 0.05))
    features = generator.normal(size=(500, 4)) + 1.2 * np.eye(3, 4)[truth]
    parts = (slice(0, 300), slice(300, 400), slice(400, 500))
    row = SplitFeatures(*(torch.from_numpy(features[part]).float() for part in parts))
    known = Known(*(torch.from_numpy(truth[part]) for part in parts[:2]), 3)
    for goal, score in ((share, accuracy_score), (balanced_share, balanced_accuracy_score)):
        found = predict({"a": row}, known, ("knn",), seed=0, goal=goal)["knn"]["a"]
        tried = {
            (k, temperature): score(
                truth[parts[1]], oracle(k, temperature, row.train, known.train, row.validation)
            )
            for k in (5, 10, 20, 50, 200)
            for temperature in (0.1, 0.05, 0.02, 0.2)
        }
        best = max(tried, key=tried.get)
        assert found.chosen == {"k": best[0], "temperature": best[1]}
        assert found.validation_accuracy == pytest.approx(tried[best])
    assert best[0] == 5, "the rare classes need few neighbours"


def test_neighbours_are_found_once_for_all_choices(rows, labels, monkeypatch):
    found = []

    def counted(bank, queries, k):
        found.append((len(bank), len(queries), k))
        return nearest(bank, queries, k)

    monkeypatch.setattr(protocol, "nearest", counted)
    known = Known(torch.from_numpy(labels.train), torch.from_numpy(labels.validation), 3)
    outcome = protocol._knn(rows["encoder"], known, share)
    assert found == [(240, 60, 200), (300, 90, outcome.chosen["k"])]


def test_strength_is_chosen_on_validation_and_refitted(result, rows, labels):
    for name, row in rows.items():
        scaled = Standardiser.of(row.train)
        path = fit_path(scaled(row.train), torch.from_numpy(labels.train), 3, protocol.STRENGTHS)
        accuracies = [
            (model.predict(scaled(row.validation)).numpy() == labels.validation).mean()
            for model in path
        ]
        found = result["protocols"][1]["rows"][name]
        assert found["validation_accuracy"] == pytest.approx(max(accuracies), abs=0.02)
        assert found["chosen"]["l2"] in protocol.STRENGTHS
        scaled = Standardiser.of(row.pool)
        targets = torch.from_numpy(np.concatenate([labels.train, labels.validation]))
        (model,) = fit_path(scaled(row.pool), targets, 3, [found["chosen"]["l2"]])
        right = (model.predict(scaled(row.test)).numpy() == labels.test).mean()
        assert found["accuracy"] == pytest.approx(right)


class ReadOnce:
    """Test labels that say when they are read."""

    def __init__(self, values, log):
        self.values, self.log = values, log

    def __len__(self):
        return len(self.values)

    def __array__(self, dtype=None, copy=None):
        self.log.append("test labels")
        return self.values


def test_test_labels_are_read_once_and_last(rows, labels, monkeypatch):
    log = []
    for name in ("_knn", "_linear", "_few_labels"):
        original = getattr(protocol, name)

        def logged(*args, original=original, name=name, **options):
            outcome = original(*args, **options)
            log.append(name)
            return outcome

        monkeypatch.setattr(protocol, name, logged)
    evaluate_features(rows, dataclasses.replace(labels, test=ReadOnce(labels.test, log)), CLASSES)
    assert log[-1] == "test labels"
    assert sorted(log[:-1]) == ["_few_labels"] * 9 + ["_knn"] * 3 + ["_linear"] * 3


def test_test_labels_choose_nothing(result, rows, labels):
    other = dataclasses.replace(labels, test=(labels.test + 1) % 3)
    changed = evaluate_features(rows, other, CLASSES, seed=0)
    for before, after in zip(result["protocols"], changed["protocols"], strict=True):
        for name, row in before["rows"].items():
            same = ("chosen", "validation_accuracy")
            assert [row[key] for key in same] == [after["rows"][name][key] for key in same]
            assert row["accuracy"] != after["rows"][name]["accuracy"]


def test_equal_rows_differ_by_exactly_nothing(rows, labels):
    twins = evaluate_features(
        {"encoder": rows["encoder"], "raw-pixels": rows["encoder"]}, labels, CLASSES
    )
    for entry in twins["protocols"]:
        found = entry["differences"]["raw-pixels"]
        low, high = found["interval"]
        assert found["difference"] == low + high == 0.0
        assert 0 < high < 0.04  # as if two more pictures of 60 and more had differed


def test_a_seed_is_a_result_whatever_the_threads(result, rows, labels):
    torch.set_num_threads(2)
    assert evaluate_features(rows, labels, CLASSES, seed=0) == result
    assert torch.get_num_threads() == 2
    assert evaluate_features(rows, labels, CLASSES, seed=1) != result


def test_draws_hold_what_they_say():
    train = torch.arange(3).repeat(20)
    known = Known(train, torch.arange(3).repeat(5), 3)
    draws = draw(known, "labels-10", seed=0)
    assert len(draws.choosing) == len(draws.scoring) == 5
    for split, size, labels in (("choosing", 60, known.train), ("scoring", 75, known.pool)):
        drawn = getattr(draws, split)
        for one in drawn:
            assert torch.bincount(labels[one]).tolist() == [10, 10, 10]
            assert one.unique().numel() == 30
            assert one.max() < size
        assert len({tuple(one.tolist()) for one in drawn}) == 5
    assert any(one.max() >= 60 for one in draws.scoring)


def test_classes_with_few_pictures_give_all_they_have_and_say_so(result):
    known = Known(torch.tensor([0] * 50 + [1] * 3 + [2] * 50), torch.tensor([0, 1, 2]), 3)
    draws = draw(known, "labels-10", seed=0)
    assert torch.bincount(known.train[draws.choosing[0]]).tolist() == [10, 3, 10]
    note = "all that there are, in classes with fewer than 10 pictures to train on: 'bag' (3)"
    assert amount_note("labels-10", known, CLASSES) == note
    assert [("note" in entry) for entry in result["protocols"]] == [False] * 4 + [True]


@pytest.mark.parametrize("count", [2, 7])
def test_tiny_data_sets_work(count):
    generator = torch.Generator().manual_seed(0)
    given = np.arange(2).repeat(count)
    row = SplitFeatures(*(torch.randn(2 * count, 3, generator=generator) for _ in range(3)))
    found = evaluate_features(
        {"encoder": row, "untrained": row}, SplitLabels(given, given, given), ("a", "b")
    )
    assert found["protocols"][0]["rows"]["encoder"]["chosen"]["k"] <= 2 * count


def replaced(labels, **changes):
    return dataclasses.replace(labels, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, x: (r, replaced(x, train=None)), "train pictures have no labels"),
        (lambda r, x: (r, replaced(x, test=None)), "test pictures have no labels"),
        (lambda r, x: (r, replaced(x, train=x.train * 0)), "class 'bag' has no picture in train"),
        (
            lambda r, x: (r, replaced(x, validation=x.validation + 1)),
            "validation label lies outside",
        ),
        (lambda r, x: (r, replaced(x, test=x.test - 1)), "test label lies outside 0 .. 2"),
        (
            lambda r, x: (r, replaced(x, train=x.train[:-1])),
            r"must be \(239, 10\).*found \(240, 10\)",
        ),
        (
            lambda r, x: (r | {"untrained": replaced(r["untrained"], test=torch.zeros(90, 9))}, x),
            "'untrained' must be",
        ),
        (
            lambda r, x: (
                r | {"encoder": replaced(r["encoder"], test=torch.full((90, 10), torch.nan))},
                x,
            ),
            "not all finite",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(rows, labels, change, message):
    with pytest.raises(DataError, match=message) as caught:
        evaluate_features(*change(rows, labels), CLASSES)
    assert "\n" not in str(caught.value)


def test_one_class_is_no_classification(rows, labels):
    one = SplitLabels(labels.train * 0, labels.validation * 0, labels.test * 0)
    with pytest.raises(DataError, match="two classes or more"):
        evaluate_features(rows, one, ("only",))


def test_an_encoder_and_a_baseline_are_needed(rows, labels):
    with pytest.raises(UsageError, match="at least one baseline"):
        evaluate_features({"encoder": rows["encoder"]}, labels, CLASSES)
