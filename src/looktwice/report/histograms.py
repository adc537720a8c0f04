"""Histograms of similarities: geometry; the macro ``histogram`` of figures.html.j2 draws them.

Places as in `figures`: per cent of the plot along it and up, pixels for what keeps text apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from looktwice.report import numbers
from looktwice.report.figures import LETTER, Axis, spread

if TYPE_CHECKING:
    from looktwice.analysis import Similarities

BINS = 50
NARROW = 260.0  # pixels: the least width of a plot, where names must not collide
ROOM = 0.94  # of the height, for the highest bar

Heights = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """The outline of one kind of pairs, and its name above its middle, ``shift`` pixels aside."""

    kind: str
    points: str
    name: str
    x: float
    shift: float


@dataclass(frozen=True)
class Histogram:
    """Both kinds of pairs, by one encoder."""

    title: str
    hint: str
    shapes: tuple[Shape, ...]
    ticks: tuple[tuple[float, str], ...]
    description: str


def histograms(found: Mapping[str, Similarities]) -> tuple[Histogram, ...]:
    """Return a histogram for each encoder, by its title, all on one axis."""
    lowest = min(float(each.min()) for one in found.values() for each in _kinds(one).values())
    axis = Axis(min(0.8, max(-1.0, math.floor(5 * lowest) / 5)), 1.0)
    return tuple(_histogram(title, one, axis) for title, one in found.items())


def _kinds(found: Similarities) -> dict[str, NDArray[np.float32]]:
    return {"negatives": found.negatives, "positives": found.positives}


def _histogram(title: str, found: Similarities, axis: Axis) -> Histogram:
    kinds = _kinds(found)
    heights = {name: _heights(values, axis) for name, values in kinds.items()}
    highest = max(float(each.max()) for each in heights.values())
    middles = {name: float(np.median(values)) for name, values in kinds.items()}
    labels = {name: f"{name} {numbers.fixed(middle)}" for name, middle in middles.items()}
    shifts = spread(
        [axis.place(middle) * NARROW / 100 for middle in middles.values()],
        [LETTER * (len(label) + 2) for label in labels.values()],
        low=0.0,
        high=NARROW + 40,
    )
    hint = f"a positive pair is the more alike in {numbers.percent(found.told_apart)} % of cases"
    return Histogram(
        title=title,
        hint=hint,
        shapes=tuple(
            Shape(
                "ours" if name == "positives" else "other",
                _outline(heights[name] / highest),
                labels[name],
                axis.place(middles[name]),
                shift,
            )
            for name, shift in zip(kinds, shifts, strict=True)
        ),
        ticks=tuple((axis.place(tick), _tick(tick)) for tick in axis.ticks(5)),
        description=f"{title}, medians of cosines: {', '.join(labels.values())}; {hint}",
    )


def _tick(value: float) -> str:
    return f"{round(value, 2):g}".replace("-", numbers.MINUS)


def _heights(values: NDArray[np.float32], axis: Axis) -> Heights:
    """Return the share of pairs in each bin; rounding may put a cosine above 1."""
    inside = np.clip(values, axis.low, axis.high)
    counts, _ = np.histogram(inside, BINS, (axis.low, axis.high))
    shares: Heights = counts / len(values)
    return shares


def _outline(heights: Heights) -> str:
    """Return steps from the left to the right end of the base, in a square of 100 by 100."""
    step = 100 / BINS
    places = ["0,100"]
    for place, height in enumerate(heights.tolist()):
        up = 100 * (1 - ROOM * height)
        places += [f"{place * step:g},{up:.2f}", f"{(place + 1) * step:g},{up:.2f}"]
    return " ".join([*places, "100,100"])
