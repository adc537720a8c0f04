"""Protocols on features that are computed once: k-NN, linear-fast, few-label, transfer."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from looktwice.data import Source, subset
from looktwice.errors import DataError, UsageError
from looktwice.evaluate.features import pixels_of
from looktwice.evaluate.labels import NUM_DRAWS, SplitLabels
from looktwice.evaluate.protocol import SplitFeatures, evaluate_features, measure_features
from looktwice.evaluate.subject import Subject
from looktwice.features import encode, stream

AMOUNTS = ("percent-1", "percent-10", "labels-1", "labels-10", "labels-100")

Kept = NDArray[np.int64]


@dataclass(frozen=True)
class Cached:
    """Features of the pictures that can be read.

    Attributes:
        rows: by name, the encoder first, then raw pixels and the other networks.
        labels: of the same pictures.
        kept: their indices in train, validation and test.
        data: what was measured on, for JSON.
        class_names: one a class.
    """

    rows: dict[str, SplitFeatures]
    labels: SplitLabels
    kept: tuple[Kept, Kept, Kept]
    data: dict[str, Any]
    class_names: tuple[str, ...]


def cached_features(subject: Subject) -> Cached:
    """Compute the features of every row once.

    Raises:
        DataError: the pictures have no labels, or too many cannot be read.
    """
    parts = subject.labelled()
    found = []
    for part in parts:
        found.append(_features(subject, part))
        check_readable(part, found[-1][1], subject.max_bad)
    train, validation, test = (indices for _, indices in found)
    kept = (train, validation, test)
    rows = {name: SplitFeatures(*(features[name] for features, _ in found)) for name in found[0][0]}
    labels = SplitLabels(*(_labels(p)[k] for p, k in zip(parts, kept, strict=True)))
    data = about_data(subject, kept)
    return Cached(rows, labels, kept, data, tuple(data["classes"]))


def _features(subject: Subject, source: Source) -> tuple[dict[str, Tensor], Kept]:
    """Return the features of every row, from one pass over the pictures, and where these are."""
    networks = subject.networks
    found: dict[str, list[Tensor]] = {name: [] for name in ("encoder", "raw-pixels", *networks)}
    kept = []
    prepares = [subject.encoder.prepare, pixels_of(source)]
    with closing(stream(source, prepares, threads=subject.threads)) as blocks:
        for indices, (pictures, pixels) in blocks:
            found["raw-pixels"].append(pixels)
            for name, network in networks.items():
                found[name].append(encode(network, pictures))
            kept.append(indices)
    return {name: torch.cat(features) for name, features in found.items()}, np.concatenate(kept)


def about_data(subject: Subject, kept: Sequence[Sized]) -> dict[str, Any]:
    """Return what was measured on, ready for JSON, from what was read of each split."""
    parts = subject.labelled()
    names = parts[0].class_names
    assert names is not None
    counts = dict(zip(("train", "validation", "test"), map(len, kept), strict=True))
    return {
        "name": parts[0].name,
        **counts,
        "unreadable": sum(map(len, parts)) - sum(counts.values()),
        "classes": list(names),
    }


def readable_part(subject: Subject, part: Source) -> Source:
    """Return the pictures of a part that can be read.

    Raises:
        DataError: too many cannot.
    """
    with closing(stream(part, [], threads=subject.threads)) as blocks:
        kept = np.concatenate([indices for indices, _ in blocks])
    check_readable(part, kept, subject.max_bad)
    return subset(part, kept)


def check_readable(part: Source, kept: Kept, max_bad: float) -> None:
    """Raise DataError where more than a share of the pictures cannot be read."""
    missing = len(part) - len(kept)
    if missing > max_bad * len(part):
        raise DataError(
            f"{missing} of the {len(part)} pictures in {part.name!r} cannot be read, more than "
            f"{max_bad:.3g} of them: repair or remove them"
        )


def _labels(source: Source) -> NDArray[np.int64]:
    assert source.labels is not None
    return source.labels


def standard(subject: Subject, *, seed: int = 0) -> dict[str, Any]:
    """Run what `looktwice eval` runs when no protocol is named; see `evaluate_features`."""
    cached = cached_features(subject)
    found = evaluate_features(cached.rows, cached.labels, cached.class_names, seed=seed)
    _point_at_sources(found["neighbours"], cached.kept, len(subject.splits.train))
    # Last: the test labels are in it, and nothing before their scoring may read them.
    data = {**cached.data, "test_sha256": subject.labelled()[2].fingerprint()}
    return {"data": data, **found}


def _point_at_sources(
    strips: list[dict[str, Any]], kept: tuple[Kept, Kept, Kept], num_train: int
) -> None:
    """Turn rows of readable pictures into indices of the sources: train, then validation."""
    train, validation, test = kept
    for strip in strips:
        strip["query"] = int(test[strip["query"]])
        strip["neighbours"] = [
            int(train[i]) if i < len(train) else num_train + int(validation[i - len(train)])
            for i in strip["neighbours"]
        ]


def knn(subject: Subject, *, seed: int = 0) -> dict[str, Any]:
    """Run weighted k-NN (MoCo's monitor), k and temperature chosen on validation."""
    return _measured(subject, ("knn",), seed)


def linear_fast(subject: Subject, *, seed: int = 0) -> dict[str, Any]:
    """Run the linear probe on features of whole pictures, solved to its optimum."""
    return _measured(subject, ("linear",), seed)


def few_label(subject: Subject, *, seed: int = 0, seeds: int = NUM_DRAWS) -> dict[str, Any]:
    """Run the linear probe with 1 % and 10 % of the labels, and with 1, 10 and 100 a class.

    Args:
        subject: what is evaluated.
        seed: of the draws of labels.
        seeds: number of draws.
    """
    return _measured(subject, AMOUNTS, seed, num_draws=seeds)


def transfer(subject: Subject, *, seed: int = 0) -> dict[str, Any]:
    """Run k-NN and the linear probe on pictures that the encoder was not trained on.

    Raises:
        UsageError: these are the pictures it was trained on.
    """
    if subject.trained_here():
        raise UsageError(
            f"protocol transfer: {subject.name} was trained on {subject.splits.train.name!r}; give "
            "other pictures with --data, or choose protocol linear-fast"
        )
    return _measured(subject, ("knn", "linear"), seed)


def _measured(
    subject: Subject, measures: Sequence[str], seed: int, *, num_draws: int = NUM_DRAWS
) -> dict[str, Any]:
    cached = cached_features(subject)
    found = measure_features(
        cached.rows, cached.labels, cached.class_names, measures, seed=seed, num_draws=num_draws
    )
    return {"data": cached.data, "protocols": found}
