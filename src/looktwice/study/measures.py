"""What is measured of a run for a study, by name.

``linear``, ``knn``, ``labels-10`` (any number), ``percent-1``: as in `evaluate.protocol`,
everything chosen on validation, classes having equal weight there as on test. ``linear@48``: with
pictures at 48 px. ``linear-z``: of the projection head's output. ``lost``: `evaluate.lost`, task by
task, from h and from z.
``contrastive``: how often the training task was solved in the last epoch. ``bound``: the InfoNCE
bound on held-out pictures (`evaluate.health`); ``rank``: the effective rank of their features.
``bits``, ``histogram``: what is in the views (`views`). ``gradient``: see `gradients`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data import Source, Splits
from looktwice.errors import UsageError, did_you_mean
from looktwice.evaluate import health, layers, lost
from looktwice.evaluate.features import raw_pixels
from looktwice.evaluate.labels import SplitLabels, amount_title
from looktwice.evaluate.protocol import SplitFeatures, check, predict
from looktwice.evaluate.scoring import Outcome, balanced_share, read_truth
from looktwice.evaluate.subject import Subject, open_subject
from looktwice.features import encode, prepare
from looktwice.metrics import effective_rank
from looktwice.models import Encoder
from looktwice.monitor import sample
from looktwice.run import Run, read_metrics
from looktwice.study.gradients import gradient_cosines
from looktwice.study.views import bits_in_views, found_by_histogram

Record = dict[str, Any]
ENCODER: Final = "encoder"
BASELINES: Final = ("raw-pixels", "untrained")

_SCORE = re.compile(r"(knn|linear|(?:labels|percent)-[1-9]\d*)(-z)?(?:@([1-9]\d*))?")

TITLES: Final[Mapping[str, str]] = {
    "linear": "linear probe",
    "knn": "weighted k-NN",
    "contrastive": "contrastive accuracy",
    "histogram": "found by colour histogram",
    "bound": "InfoNCE bound",
    "rank": "effective rank",
    "bits-png": "PNG size",
    "bits-pixel": "pixel entropy",
    "gradient-start": "cosine to the true gradient, before training",
    "gradient-end": "cosine to the true gradient, after training",
    "seconds": "training time",
    "memory_mb": "peak memory",
    "pictures_per_second": "speed",
}
UNITS: Final[Mapping[str, str]] = {
    "bound": "nats",
    "rank": "dimensions",
    "bits-png": "bits a picture",
    "bits-pixel": "bits a value",
    "gradient-start": "",
    "gradient-end": "",
    "seconds": "s",
    "memory_mb": "MB",
    "pictures_per_second": "pictures/s",
}
"""Of what is no share; the rest is in %."""


def check_measures(names: Iterable[str], where: str) -> None:
    """Raise UsageError for a name that is no measure."""
    for name in names:
        if name not in _OTHERS and not _SCORE.fullmatch(name):
            known = (*_OTHERS, "linear", "knn", "labels-10", "percent-1", "linear-z", "linear@32")
            raise UsageError(f"{where}: no measure is called {name!r}.{did_you_mean(name, known)}")


def parts(name: str) -> Callable[[str], bool]:
    """Return what tells the records of a measure: several begin with its name and a dash."""
    if name in ("lost", "bits", "gradient"):
        return lambda record: record.startswith(f"{name}-")
    return lambda record: record == name


def is_score(name: str, *, of_features: bool = False) -> bool:
    """Return whether a measure is an accuracy on labelled test pictures (of features, not of z)."""
    found = _SCORE.fullmatch(name)
    return found is not None and not (of_features and found[2])


def needs_head(name: str) -> bool:
    """Return whether a measure needs a projection head."""
    found = _SCORE.fullmatch(name)
    return name == "lost" or (found is not None and found[2] is not None)


def title(name: str) -> str:
    """Return a measure's name in words."""
    found = _SCORE.fullmatch(name)
    if not found:
        if name.startswith("lost-"):
            _, task, layer = name.split("-")
            return f"{lost.TASKS[task][0]}, from {layer}"
        return TITLES.get(name, name)
    protocol, z, side = found.groups()
    words = TITLES.get(protocol) or amount_title(protocol)
    return words + (" on z" if z else "") + (f", tested at {side} px" if side else "")


def measure(
    run: Run, splits: Splits, names: Sequence[str], rows: Sequence[str], *, seed: int
) -> dict[str, dict[str, Record]]:
    """Measure a finished run.

    Args:
        run: finished.
        splits: its pictures.
        names: of measures.
        rows: `ENCODER`, and any of `BASELINES`, which take the score measures alone.
        seed: of the draws of labels and of views.

    Returns:
        By row and measure. Scores have ``right``, one digit a test picture: in how many of
        ``draws`` it was right; ``truth``, the classes; ``balanced_accuracy``, the same on
        validation as ``validation_accuracy``, and what was ``chosen`` by it (for ``lost`` the plain
        one: its made-up classes are nearly equal). Other measures have a ``value``.

    Raises:
        DataError: pictures without labels, for a measure that needs them.
    """
    subject = open_subject(run.path, splits=splits)
    scores = [name for name in names if _SCORE.fullmatch(name)]
    features = _Features(subject)
    found: dict[str, dict[str, Record]] = {row: {} for row in rows}
    for name in scores:
        for row in rows:
            found[row][name] = _score(features, name, row, seed)
    if ENCODER in rows:
        for name in names:
            found[ENCODER] |= _OTHERS[name](subject, seed) if name in _OTHERS else {}
        found[ENCODER] |= _cost(run)
    return found


class _Features:
    """Features of labelled pictures, computed once for every network and side."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.pictures = functools.cache(self._pictures)
        self.of = functools.cache(self._of)

    def _pictures(self, side: int) -> list[tuple[Any, NDArray[np.int64]]]:
        return [prepare(_at(self.subject.encoder, side), part) for part in self.subject.labelled()]

    def _of(self, row: str, side: int) -> tuple[SplitFeatures, SplitLabels]:
        parts = self.subject.labelled()
        if row == "raw-pixels":
            found = [raw_pixels(part) for part in parts]
            return SplitFeatures(*(pixels for pixels, _ in found)), _labels(
                parts, [kept for _, kept in found]
            )
        pictures = self.pictures(side)
        network = _at(self.subject.networks[row], side)
        features = SplitFeatures(*(encode(network, prepared) for prepared, _ in pictures))
        return features, _labels(parts, [kept for _, kept in pictures])


def _at(encoder: Encoder, side: int) -> Encoder:
    """Return the encoder for whole pictures at another side."""
    spec = dataclasses.replace(encoder.spec, image_size=side or encoder.spec.image_size)
    return Encoder(encoder.backbone, spec).eval().to(encoder.mean.device)


def _labels(parts: Sequence[Source], kept: Sequence[NDArray[np.int64]]) -> SplitLabels:
    labels = []
    for part, indices in zip(parts, kept, strict=True):
        assert part.labels is not None, "labelled"
        labels.append(part.labels[indices])
    return SplitLabels(*labels)


def _score(features: _Features, name: str, row: str, seed: int) -> Record:
    found = _SCORE.fullmatch(name)
    assert found is not None
    protocol, z, side = found.groups()
    of_row, labels = features.of(row, int(side or 0))
    if z:
        head = layers.projection_head(features.subject, name)
        of_row = layers.layer_features(of_row, head)["z"]
    names = features.subject.labelled()[0].class_names
    assert names is not None
    known = check({row: of_row}, labels, names)
    found_by = predict({row: of_row}, known, (protocol,), seed=seed, goal=balanced_share)
    return _record(found_by[protocol][row], read_truth(labels.test, known.num_classes))


def _record(outcome: Outcome, truth: NDArray[np.int64]) -> Record:
    right = (outcome.predicted == truth).sum(axis=0)
    shares = [right[truth == label].mean() for label in np.unique(truth)]
    return {
        "right": "".join(map(str, right.tolist())),
        "draws": len(outcome.predicted),
        "truth": truth.tolist(),
        "balanced_accuracy": float(np.mean(shares) / len(outcome.predicted)),
        "validation_accuracy": outcome.validation_accuracy,
        "chosen": outcome.chosen,
    }


def _lost(subject: Subject, seed: int) -> dict[str, Record]:
    return {
        f"lost-{task}-{layer}": _record(outcome, truth)
        for task, by_layer, truth in lost.outcomes(subject, lost.pictures(subject), seed=seed)
        for layer, outcome in by_layer.items()
    }


def _contrastive(subject: Subject, seed: int) -> dict[str, Record]:  # noqa: ARG001
    records = read_metrics(subject.need_run("contrastive"))
    return {"contrastive": {"value": records[-1]["top1"]}}


def _bound(subject: Subject, seed: int) -> dict[str, Record]:
    encoder = _at(subject.encoder, subject.policy.size)  # so that views are those of training
    report = health.health_report(encoder, subject.splits.validation, subject.policy, seed=seed)
    infonce = report["features"]["infonce"]
    return {"bound": {"value": infonce["bound"], "ceiling": infonce["ceiling"]}}


def _rank(subject: Subject, seed: int) -> dict[str, Record]:  # noqa: ARG001
    pictures, _ = prepare(subject.encoder, sample(subject.splits.validation, health.MAX_PICTURES))
    return {"rank": {"value": effective_rank(encode(subject.encoder, pictures).double())}}


def _bits(subject: Subject, seed: int) -> dict[str, Record]:
    png, pixel = bits_in_views(subject.splits.validation, subject.policy, seed=seed)
    return {"bits-png": {"value": png}, "bits-pixel": {"value": pixel}}


def _histogram(subject: Subject, seed: int) -> dict[str, Record]:
    share = found_by_histogram(subject.splits.validation, subject.policy, seed=seed)
    return {"histogram": {"value": share}}


def _gradient(subject: Subject, seed: int) -> dict[str, Record]:  # noqa: ARG001
    start, end = gradient_cosines(subject.need_run("gradient"), subject.splits)
    return {"gradient-start": {"value": start}, "gradient-end": {"value": end}}


def _cost(run: Run) -> dict[str, Record]:
    """Return what the run took, as its last record says."""
    time = read_metrics(run)[-1]["time"]
    return {name: {"value": time[name]} for name in ("seconds", "memory_mb", "pictures_per_second")}


_OTHERS: Final[Mapping[str, Callable[[Subject, int], dict[str, Record]]]] = {
    "lost": _lost,
    "contrastive": _contrastive,
    "bound": _bound,
    "rank": _rank,
    "bits": _bits,
    "histogram": _histogram,
    "gradient": _gradient,
}
