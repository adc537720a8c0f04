"""Crop boxes on a picture: lines and numbers that stay tellable apart, however many views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from looktwice.report.preview import Box

COLOURS = ("#63c1ff", "#ffffff", "#f3a06a")
DASHES = ((), (6, 4), (3, 3), (9, 3, 3, 3))  # pixels: on, off, ...
HALO = "#1d1f21"
BADGE_HEIGHT = 16  # pixels: of a number


@dataclass(frozen=True)
class Stroke:
    """How the boxes of one view are drawn; twelve in a row differ in colour or dashes."""

    colour: str
    dashes: tuple[int, ...]

    @property
    def dash_array(self) -> str:
        """The dashes as SVG takes them."""
        return " ".join(map(str, self.dashes)) or "none"


def stroke(view: int) -> Stroke:
    """Return the line of view 0, 1, 2, ...: solid blue first, then dashed white."""
    return Stroke(COLOURS[view % len(COLOURS)], DASHES[view % len(DASHES)])


def badge_width(view: int) -> int:
    """Return the width of the number of view 0, 1, 2, ..., in pixels."""
    return 9 + 6 * len(str(view + 1))


def place_badges(
    boxes: Sequence[Box], height: float, width: float, widths: Sequence[float]
) -> list[tuple[float, float]]:
    """Return (left, top) of every box's number: on the box's outline, where no other lies.

    Args:
        boxes: (top, left, height, width) of each box, in pixels of the screen.
        height: of the picture, in the same pixels.
        width: of the picture.
        widths: of the numbers.
    """
    placed: list[tuple[float, float, float]] = []
    for box, size in zip(boxes, widths, strict=True):
        places = [
            (
                min(max(0.0, x), max(0.0, width - size)),
                min(max(0.0, y), max(0.0, height - BADGE_HEIGHT)),
            )
            for x, y in _outline(box, size)
        ]
        free = (place for place in places if not _covers(placed, *place, size))
        placed.append((*next(free, places[0]), size))
    return [(left, top) for left, top, _ in placed]


def _outline(box: Box, size: float) -> list[tuple[float, float]]:
    """Return places inside of a box along its four sides, its upper left corner first."""
    top, left, height, width = box
    right, bottom = left + max(0.0, width - size), top + max(0.0, height - BADGE_HEIGHT)
    across = [left + step * size for step in range(1 + int((right - left) // size))]
    down = [top + step * BADGE_HEIGHT for step in range(1 + int((bottom - top) // BADGE_HEIGHT))]
    return (
        [(x, top) for x in across]
        + [(right, y) for y in down]
        + [(x, bottom) for x in reversed(across)]
        + [(left, y) for y in reversed(down)]
    )


def _covers(
    placed: Sequence[tuple[float, float, float]], left: float, top: float, size: float
) -> bool:
    return any(
        left < x + other and x < left + size and abs(top - y) < BADGE_HEIGHT
        for x, y, other in placed
    )
