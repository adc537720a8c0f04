"""The protocols: weighted k-NN, linear probe and few labels, each beside tuned baselines.

For every row (the encoder and its baselines) and every protocol separately, the number of
neighbours and the temperature of their vote, or the strength of regularisation, is chosen on
validation, then fitted again with that choice on train + validation and scored on test once. An
untuned baseline is a straw man.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from looktwice.errors import DataError, UsageError
from looktwice.evaluate.bootstrap import Accuracy, interval, resample
from looktwice.evaluate.linear import LinearModel, Standardiser, UnitLength, fit_path
from looktwice.metrics import class_votes, nearest

NEIGHBOURS = (5, 10, 20, 50, 200)
# Of the k-NN vote. MoCo's is first, and so wins where several are equally good.
TEMPERATURES = (0.1, 0.05, 0.02, 0.2)
# Strong to weak; the walk ends once this many strengths in a row have not beaten the best so far.
STRENGTHS = (1.0, 0.1, 0.03, 0.01, 0.003, 0.001, 1e-4)
PATIENCE = 2
# With few labels the strongest compare with class means, nearly. Unit length is the better scale
# for a few raw pictures (by 4 points at one label a class), so it is offered to every row.
FEW_STRENGTHS = (100.0, 10.0, 1.0, 0.1, 0.01, 0.001)
SCALINGS: Mapping[str, type[Standardiser | UnitLength]] = {
    "standardised": Standardiser,
    "unit length": UnitLength,
}
LABELS_A_CLASS = (1, 10, 100)
NUM_DRAWS = 5
HEADLINE = "labels-10"
NUM_QUERIES, NUM_SHOWN = 12, 8  # neighbour strips: test pictures, and neighbours of each

Labels = NDArray[np.int64]
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class SplitFeatures:
    """Features float32 (N, D) of one row, D equal in all splits."""

    train: Tensor
    validation: Tensor
    test: Tensor

    @property
    def pool(self) -> Tensor:
        """Train, then validation: what the final fit learns from."""
        return torch.cat([self.train, self.validation])


@dataclass(frozen=True)
class SplitLabels:
    """Labels int64 (N,), 0 .. C - 1, of the pictures whose features are given."""

    train: Labels | None
    validation: Labels | None
    test: Labels | None


@dataclass(frozen=True)
class _Known:
    """The labels that fitting and choosing may see: those of test are not here."""

    train: Tensor
    validation: Tensor
    num_classes: int

    @property
    def pool(self) -> Tensor:
        return torch.cat([self.train, self.validation])


@dataclass(frozen=True)
class _Draws:
    """Labelled pictures of each draw: indices into train to choose with, into the pool to score."""

    choosing: list[Tensor]
    scoring: list[Tensor]


@dataclass(frozen=True)
class _Outcome:
    """What one row does under one protocol, before any test label is read."""

    predicted: Tensor  # int64 (L, T), one row a draw
    chosen: dict[str, float | str]
    validation_accuracy: float


def evaluate_features(
    rows: Mapping[str, SplitFeatures],
    labels: SplitLabels,
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Run all protocols on all rows.

    Args:
        rows: features by name: "encoder", and at least one baseline ("raw-pixels", "untrained").
        labels: of the same pictures. Those of test are read once, after everything is fitted.
        class_names: one a class; every class has a picture in train.
        seed: of the draws of labels, the resampling and the choice of queries.

    Returns:
        "protocols" (accuracies as fractions with 95 % intervals, differences encoder - baseline),
        "headline", "confusion" (linear probe, rows are true classes) and "neighbours" (indices
        into the given test features and into train + validation), ready for JSON.

    Raises:
        DataError: labels or features are missing or do not fit together.
        UsageError: there is no encoder row or no baseline.
    """
    known = _check(rows, labels, class_names)
    outcomes = _outcomes(rows, known, seed)
    assert labels.test is not None
    truth = np.asarray(labels.test)  # the one place where test labels are read
    if len(truth) and not (truth.min() >= 0 and truth.max() < len(class_names)):
        raise DataError(f"a test label lies outside 0 .. {len(class_names) - 1}")
    accuracies = _accuracies(outcomes, truth, seed)
    protocols = [
        _protocol(name, outcomes[name], accuracies[name], _note(name, known, class_names))
        for name in outcomes
    ]
    predicted = outcomes["linear"]["encoder"].predicted[0].numpy()
    return {
        "protocols": protocols,
        "headline": _headline(protocols),
        "confusion": _confusion(truth, predicted, len(class_names)),
        "neighbours": _neighbours(rows["encoder"], known, truth, seed),
    }


def _outcomes(
    rows: Mapping[str, SplitFeatures], known: _Known, seed: int
) -> dict[str, dict[str, _Outcome]]:
    """Return what every row predicts under every protocol."""
    run: dict[str, Callable[[SplitFeatures], _Outcome]] = {
        "knn": lambda row: _knn(row, known),
        "linear": lambda row: _linear(row, known),
    }
    for per_class in LABELS_A_CLASS:
        draws = _draw(known, per_class, seed)
        run[f"labels-{per_class}"] = partial(_few_labels, known=known, draws=draws)
    with _workers() as workers:
        running = {
            protocol: {name: workers.submit(measure, row) for name, row in rows.items()}
            for protocol, measure in run.items()
        }
        return {
            protocol: {name: future.result() for name, future in futures.items()}
            for protocol, futures in running.items()
        }


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Share torch's threads out to whole fits, one each.

    A fit is thousands of products too small to share: on a busy machine, threads that wait for
    each other after every one of them are slower by a factor of ten. And so no figure depends on
    the number of threads.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(
            num_threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as workers:
            yield workers
    finally:
        torch.set_num_threads(num_threads)


def _knn(row: SplitFeatures, known: _Known) -> _Outcome:
    ks = [k for k in NEIGHBOURS if k <= len(row.train)] or [len(row.train)]
    classes = known.num_classes
    tried = _votes(row.train, known.train, row.validation, ks, TEMPERATURES, classes)
    (k, temperature), accuracy = _best(
        (choice, _share(predicted, known.validation)) for choice, predicted in tried
    )
    ((_, predicted),) = _votes(row.pool, known.pool, row.test, [k], [temperature], classes)
    return _Outcome(predicted[None], {"k": k, "temperature": temperature}, accuracy)


def _votes(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    ks: Sequence[int],
    temperatures: Sequence[float],
    num_classes: int,
) -> Iterator[tuple[tuple[int, float], Tensor]]:
    """Yield each (k, temperature) and the classes (Q,) it predicts; neighbours are found once."""
    similarity, indices = nearest(bank, queries, max(ks))
    votes = labels[indices]
    for k, temperature in product(ks, temperatures):
        scores = class_votes(similarity[:, :k], votes[:, :k], num_classes, temperature)
        yield (k, temperature), scores.argmax(dim=1)


def _linear(row: SplitFeatures, known: _Known) -> _Outcome:
    scaled = Standardiser.of(row.train)
    path = fit_path(scaled(row.train), known.train, known.num_classes, STRENGTHS)
    l2, accuracy = _walk(STRENGTHS, [path], scaled(row.validation), known.validation)
    scaled = Standardiser.of(row.pool)
    (model,) = fit_path(scaled(row.pool), known.pool, known.num_classes, [l2])
    return _Outcome(model.predict(scaled(row.test))[None], {"l2": l2}, accuracy)


def _few_labels(row: SplitFeatures, known: _Known, draws: _Draws) -> _Outcome:
    """Fit the linear probe to few labels; the scaling is chosen on validation as well.

    The scaling is measured on all pictures of the split that is fitted on, labelled or not: ten
    pictures alone would not tell the scale of a feature.
    """
    tried = []
    for name, scaling in SCALINGS.items():
        scaled = scaling.of(row.train)
        train = scaled(row.train)
        paths = [
            fit_path(train[drawn], known.train[drawn], known.num_classes, FEW_STRENGTHS)
            for drawn in draws.choosing
        ]
        l2, accuracy = _walk(FEW_STRENGTHS, paths, scaled(row.validation), known.validation)
        tried.append(((name, l2), accuracy))
    (name, l2), accuracy = _best(tried)
    scaled = SCALINGS[name].of(row.pool)
    pool, test = scaled(row.pool), scaled(row.test)
    predicted = []
    for drawn in draws.scoring:
        (model,) = fit_path(pool[drawn], known.pool[drawn], known.num_classes, [l2])
        predicted.append(model.predict(test))
    return _Outcome(torch.stack(predicted), {"l2": l2, "scaling": name}, accuracy)


def _walk(
    strengths: Sequence[float],
    paths: Sequence[Iterator[LinearModel]],
    validation: Tensor,
    truth: Tensor,
) -> tuple[float, float]:
    """Walk the paths of all draws together; return the best strength and its mean accuracy."""
    tried: list[tuple[float, float]] = []
    for l2 in strengths:
        shares = [_share(next(path).predict(validation), truth) for path in paths]
        tried.append((l2, sum(shares) / len(shares)))
        best = _best(tried)
        if len(tried) - tried.index(best) > PATIENCE:
            break
    return best


def _draw(known: _Known, per_class: int, seed: int) -> _Draws:
    """Draw labelled pictures of every class, the same for all rows; all of a class if it is few."""
    generator = np.random.default_rng([seed, per_class])

    def once(labels: Tensor) -> Tensor:
        chosen = []
        for label in range(known.num_classes):
            members = np.flatnonzero(labels.numpy() == label)
            chosen.append(generator.permutation(members)[:per_class])
        return torch.from_numpy(np.sort(np.concatenate(chosen)))

    pool = known.pool
    return _Draws(
        [once(known.train) for _ in range(NUM_DRAWS)], [once(pool) for _ in range(NUM_DRAWS)]
    )


def _best(tried: Iterable[tuple[Choice, float]]) -> tuple[Choice, float]:
    """Return the pair of largest accuracy, the first of a tie."""
    return max(tried, key=lambda pair: pair[1])


def _share(predicted: Tensor, truth: Tensor) -> float:
    return float((predicted == truth).double().mean())


def _accuracies(
    outcomes: Mapping[str, Mapping[str, _Outcome]], truth: Labels, seed: int
) -> dict[str, dict[str, Accuracy]]:
    """Score every outcome; all are resampled together, so that differences are paired."""
    keys = [(protocol, row) for protocol, rows in outcomes.items() for row in rows]
    correct = [outcomes[protocol][row].predicted.numpy() == truth for protocol, row in keys]
    accuracies: dict[str, dict[str, Accuracy]] = {protocol: {} for protocol in outcomes}
    for (protocol, row), accuracy in zip(keys, resample(correct, seed), strict=True):
        accuracies[protocol][row] = accuracy
    return accuracies


def _protocol(
    name: str,
    outcomes: Mapping[str, _Outcome],
    accuracies: Mapping[str, Accuracy],
    note: str | None,
) -> dict[str, Any]:
    encoder = accuracies["encoder"]
    rows = {
        row: {
            "accuracy": accuracy.mean,
            "interval": interval(accuracy.resampled),
            "chosen": outcomes[row].chosen,
            "validation_accuracy": outcomes[row].validation_accuracy,
            "sd": accuracy.sd,
            "draws": len(accuracy.draws),
        }
        for row, accuracy in accuracies.items()
    }
    differences = {
        row: {
            "difference": encoder.mean - baseline.mean,
            "interval": interval(encoder.resampled - baseline.resampled),
        }
        for row, baseline in accuracies.items()
        if row != "encoder"
    }
    entry = {"name": name, "title": _title(name), "rows": rows, "differences": differences}
    return entry | ({"note": note} if note else {})


def _title(name: str) -> str:
    if name.startswith("labels-"):
        count = int(name.removeprefix("labels-"))
        return f"{count} label{'s' if count > 1 else ''} a class"
    return {"knn": "weighted k-NN", "linear": "linear probe"}[name]


def _note(name: str, known: _Known, class_names: Sequence[str]) -> str | None:
    """Say which classes have fewer labelled pictures than the protocol asks for."""
    if not name.startswith("labels-"):
        return None
    asked = int(name.removeprefix("labels-"))
    counts = torch.bincount(known.train, minlength=known.num_classes).tolist()
    few = [f"{class_names[label]!r} ({n})" for label, n in enumerate(counts) if n < asked]
    if not few:
        return None
    listed = ", ".join(few[:3]) + (f" and {len(few) - 3} more" if len(few) > 3 else "")
    return f"all that there are, in classes with fewer than {asked} pictures to train on: {listed}"


def _headline(protocols: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return few-label accuracy against the baseline that did better on test: the harder one."""
    entry = next(protocol for protocol in protocols if protocol["name"] == HEADLINE)
    better = max(entry["differences"], key=lambda row: entry["rows"][row]["accuracy"])
    encoder = entry["rows"]["encoder"]
    return {
        "protocol": HEADLINE,
        "better_baseline": better,
        **entry["differences"][better],
        "accuracy": encoder["accuracy"],
        "sd": encoder["sd"],
    }


def _confusion(truth: Labels, predicted: Labels, num_classes: int) -> list[list[int]]:
    counts = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return [[int(n) for n in row] for row in counts.reshape(num_classes, num_classes)]


def _neighbours(
    row: SplitFeatures, known: _Known, truth: Labels, seed: int
) -> list[dict[str, Any]]:
    """Return the nearest pool pictures of a few test pictures, picked by seed, class by class."""
    queries = _queries(truth, seed)
    similarity, found = nearest(row.pool, row.test[queries], min(NUM_SHOWN, len(known.pool)))
    return [
        {
            "query": int(query),
            "query_label": int(truth[query]),
            "neighbours": found[i].tolist(),
            "labels": known.pool[found[i]].tolist(),
            "similarity": similarity[i].tolist(),
        }
        for i, query in enumerate(queries)
    ]


def _queries(truth: Labels, seed: int) -> Labels:
    """Pick test pictures: one of every class before a second of any, by seed alone."""
    shuffled = np.random.default_rng([seed, len(truth)]).permutation(len(truth))
    seen: dict[int, int] = {}
    turn = np.zeros(len(truth), dtype=np.int64)
    for place, index in enumerate(shuffled):
        label = int(truth[index])
        turn[place] = seen.get(label, 0)
        seen[label] = turn[place] + 1
    picked = shuffled[np.argsort(turn, kind="stable")[:NUM_QUERIES]]
    return picked[np.argsort(truth[picked], kind="stable")]


def _check(
    rows: Mapping[str, SplitFeatures], labels: SplitLabels, class_names: Sequence[str]
) -> _Known:
    """Check everything but the values of the test labels.

    Raises:
        DataError, UsageError: as ``evaluate_features``.
    """
    if "encoder" not in rows or len(rows) < 2:
        raise UsageError(
            f"evaluation needs the row 'encoder' and at least one baseline; found {sorted(rows)}"
        )
    for split in ("train", "validation", "test"):
        given = getattr(labels, split)
        if given is None:
            raise DataError(
                f"the {split} pictures have no labels: evaluation needs them, for instance as one "
                "folder a class"
            )
        for name, row in rows.items():
            _check_features(name, split, getattr(row, split), row.train.shape[1], len(given))
    assert labels.train is not None
    assert labels.validation is not None
    _check_classes(labels.train, labels.validation, class_names)
    train, validation = (torch.as_tensor(given) for given in (labels.train, labels.validation))
    return _Known(train, validation, len(class_names))


def _check_features(name: str, split: str, features: Tensor, width: int, count: int) -> None:
    if count == 0:
        raise DataError(f"the {split} split has no pictures: evaluation needs some in every split")
    if features.shape != (count, width):
        raise DataError(
            f"the {split} features of {name!r} must be ({count}, {width}): one row a label, as "
            f"wide as train; found {tuple(features.shape)}"
        )
    if not features.isfinite().all():
        raise DataError(
            f"the {split} features of {name!r} are not all finite: the network diverged"
        )


def _check_classes(train: Labels, validation: Labels, class_names: Sequence[str]) -> None:
    num_classes = len(class_names)
    if num_classes < 2:
        raise DataError(f"evaluation needs two classes or more; found {list(class_names)}")
    for split, given in (("train", train), ("validation", validation)):
        if not (given.min() >= 0 and given.max() < num_classes):
            raise DataError(f"a {split} label lies outside 0 .. {num_classes - 1}")
    missing = np.flatnonzero(np.bincount(train, minlength=num_classes) == 0)
    if len(missing):
        raise DataError(
            f"class {class_names[missing[0]]!r} has no picture in train ({len(missing)} of "
            f"{num_classes} classes): add pictures, or leave the class out"
        )
