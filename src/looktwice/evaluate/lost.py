"""What the projection head loses: which transformation was applied, told from h and from z.

arXiv 2002.05709, table 3: colour or grey, rotation (four ways), original or corrupted, original or
Sobel-filtered. Every picture is transformed, or not, once, by a seeded fair draw; the four tasks
are independent. The corruption is the paper's additive Gaussian noise, of standard deviation
25 levels of 255 here (the paper states none); Sobel's filter and the grey are those of the
augmentations. Departures: the probe is the linear one, not an MLP; and the paper adds rotation,
noise and Sobel to the views of its pre-training, where here the run is measured as it was trained.
Grey pictures have no colour to lose: that task is left out. The pictures' own labels are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from looktwice.augment import CenterCrop, GaussianNoise, Grayscale, Operation, Policy, Sobel
from looktwice.errors import DataError
from looktwice.evaluate.cached import check_readable
from looktwice.evaluate.labels import SplitLabels
from looktwice.evaluate.layers import layer_features, projection_head
from looktwice.evaluate.protocol import SplitFeatures, check, predict
from looktwice.evaluate.scoring import Outcome, entries, read_truth
from looktwice.evaluate.subject import Subject
from looktwice.features import encode, prepare

NOISE = 25 / 255
OPERATIONS: Mapping[str, Operation] = {
    "colour": Grayscale(p=1.0),
    "corrupted": GaussianNoise(sigma=(NOISE, NOISE), p=1.0),
    "sobel": Sobel(p=1.0),
}
TASKS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "colour": ("colour or grey", ("colour", "grey")),
    "rotation": ("rotation", ("0°", "90°", "180°", "270°")),
    "corrupted": ("original or noisy", ("original", "noisy")),
    "sobel": ("original or Sobel", ("original", "Sobel")),
}
"""Each task's title and classes."""

Numbers = NDArray[np.int64]


def run(subject: Subject, *, seed: int = 0) -> dict[str, Any]:
    """Tell transformations from h and z with the linear probe.

    Args:
        subject: what is evaluated; a run whose method has a projection head.
        seed: of the transformations.

    Raises:
        UsageError: the encoder is no run's, or its method has no projection head.
        RunError: the run has no whole checkpoint, or a method of one's own.
        DataError: there are no test pictures, or too many cannot be read.
    """
    found_pictures = pictures(subject)
    counts = dict(zip(("train", "validation", "test"), map(len, found_pictures), strict=True))
    data = {"name": subject.splits.train.name, **counts}
    grey = subject.splits.train.channels == 1
    found = []
    for task, by_layer, truth in outcomes(subject, found_pictures, seed=seed):
        title, classes = TASKS[task]
        (entry,) = entries({task: by_layer}, truth, len(classes), titles={task: title})
        found.append({**entry, "classes": list(classes)})
    note = {"note": "grey pictures: colour or grey is left out"} if grey else {}
    return {"data": data, "protocols": found, **note}


def outcomes(
    subject: Subject, pictures: list[Tensor], *, seed: int = 0
) -> Iterator[tuple[str, dict[str, Outcome], Numbers]]:
    """Yield each task, what the linear probe predicts from h and from z, and the truth (T,).

    Args:
        subject: as in `run`, and with its errors.
        pictures: of `pictures`.
        seed: of the transformations.
    """
    head = projection_head(subject, "lost")
    for number, (task, (_, classes)) in enumerate(TASKS.items()):
        if task == "colour" and subject.splits.train.channels == 1:
            continue
        generator = np.random.default_rng([seed, number])
        labels = [generator.integers(len(classes), size=len(part)) for part in pictures]
        made = [
            transformed(task, part, given, seed=seed + place)
            for place, (part, given) in enumerate(zip(pictures, labels, strict=True))
        ]
        rows = _rows(subject, head, made)
        given = SplitLabels(*labels)
        known = check(rows, given, classes)
        by_layer = predict(rows, known, ("linear",), seed=seed)["linear"]
        yield task, by_layer, read_truth(given.test, known.num_classes)


def pictures(subject: Subject) -> list[Tensor]:
    """Return the readable pictures of train, validation and test, uint8 (N, C, S, S).

    Raises:
        DataError: there are no test pictures, or too many cannot be read.
    """
    splits = subject.splits
    if splits.test is None:
        raise DataError(
            f"{splits.train.name!r} has no test pictures, as it has no labels: give a folder test/ "
            "beside train/"
        )
    found = []
    for part in (splits.train, splits.validation, splits.test):
        prepared, kept = prepare(subject.encoder, part)
        check_readable(part, kept, subject.max_bad)
        found.append(prepared)
    return found


def transformed(task: str, pictures: Tensor, labels: Numbers, *, seed: int) -> Tensor:
    """Transform pictures uint8 (N, C, S, S) as their labels (N,) say; 0 leaves a picture as it is.

    Rotation turns by the label times 90 degrees, counter-clockwise.
    """
    result = pictures.clone()
    for label in range(1, len(TASKS[task][1])):
        chosen = torch.from_numpy(np.flatnonzero(labels == label))
        if task == "rotation":
            result[chosen] = torch.rot90(pictures[chosen], label, dims=(2, 3))
        elif len(chosen):
            result[chosen] = _applied(OPERATIONS[task], pictures[chosen], chosen, seed)
    return result


def _applied(operation: Operation, pictures: Tensor, indices: Tensor, seed: int) -> Tensor:
    side = pictures.shape[2]
    views = Policy(((CenterCrop(side), operation),))(
        pictures.permute(0, 2, 3, 1).contiguous().numpy(),
        seed=seed,
        epoch=0,
        indices=indices.numpy(),
    )
    assert not isinstance(views, tuple)
    return torch.from_numpy(views[:, 0]).permute(0, 3, 1, 2)


def _rows(subject: Subject, head: nn.Module, made: list[Tensor]) -> dict[str, SplitFeatures]:
    features = SplitFeatures(*(encode(subject.encoder, part) for part in made))
    layers = layer_features(features, head)
    return {"h": layers["h"], "z": layers["z"]}
