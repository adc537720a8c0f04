"""Pictures beside the views that training would cut from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from looktwice.errors import BadPictureError, DataError, UsageError
from looktwice.report.numbers import NBSP, drawn

if TYPE_CHECKING:
    from looktwice.augment import Policy
    from looktwice.data import Source

COLOUR_ONLY = ("saturation", "hue", "gray")
SELF_EVIDENT = frozenset({"factor", "shift", "sigma", "degrees"})  # beside an operation's name
TRIES = 4  # candidates for each picture that is asked for: unreadable ones are passed over
FIRST = 100  # pictures among which one must be readable

Box = tuple[float, float, float, float]
Pixels = NDArray[np.uint8]
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """One view of a picture.

    Attributes:
        pixels: (S, S, C) uint8.
        box: (top, left, height, width) of its crop, in pixels of the picture.
        operations: name and sampled numbers of every operation that was applied, in order; the
            crop is the first.
    """

    pixels: Pixels
    box: Box
    operations: tuple[tuple[str, dict[str, float]], ...]

    @property
    def in_words(self) -> tuple[str, ...]:
        """The operations in order, as ``flip``, ``brightness 1.21``, ``hue −0.031``.

        The crop is not among them, and what changes only colours is left out of grey pictures.
        """
        told = [part for name, values in self.operations[1:] for part in _parts(name, values)]
        hidden = COLOUR_ONLY if self.pixels.shape[2] == 1 else ()
        return tuple(" ".join(words) for words in told if words[0] not in hidden)

    @property
    def crop_in_words(self) -> str:
        """The crop, as ``crop 20 × 18 at 4, 7``: width × height at left, top."""
        name, values = self.operations[0]
        return " ".join((name, *tell(values)))


@dataclass(frozen=True)
class ViewSet:
    """A picture, (H, W, C) uint8, with the views that were cut from it."""

    index: int
    identifier: str
    picture: Pixels
    views: tuple[View, ...]


def tell(values: Mapping[str, float]) -> list[str]:
    """Return sampled numbers with their names, a box as ``width × height at left, top``."""
    told, others = [], dict(values)
    if {"top", "left", "height", "width"} <= others.keys():
        top, left, height, width = (
            drawn(others.pop(side)) for side in ("top", "left", "height", "width")
        )
        told.append(f"{width}{NBSP}×{NBSP}{height} at{NBSP}{left},{NBSP}{top}")
    return told + [f"{name} {drawn(value)}" for name, value in others.items()]


def _parts(name: str, values: dict[str, float]) -> list[tuple[str, ...]]:
    """Return an operation as its words; the jitter's parts are operations of their own."""
    if name == "jitter":
        return [(part, drawn(value)) for part, value in values.items()]
    if len(values) == 1 and values.keys() <= SELF_EVIDENT:
        return [(name, *map(drawn, values.values()))]
    return [(name, ", ".join(tell(values)))] if values else [(name,)]


def view_pairs(
    source: Source, policy: Policy, count: int = 8, seed: int = 0, epoch: int = 0
) -> list[ViewSet]:
    """Return ``count`` pictures, drawn by seed, with the views of one epoch.

    Of labelled pictures every class that was drawn comes once before any comes twice.
    The views are those that training with this seed would see in this epoch, of pictures decoded in
    full.

    Raises:
        UsageError: count is below 1.
        DataError: none of the pictures that were tried can be read.
    """
    if count < 1:
        raise UsageError(f"a preview needs at least one picture, not {count}")
    tried = _tried(source, TRIES * count, seed)
    readable = [(i, picture) for i in tried if (picture := _picture(source, i)) is not None]
    if not readable:
        raise DataError(f"none of {len(tried)} pictures tried in {source.name} can be read")
    readable = readable[:count]
    pictures = [picture for _, picture in readable]
    rows = policy.sample(
        seed=seed,
        epoch=epoch,
        indices=np.array([index for index, _ in readable]),
        heights=np.array([picture.shape[0] for picture in pictures]),
        widths=np.array([picture.shape[1] for picture in pictures]),
    )
    views = policy.apply(pictures, rows)
    return [
        ViewSet(index, source.identifier(index), picture, made_views(policy, rows[i], views, i))
        for i, (index, picture) in enumerate(readable)
    ]


def first_readable(source: Source) -> tuple[str, Pixels]:
    """Return identifier and pixels of a source's first readable picture (DataError: none)."""
    tried = range(min(len(source), FIRST))
    for index in tried:
        if (picture := _picture(source, index)) is not None:
            return source.identifier(index), picture
    raise DataError(f"none of {len(tried)} pictures tried in {source.name} can be read")


def _tried(source: Source, size: int, seed: int) -> list[int]:
    size = min(len(source), size)
    order: list[int] = np.random.default_rng(seed).choice(len(source), size, False).tolist()
    if source.labels is None:
        return order
    seen: Counter[int] = Counter()
    turns: list[tuple[int, int, int]] = []
    for index in order:
        label = int(source.labels[index])
        turns.append((seen[label], len(turns), index))
        seen[label] += 1
    return [index for _, _, index in sorted(turns)]


def _picture(source: Source, index: int) -> Pixels | None:
    try:
        return source.image(index)
    except BadPictureError:
        return None


def made_views(
    policy: Policy, rows: Rows, made: Pixels | tuple[Pixels, ...], picture: int
) -> tuple[View, ...]:
    """Return one picture's views, from its rows (V, R) and what `Policy.apply` made of all."""
    return tuple(
        View(
            view_pixels(policy, made, picture, view),
            policy.crop_box(row),
            tuple(policy.describe(row, view)),
        )
        for view, row in enumerate(rows)
    )


def view_pixels(
    policy: Policy, made: Pixels | tuple[Pixels, ...], picture: int, view: int
) -> Pixels:
    """Return one view of one picture, (S, S, C), from what `Policy.apply` made."""
    arrays = made if isinstance(made, tuple) else (made,)
    group, array = next(
        (group, array)
        for group, array in zip(policy.groups.values(), arrays, strict=True)
        if view in group
    )
    pixels: Pixels = array[picture, group.index(view)]
    return pixels
