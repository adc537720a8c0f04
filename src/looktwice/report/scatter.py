"""A scatter of many points as a few SVG paths, with the classes' names at their middles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from looktwice.report.templating import printable, shorten

EXTENT = 10_000  # units a side: fine enough to zoom in; templates/map.js has the same
HUES = 10  # templates/map.css has as many
GLYPHS = ("●", "○", "■")  # shapes by tens of classes: told apart beyond the hues
UNLABELLED = -1
NARROW = 300.0  # pixels: the least side a scatter is shown at, where names must not collide
LINE = 17.0  # pixels: height of a name
LETTER = 7.5  # pixels: a mean letter of a name

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """The points of one class: a path of dots."""

    hue: int | str
    shape: int
    path: str


@dataclass(frozen=True)
class Label:
    """A class's name; its middle in per cent of the plot."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Scatter:
    """Points by class, and names where they do not collide."""

    groups: tuple[Group, ...]
    labels: tuple[Label, ...]
    description: str


def place(flat: NDArray[np.float32]) -> Places:
    """Return places (N, 2) as integers 0 to `EXTENT`, centred, equally scaled both ways."""
    low, high = flat.min(axis=0), flat.max(axis=0)
    size = float((high - low).max()) or 1.0
    centred: NDArray[np.float64] = (flat.astype(np.float64) - (low + high) / 2) / size
    return np.rint(centred * EXTENT + EXTENT / 2).astype(np.int64)


def scatter(
    places: Places, labels: Places, class_names: Sequence[str], description: str
) -> Scatter:
    """Return a scatter of points (N, 2), as `place` gives them, by labels (N,), -1 for none."""
    known = [int(label) for label in np.unique(labels)]
    anchors = class_anchors(places, labels)
    return Scatter(
        groups=tuple(Group(hue(k), shape(k), _path(places[labels == k])) for k in known),
        labels=_apart([(x, y, class_name(class_names, k)) for k, x, y in anchors]),
        description=description,
    )


def hue(label: int) -> int | str:
    """Return which hue a class has; its shape tells what hues repeat."""
    return "none" if label == UNLABELLED else label % HUES


def shape(label: int) -> int:
    """Return which of `GLYPHS` a class has."""
    return max(0, label) // HUES % len(GLYPHS)


def class_name(class_names: Sequence[str], label: int) -> str:
    """Return a class's name as it can be shown."""
    return "no label" if label == UNLABELLED else str(printable(shorten(class_names[label])))


def class_anchors(places: Places, labels: Places) -> list[tuple[int, int, int]]:
    """Return (class, x, y) of each class's most central point, largest classes first.

    That is the point nearest to the medians: always one of the class.
    """
    found = []
    for label in np.unique(labels[labels != UNLABELLED]):
        members = places[labels == label]
        off = np.abs(members - np.median(members, axis=0)).sum(axis=1)
        x, y = members[int(off.argmin())]
        found.append((len(members), int(label), int(x), int(y)))
    return [(label, x, y) for _, label, x, y in sorted(found, key=lambda one: (-one[0], one[1]))]


def _path(places: Places) -> str:
    """Return a path of dots: lines of no length, which have round caps."""
    return "".join(f"M{x} {y}h0" for x, y in np.unique(places, axis=0).tolist())


def _apart(anchors: Sequence[tuple[int, int, str]]) -> tuple[Label, ...]:
    """Place names; each moves up or down by a line or two, or is left out."""
    placed: list[tuple[float, float, float]] = []
    labels = []
    for x, y, text in anchors:
        half = LETTER * min(len(text), 24) / 2
        centre = min(max(x * NARROW / EXTENT, half), NARROW - half)
        for step in (0, -1, 1, -2, 2):
            middle = y * NARROW / EXTENT + step * LINE
            if LINE / 2 <= middle <= NARROW - LINE / 2 and all(
                abs(centre - other) > half + room or abs(middle - height) >= LINE
                for other, height, room in placed
            ):
                placed.append((centre, middle, half))
                labels.append(
                    Label(100 * centre / NARROW, 100 * middle / NARROW, shorten(text, 24))
                )
                break
    return tuple(labels)
