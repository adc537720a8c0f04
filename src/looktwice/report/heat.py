"""CAM panels as the page shows them: the picture in grey, orange where an encoder looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from looktwice.report.pictures import Thumbnail, thumbnail

if TYPE_CHECKING:
    from looktwice.analysis import Panel, Seen

HEIGHTS = (112, 112)  # pixels: of a picture, on a wide page and on a telephone
ORANGE = (255.0, 140.0, 0.0)  # seen on black as on white, and by colour-blind readers
STRENGTH = 0.75  # of the colour, at most: the picture shows through
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class ShownHeat:
    """Where an encoder looks; `encoder` is empty where there is only one."""

    picture: Thumbnail
    encoder: str
    words: str
    where: str
    right: bool | None


@dataclass(frozen=True)
class ShownPanel:
    """A picture, its neighbour, and where encoders look."""

    picture: Thumbnail
    name: str
    neighbour: Thumbnail
    neighbour_name: str
    seen: tuple[ShownHeat, ...]

    @property
    def line(self) -> list[Thumbnail | None]:
        """The pictures, in order."""
        return [self.picture, self.neighbour, *(one.picture for one in self.seen)]


def shown_panels(panels: Sequence[Panel]) -> list[ShownPanel]:
    """Return panels for the macro ``cams`` of ``figures.html.j2``, equal scores side by side."""
    return [
        ShownPanel(
            picture=thumbnail(panel.picture, *HEIGHTS),
            name=panel.name,
            neighbour=thumbnail(panel.neighbour, *HEIGHTS),
            neighbour_name=panel.neighbour_name,
            seen=tuple(
                _shown(one, named=len({one.encoder for one in panel.seen}) > 1)
                for one in sorted(panel.seen, key=lambda one: one.score, reverse=True)
            ),
        )
        for panel in panels
    ]


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a picture (H, W, C) in grey with heat (H, W), 0 to 1, over it; uint8 (H, W, 3)."""
    weights = LUMA if pixels.shape[2] == 3 else (1.0,)
    grey = (pixels @ np.array(weights))[..., None]
    share = STRENGTH * heat[..., None]
    mixed: NDArray[np.float64] = (1 - share) * grey + share * np.array(ORANGE)
    return np.rint(mixed).astype(np.uint8)


def where(heat: NDArray[np.float32]) -> str:
    """Return where most of a heat (H, W) lies: ``mostly upper left``; ``nowhere`` if all is 0."""
    total = float(heat.sum())
    if total == 0:
        return "nowhere"
    down, across = (
        float((heat.sum(axis=1 - axis) * _middles(heat.shape[axis])).sum()) / total
        for axis in (0, 1)
    )
    words = [_third(down, "upper", "lower"), _third(across, "left", "right")]
    return f"mostly {' '.join(word for word in words if word) or 'in the middle'}"


def _equally_large(square: Thumbnail) -> Thumbnail:
    """Show a square picture at the height of all others: its heat is smooth anyway."""
    side = HEIGHTS[0]
    return replace(square, width=side, narrow_width=side, crisp=square.width == side)


def _middles(size: int) -> NDArray[np.float64]:
    return (np.arange(size) + 0.5) / size


def _third(place: float, low: str, high: str) -> str:
    # A centre of gravity lies near the middle: these are thirds of where it usually is.
    return low if place < 0.44 else high if place > 0.56 else ""


def _shown(seen: Seen, *, named: bool) -> ShownHeat:
    return ShownHeat(
        picture=_equally_large(thumbnail(overlay(seen.pixels, seen.heat), *HEIGHTS)),
        encoder=PurePath(seen.encoder).name if named else "",
        words=seen.words,
        where=where(seen.heat),
        right=seen.right,
    )
