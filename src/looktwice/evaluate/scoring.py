"""From predictions to numbers: what every protocol reports, and where test labels are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from looktwice.errors import DataError
from looktwice.evaluate.bootstrap import Accuracy, interval, pack, resample
from looktwice.evaluate.labels import Labels

TOP = 5


@dataclass(frozen=True)
class Outcome:
    """What one row does under one protocol, before any test label is read.

    Attributes:
        ranked: int64 (L, T, K), from `rank`: one row a draw of labels or a seed.
        chosen: on validation, or by the protocol.
        validation_accuracy: of what was chosen, 0 .. 1; None where nothing was.
    """

    ranked: Tensor
    chosen: dict[str, float | str]
    validation_accuracy: float | None = None

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class of each test picture in each draw, (L, T)."""
        first: NDArray[np.int64] = self.ranked[:, :, 0].numpy()
        return first


Outcomes = Mapping[str, Mapping[str, Outcome]]
"""By protocol, then by row; differences are taken from the first row of each protocol."""


def rank(scores: Tensor) -> Tensor:
    """Return the K = min(5, C) classes of largest score, falling: scores (T, C) to int64 (T, K).

    Of classes that tie the lowest comes first.
    """
    return scores.argsort(dim=1, descending=True, stable=True)[:, :TOP]


def share(predicted: Tensor, truth: Tensor) -> float:
    """Return how often two (N,) agree, 0 .. 1."""
    return float((predicted == truth).double().mean())


def balanced_share(predicted: Tensor, truth: Tensor) -> float:
    """Return how often two (N,) agree, 0 .. 1, every class in `truth` having the same weight.

    Of classes of equal size it is `share`: rounded, so that ties stay ties.
    """
    hits = (predicted == truth).double()
    sizes = torch.bincount(truth)
    found = torch.bincount(truth, weights=hits)
    return round(float((found[sizes > 0] / sizes[sizes > 0]).mean()), 12)


def read_truth(test_labels: ArrayLike | None, num_classes: int) -> Labels:
    """Read the test labels (T,): the one place where that happens, after all is fitted.

    Raises:
        DataError: one of them lies outside 0 .. num_classes - 1.
    """
    assert test_labels is not None
    truth = np.asarray(test_labels)
    if len(truth) and not (truth.min() >= 0 and truth.max() < num_classes):
        raise DataError(f"a test label lies outside 0 .. {num_classes - 1}")
    return truth


def entries(
    outcomes: Outcomes,
    truth: Labels,
    num_classes: int,
    *,
    titles: Mapping[str, str],
    notes: Mapping[str, str | None] | None = None,
    seed: int,
) -> list[dict[str, Any]]:
    """Score outcomes against test labels, one entry a protocol, ready for JSON.

    Each row has "accuracy" (top-1, the mean over draws) with its 95 % "interval", "sd" over
    draws, "balanced_accuracy" (the mean of "per_class" over the classes that test has), "top5"
    with "top5_interval" where there are more than five classes, and what was chosen.
    "differences" are the first row minus each other, paired by test pictures and draws;
    "confusion" counts the first row's predictions over all draws, rows being true classes, and
    "right" tells which test pictures it got right (`bootstrap.unpack`), to pair it with others.

    Args:
        outcomes: what was predicted.
        truth: test labels (T,).
        num_classes: C.
        titles: of the protocols.
        notes: what has to be said about a protocol.
        seed: of the bootstrap, one for all rows and protocols.
    """
    keys = [(protocol, row) for protocol, rows in outcomes.items() for row in rows]
    ranked = [outcomes[protocol][row].ranked.numpy() for protocol, row in keys]
    hits = [found == truth[:, None] for found in ranked]
    first = [hit[:, :, 0] for hit in hits]
    in_top = [hit.any(axis=2) for hit in hits] if num_classes > TOP else []
    scored = resample(first + in_top, seed)
    accuracies = dict(zip(keys, scored, strict=False))
    tops = dict(zip(keys, scored[len(keys) :], strict=False))
    return [
        _entry(
            name,
            {row: accuracies[name, row] for row in rows},
            {
                row: _row(accuracies[name, row], tops.get((name, row)), outcome, truth, num_classes)
                for row, outcome in rows.items()
            },
            next(iter(rows.values())).predicted,
            truth,
            num_classes,
            titles[name],
            (notes or {}).get(name),
        )
        for name, rows in outcomes.items()
    ]


def _row(
    accuracy: Accuracy,
    top: Accuracy | None,
    outcome: Outcome,
    truth: Labels,
    num_classes: int,
) -> dict[str, Any]:
    recalls = _recalls(outcome.predicted, truth, num_classes)
    row = {
        "accuracy": accuracy.mean,
        "interval": interval(accuracy.resampled),
        "chosen": outcome.chosen,
        "validation_accuracy": outcome.validation_accuracy,
        "sd": accuracy.sd,
        "draws": len(accuracy.draws),
        "balanced_accuracy": float(np.nanmean(recalls)),
        "per_class": [None if np.isnan(recall) else float(recall) for recall in recalls],
    }
    if top is not None:
        row["top5"] = top.mean
        row["top5_interval"] = interval(top.resampled)
    return row


def _recalls(predicted: Labels, truth: Labels, num_classes: int) -> NDArray[np.float64]:
    """Return the share of each class that is found (C,); nan where test has none of it."""
    counts = np.array(confusion(truth, predicted, num_classes), np.float64)
    sizes = counts.sum(axis=1)
    recalls: NDArray[np.float64] = np.full(num_classes, np.nan)
    np.divide(counts.diagonal(), sizes, out=recalls, where=sizes > 0)
    return recalls


def confusion(truth: Labels, predicted: Labels, num_classes: int) -> list[list[int]]:
    """Count predictions (L, T) or (T,) of test pictures (T,): rows are true classes, (C, C)."""
    pairs = (truth * num_classes + predicted).ravel()
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    found: list[list[int]] = counts.tolist()
    return found


def _entry(
    name: str,
    accuracies: Mapping[str, Accuracy],
    rows: dict[str, dict[str, Any]],
    predicted: Labels,
    truth: Labels,
    num_classes: int,
    title: str,
    note: str | None,
) -> dict[str, Any]:
    (reference, first), *others = accuracies.items()
    differences = {
        row: {
            "difference": first.mean - other.mean,
            "interval": interval(first.resampled - other.resampled),
        }
        for row, other in others
    }
    entry = {
        "name": name,
        "title": title,
        "reference": reference,
        "rows": rows,
        "differences": differences,
        "confusion": confusion(truth, predicted, num_classes),
        "right": pack(predicted == truth),
    }
    return entry | ({"note": note} if note else {})
