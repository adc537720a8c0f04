"""Protocols on frozen features: weighted k-NN, linear probe and few labels, beside baselines.

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
from torch import Tensor

from looktwice.errors import DataError, UsageError
from looktwice.evaluate.labels import (
    NUM_DRAWS,
    Draws,
    Known,
    Labels,
    SplitLabels,
    amount_note,
    amount_title,
    draw,
    known_labels,
)
from looktwice.evaluate.linear import LinearModel, Standardiser, UnitLength, fit_path
from looktwice.evaluate.scoring import Outcome, entries, rank, read_truth, share
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
STANDARD = ("knn", "linear", "labels-1", "labels-10", "labels-100")
"""What is measured unless said otherwise; few labels as `labels.draw` names them."""
HEADLINE = "labels-10"
NUM_QUERIES, NUM_SHOWN = 12, 8  # neighbour strips: test pictures, and neighbours of each

Choice = TypeVar("Choice")
Goal = Callable[[Tensor, Tensor], float]
"""From classes predicted and true, both (N,), to how good that is, 0 .. 1."""


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


def evaluate_features(
    rows: Mapping[str, SplitFeatures],
    labels: SplitLabels,
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Run the standard protocols on all rows.

    Args:
        rows: features by name: "encoder", and at least one baseline ("raw-pixels", "untrained").
        labels: of the same pictures. Those of test are read once, after everything is fitted.
        class_names: one a class; every class has a picture in train.
        seed: of the draws of labels and the choice of queries.

    Returns:
        "protocols" (see `scoring.entries`), "headline", "confusion" (linear probe, rows are true
        classes) and "neighbours" (indices into the given test features and into train +
        validation), ready for JSON.

    Raises:
        DataError: labels or features are missing or do not fit together.
        UsageError: there is no encoder row or no baseline.
    """
    if next(iter(rows), None) != "encoder" or len(rows) < 2:
        raise UsageError(
            "evaluation needs the row 'encoder' first, and at least one baseline; found "
            f"{list(rows)}"
        )
    known = check(rows, labels, class_names)
    outcomes = predict(rows, known, STANDARD, seed=seed)
    truth = read_truth(labels.test, known.num_classes)
    protocols = score(outcomes, truth, known, class_names)
    linear = next(entry for entry in protocols if entry["name"] == "linear")
    return {
        "protocols": protocols,
        "headline": _headline(protocols),
        "confusion": linear["confusion"],
        "neighbours": _neighbours(rows["encoder"], known, truth, seed),
    }


def measure_features(
    rows: Mapping[str, SplitFeatures],
    labels: SplitLabels,
    class_names: Sequence[str],
    measures: Sequence[str],
    *,
    seed: int,
    num_draws: int = NUM_DRAWS,
) -> list[dict[str, Any]]:
    """Run some protocols: "knn", "linear", or amounts of labels (`labels.draw`), on all rows.

    Arguments, errors and the reading of test labels as in `evaluate_features`; the rows may have
    any names, and the first is the one that the others are compared with.
    """
    known = check(rows, labels, class_names)
    outcomes = predict(rows, known, measures, seed=seed, num_draws=num_draws)
    truth = read_truth(labels.test, known.num_classes)
    return score(outcomes, truth, known, class_names)


def score(
    outcomes: Mapping[str, Mapping[str, Outcome]],
    truth: Labels,
    known: Known,
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the entries of `scoring.entries`, with their titles and notes."""
    few = [name for name in outcomes if name not in TITLES]
    return entries(
        outcomes,
        truth,
        known.num_classes,
        titles={**TITLES, **{name: amount_title(name) for name in few}},
        notes={name: amount_note(name, known, class_names) for name in few},
    )


TITLES: Mapping[str, str] = {"knn": "weighted k-NN", "linear": "linear probe"}


def predict(
    rows: Mapping[str, SplitFeatures],
    known: Known,
    measures: Sequence[str],
    *,
    seed: int,
    num_draws: int = NUM_DRAWS,
    goal: Goal = share,
) -> dict[str, dict[str, Outcome]]:
    """Return what every row predicts under every protocol.

    Args:
        rows: as in `measure_features`.
        known: labels of train and validation.
        measures: protocols.
        seed: of the draws of labels.
        num_draws: of labels.
        goal: by what is chosen on validation: that by which test will be scored.
    """
    run: dict[str, Callable[[SplitFeatures], Outcome]] = {}
    for name in measures:
        if name == "knn":
            run[name] = lambda row: _knn(row, known, goal)
        elif name == "linear":
            run[name] = lambda row: _linear(row, known, goal)
        else:
            draws = draw(known, name, seed, num_draws=num_draws)
            run[name] = partial(_few_labels, known=known, draws=draws, goal=goal)
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


def _knn(row: SplitFeatures, known: Known, goal: Goal) -> Outcome:
    ks = [k for k in NEIGHBOURS if k <= len(row.train)] or [len(row.train)]
    classes = known.num_classes
    tried = _votes(row.train, known.train, row.validation, ks, TEMPERATURES, classes)
    (k, temperature), accuracy = _best(
        (choice, goal(scores.argmax(dim=1), known.validation)) for choice, scores in tried
    )
    ((_, scores),) = _votes(row.pool, known.pool, row.test, [k], [temperature], classes)
    return Outcome(rank(scores)[None], {"k": k, "temperature": temperature}, accuracy)


def _votes(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    ks: Sequence[int],
    temperatures: Sequence[float],
    num_classes: int,
) -> Iterator[tuple[tuple[int, float], Tensor]]:
    """Yield each (k, temperature) and the scores (Q, C) it gives; neighbours are found once."""
    similarity, indices = nearest(bank, queries, max(ks))
    votes = labels[indices]
    for k, temperature in product(ks, temperatures):
        scores = class_votes(similarity[:, :k], votes[:, :k], num_classes, temperature)
        yield (k, temperature), scores


def _linear(row: SplitFeatures, known: Known, goal: Goal) -> Outcome:
    scaled = Standardiser.of(row.train)
    path = fit_path(scaled(row.train), known.train, known.num_classes, STRENGTHS)
    l2, accuracy = _walk(STRENGTHS, [path], scaled(row.validation), known.validation, goal)
    scaled = Standardiser.of(row.pool)
    (model,) = fit_path(scaled(row.pool), known.pool, known.num_classes, [l2])
    return Outcome(rank(model.scores(scaled(row.test)))[None], {"l2": l2}, accuracy)


def _few_labels(row: SplitFeatures, known: Known, draws: Draws, goal: Goal) -> Outcome:
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
        l2, accuracy = _walk(FEW_STRENGTHS, paths, scaled(row.validation), known.validation, goal)
        tried.append(((name, l2), accuracy))
    (name, l2), accuracy = _best(tried)
    scaled = SCALINGS[name].of(row.pool)
    pool, test = scaled(row.pool), scaled(row.test)
    ranked = []
    for drawn in draws.scoring:
        (model,) = fit_path(pool[drawn], known.pool[drawn], known.num_classes, [l2])
        ranked.append(rank(model.scores(test)))
    return Outcome(torch.stack(ranked), {"l2": l2, "scaling": name}, accuracy)


def _walk(
    strengths: Sequence[float],
    paths: Sequence[Iterator[LinearModel]],
    validation: Tensor,
    truth: Tensor,
    goal: Goal,
) -> tuple[float, float]:
    """Walk the paths of all draws together; return the best strength and its mean accuracy."""
    tried: list[tuple[float, float]] = []
    for l2 in strengths:
        shares = [goal(next(path).predict(validation), truth) for path in paths]
        tried.append((l2, sum(shares) / len(shares)))
        best = _best(tried)
        if len(tried) - tried.index(best) > PATIENCE:
            break
    return best


def _best(tried: Iterable[tuple[Choice, float]]) -> tuple[Choice, float]:
    """Return the pair of largest accuracy, the first of a tie."""
    return max(tried, key=lambda pair: pair[1])


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


def _neighbours(row: SplitFeatures, known: Known, truth: Labels, seed: int) -> list[dict[str, Any]]:
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


def check(
    rows: Mapping[str, SplitFeatures], labels: SplitLabels, class_names: Sequence[str]
) -> Known:
    """Check everything but the values of the test labels; return the labels that may be seen.

    Raises:
        DataError: as ``evaluate_features``.
    """
    known = known_labels(labels, class_names)
    for split in ("train", "validation", "test"):
        for name, row in rows.items():
            count = len(getattr(labels, split))
            _check_features(name, split, getattr(row, split), row.train.shape[1], count)
    return known


def _check_features(name: str, split: str, features: Tensor, width: int, count: int) -> None:
    if features.shape != (count, width):
        raise DataError(
            f"the {split} features of {name!r} must be ({count}, {width}): one row a label, as "
            f"wide as train; found {tuple(features.shape)}"
        )
    if not features.isfinite().all():
        raise DataError(
            f"the {split} features of {name!r} are not all finite: the network diverged"
        )
