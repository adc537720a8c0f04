"""The supervised twin: the run's network, views and steps, trained on labels instead.

It is a run of its own beside the other, ``<run>-supervised``, with the same configuration but the
method, so it can be looked at, reported and resumed like any run. Both are measured by the standard
protocols on frozen features; the twin's own classifier, which saw the labels of train alone, is
what papers call supervised accuracy.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.nn.functional as F

from looktwice import config, train
from looktwice.checkpoint import checkpoint_name, load_checkpoint
from looktwice.config import Config
from looktwice.data import Splits
from looktwice.errors import RunError, UsageError
from looktwice.evaluate.cached import cached_features
from looktwice.evaluate.protocol import STANDARD, SplitFeatures, check, predict, score
from looktwice.evaluate.scoring import Outcome, entries, rank, read_truth
from looktwice.evaluate.subject import Subject
from looktwice.features import encode, prepare
from looktwice.models import read_encoder
from looktwice.run import Run, open_run


def run(subject: Subject, *, seed: int = 0, file: TextIO | None = None) -> dict[str, Any]:
    """Train the twin, or go on with it, and measure both.

    Args:
        subject: a run.
        seed: of the draws of labels.
        file: where the twin's progress is printed; standard error by default.

    Raises:
        UsageError: the encoder is no run's, the run is supervised itself, or other pictures are
            given than those it was trained on.
        RunError: another run stands where the twin's belongs.
        DataError: the pictures have no labels, or too many cannot be read.
    """
    own = subject.need_run("supervised")
    subject.labelled()
    if own.config().method.name == "supervised":
        raise UsageError(f"protocol supervised: {own.path} is supervised itself; give another run")
    if not subject.trained_here():
        raise UsageError(
            f"protocol supervised trains on the pictures of {own.path} itself: leave --data out"
        )
    twin = twin_run(own, subject.splits, file or sys.stderr)
    cached = cached_features(subject)
    encoder = read_encoder(twin.encoder_file).to(subject.device)
    supervised = SplitFeatures(
        *(encode(encoder, prepare(encoder, part)[0]) for part in subject.labelled())
    )
    rows = {"encoder": cached.rows.pop("encoder"), "supervised": supervised, **cached.rows}
    known = check(rows, cached.labels, cached.class_names)
    outcomes = predict(rows, known, STANDARD, seed=seed)
    classifier = {"classifier": {"supervised": _own_classifier(twin, supervised)}}
    truth = read_truth(cached.labels.test, known.num_classes)
    titles = {"classifier": "its own classifier"}
    found = [
        *score(outcomes, truth, known, cached.class_names),
        *entries(classifier, truth, known.num_classes, titles=titles),
    ]
    return {"data": cached.data, "twin": str(twin.path), "protocols": found}


def twin_run(own: Run, splits: Splits, file: TextIO) -> Run:
    """Return the finished twin of a run, trained now where it is missing or unfinished.

    Raises:
        RunError: another run stands in its place.
    """
    path = own.path.with_name(f"{own.path.name}-supervised")
    wanted = twin_config(own.config())
    if not path.exists():
        command = f"looktwice eval {shlex.quote(str(own.path))} --protocol supervised"
        return train.start(wanted, path, command=command, file=file, splits=splits)
    found = open_run(path).config()
    if found != wanted:
        raise RunError(
            f"{path} is not the supervised twin of {own.path}: {_first_difference(found, wanted)}; "
            "move it away"
        )
    return train.resume(path, file=file, splits=splits)


def twin_config(settings: Config) -> Config:
    """Return a run's configuration with the method `supervised`, which has no projection head."""
    changed = {"method.name": "supervised", "model.head": "none"}
    return config.with_values(settings, changed)


def _first_difference(found: Config, wanted: Config) -> str:
    ours, theirs = config.flatten(wanted), config.flatten(found)
    keys = [key for key in ours if ours[key] != theirs[key]]
    return f"{keys[0]} is {theirs[keys[0]]!r} there" if keys else "its recipe is another"


def _own_classifier(twin: Run, features: SplitFeatures) -> Outcome:
    path: Path = twin.checkpoints / checkpoint_name(twin.config().train.steps)
    weights = load_checkpoint(path)[0]["method"]

    def scores(part: torch.Tensor) -> torch.Tensor:
        return F.linear(part, weights["classifier.weight"], weights["classifier.bias"])

    return Outcome(rank(scores(features.test))[None], {})
