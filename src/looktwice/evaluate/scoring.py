"""From predictions to numbers: what every protocol reports, and where test labels are read."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from looktwice.errors import DataError
from looktwice.evaluate.labels import Labels
from looktwice.evaluate.statistics import Doubles, gain_interval, over_pictures, share_interval

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


def pack(correct: NDArray[np.bool_]) -> list[str]:
    """Return whether draw l got picture t right, (L, T), as text: a line a draw, bits in base64."""
    return [base64.b64encode(np.packbits(draw).tobytes()).decode("ascii") for draw in correct]


def unpack(lines: Sequence[str], num_pictures: int) -> NDArray[np.bool_]:
    """Return what `pack` packed, (L, T)."""
    bits = [np.frombuffer(base64.b64decode(line), np.uint8) for line in lines]
    return np.unpackbits(np.stack(bits), axis=1, count=num_pictures).astype(bool)


def entries(
    outcomes: Outcomes,
    truth: Labels,
    num_classes: int,
    *,
    titles: Mapping[str, str],
    notes: Mapping[str, str | None] | None = None,
) -> list[dict[str, Any]]:
    """Score outcomes against test labels, one entry a protocol, ready for JSON.

    Each row has "accuracy" (top-1, the mean over draws) with its 95 % "interval"
    (`statistics.share_interval`), "sd" over draws, "balanced_accuracy" (the mean of "per_class"
    over the classes that test has), "top5" with "top5_interval" where there are more than five
    classes, and what was chosen.
    "differences" are the first row minus each other, paired by test pictures and draws
    (`statistics.gain_interval`).
    "confusion" counts the first row's predictions over all draws, rows being true classes, and
    "right" tells which test pictures it got right (`unpack`), to pair it with others.

    Args:
        outcomes: what was predicted.
        truth: test labels (T,).
        num_classes: C.
        titles: of the protocols.
        notes: what has to be said about a protocol.
    """
    return [
        _entry(name, rows, truth, num_classes, titles[name], (notes or {}).get(name))
        for name, rows in outcomes.items()
    ]


def _row(outcome: Outcome, truth: Labels, num_classes: int) -> dict[str, Any]:
    accuracy = over_pictures(_hits(outcome, truth))
    recalls = _recalls(outcome.predicted, truth, num_classes)
    row = {
        "accuracy": accuracy.mean,
        "interval": list(share_interval(accuracy, len(truth))),
        "chosen": outcome.chosen,
        "validation_accuracy": outcome.validation_accuracy,
        "sd": accuracy.sd,
        "draws": accuracy.seeds,
        "balanced_accuracy": float(np.nanmean(recalls)),
        "per_class": [None if np.isnan(recall) else float(recall) for recall in recalls],
    }
    if num_classes > TOP:
        top = over_pictures(_hits(outcome, truth, TOP))
        row["top5"] = top.mean
        row["top5_interval"] = list(share_interval(top, len(truth)))
    return row


def _hits(outcome: Outcome, truth: Labels, top: int = 1) -> Doubles:
    """Return whether the class is among the `top` first, 0 or 1, (L, T)."""
    hits: Doubles = (outcome.ranked.numpy()[:, :, :top] == truth[:, None]).any(axis=2).astype(float)
    return hits


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
    rows: Mapping[str, Outcome],
    truth: Labels,
    num_classes: int,
    title: str,
    note: str | None,
) -> dict[str, Any]:
    (reference, first), *others = rows.items()
    differences = {}
    for row, other in others:
        gain = over_pictures(_hits(first, truth) - _hits(other, truth))
        interval = list(gain_interval(gain, len(truth)))
        differences[row] = {"difference": gain.mean, "interval": interval}
    entry = {
        "name": name,
        "title": title,
        "reference": reference,
        "rows": {row: _row(outcome, truth, num_classes) for row, outcome in rows.items()},
        "differences": differences,
        "confusion": confusion(truth, first.predicted, num_classes),
        "right": pack(first.predicted == truth),
    }
    return entry | ({"note": note} if note else {})
