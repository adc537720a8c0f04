"""Labels: which may be seen when, and which few of them are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from looktwice.errors import DataError

NUM_DRAWS = 5

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class SplitLabels:
    """Labels int64 (N,), 0 .. C - 1, of the pictures whose features are given."""

    train: Labels | None
    validation: Labels | None
    test: Labels | None


@dataclass(frozen=True)
class Known:
    """The labels that fitting and choosing may see: those of test are not here."""

    train: Tensor
    validation: Tensor
    num_classes: int

    @property
    def pool(self) -> Tensor:
        """Train, then validation: what the final fit learns from."""
        return torch.cat([self.train, self.validation])


@dataclass(frozen=True)
class Draws:
    """Labelled pictures of each draw: indices into train to choose with, into the pool to score."""

    choosing: list[Tensor]
    scoring: list[Tensor]


def known_labels(labels: SplitLabels, class_names: Sequence[str]) -> Known:
    """Check all labels but the values of test's, and return those that may be seen.

    Raises:
        DataError: labels are missing, out of range, of one class, or a class is not in train.
    """
    for split in ("train", "validation", "test"):
        given = getattr(labels, split)
        if given is None:
            raise DataError(
                f"the {split} pictures have no labels: evaluation needs them, for instance as one "
                "folder a class"
            )
        if len(given) == 0:
            raise DataError(
                f"the {split} split has no pictures: evaluation needs some in every split"
            )
    assert labels.train is not None
    assert labels.validation is not None
    _check_classes(labels.train, labels.validation, class_names)
    train, validation = (torch.as_tensor(given) for given in (labels.train, labels.validation))
    return Known(train, validation, len(class_names))


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


def draw(known: Known, amount: str, seed: int, *, num_draws: int = NUM_DRAWS) -> Draws:
    """Draw labelled pictures of every class, the same for all rows.

    Args:
        known: what may be seen.
        amount: "labels-N": N pictures of each class, all of a class that has fewer;
            "percent-P": P % of each class, rounded, at least one.
        seed: of the draws.
        num_draws: L.
    """
    kind, number = parse_amount(amount)
    generator = np.random.default_rng([seed, number] if kind == "labels" else [seed, number, 1])
    count = _counting(kind, number)

    def once(labels: Tensor) -> Tensor:
        chosen = []
        for label in range(known.num_classes):
            members = np.flatnonzero(labels.numpy() == label)
            chosen.append(generator.permutation(members)[: count(len(members))])
        return torch.from_numpy(np.sort(np.concatenate(chosen)))

    pool = known.pool
    return Draws(
        [once(known.train) for _ in range(num_draws)], [once(pool) for _ in range(num_draws)]
    )


def parse_amount(amount: str) -> tuple[str, int]:
    """Split "labels-10" or "percent-1" into its kind and its number."""
    kind, number = amount.split("-")
    return kind, int(number)


def _counting(kind: str, number: int) -> Callable[[int], int]:
    if kind == "labels":
        return lambda _: number
    return lambda size: max(1, round(number / 100 * size))


def amount_title(amount: str) -> str:
    """Return an amount in words."""
    kind, number = parse_amount(amount)
    if kind == "percent":
        return f"{number} % of the labels"
    return f"{number} label{'s' if number > 1 else ''} a class"


def amount_note(amount: str, known: Known, class_names: Sequence[str]) -> str | None:
    """Say which classes have fewer labelled pictures than "labels-N" asks for."""
    kind, asked = parse_amount(amount)
    if kind != "labels":
        return None
    counts = torch.bincount(known.train, minlength=known.num_classes).tolist()
    few = [f"{class_names[label]!r} ({n})" for label, n in enumerate(counts) if n < asked]
    if not few:
        return None
    listed = ", ".join(few[:3]) + (f" and {len(few) - 3} more" if len(few) > 3 else "")
    return f"all that there are, in classes with fewer than {asked} pictures to train on: {listed}"
