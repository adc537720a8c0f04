"""The map of pictures that `templates/map.html.j2` draws: places, names and one thumbnail sheet."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from looktwice.report import numbers
from looktwice.report.pictures import as_image
from looktwice.report.scatter import (
    GLYPHS,
    Scatter,
    class_anchors,
    class_name,
    hue,
    place,
    scatter,
    shape,
)
from looktwice.report.templating import printable, shorten

SHEET_BYTES = 3_000_000  # of the sheet; a third more as text within the page
QUALITIES = (85, 70, 50, 30, 10)


@dataclass(frozen=True)
class ClassEntry:
    """A line of the map's filter."""

    label: int
    name: str
    hue: int | str
    glyph: str
    count: int


@dataclass(frozen=True)
class PictureMap:
    """What the macro ``map`` of ``map.html.j2`` takes.

    Attributes:
        description: of the whole, in words, for whoever cannot see it.
        scatter: what stands there without a script, and in print.
        classes: of the filter; none without labels.
        sheet: data URI of all thumbnails, row by row.
        data: JSON that no name can break out of.
    """

    description: str
    scatter: Scatter
    classes: tuple[ClassEntry, ...]
    sheet: str
    data: Markup


def picture_map(
    flat: NDArray[np.float32],
    thumbnails: NDArray[np.uint8],
    names: Sequence[str],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
) -> PictureMap:
    """Make a map of N pictures.

    Args:
        flat: (N, 2), places of any scale.
        thumbnails: uint8 (N, side, side, C), C in {1, 3}.
        names: N, any text.
        labels: (N,), -1 where there is none.
        class_names: one a label, any text.
    """
    places = place(flat)
    known, sizes = np.unique(labels, return_counts=True)
    classes = tuple(
        ClassEntry(label, class_name(class_names, label), hue(label), GLYPHS[shape(label)], size)
        for label, size in zip(known.tolist(), sizes.tolist(), strict=True)
    )
    columns = math.isqrt(len(thumbnails) - 1) + 1
    several = f" of {numbers.plural(len(classes), 'class', 'classes')}" if len(classes) > 1 else ""
    description = f"Map of {numbers.plural(len(names), 'picture')}{several}."
    data = {
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "label": labels.tolist(),
        "names": [printable(shorten(name)) for name in names],
        "classes": {entry.label: entry.name for entry in classes},
        "anchors": class_anchors(places, labels),
        "side": thumbnails.shape[1],
        "columns": columns,
    }
    return PictureMap(
        description=description,
        scatter=scatter(places, labels, class_names, description),
        classes=classes if len(classes) > 1 else (),
        sheet=_sheet(thumbnails, columns),
        data=htmlsafe_json_dumps(data, separators=(",", ":")),
    )


def _sheet(thumbnails: NDArray[np.uint8], columns: int) -> str:
    """Return all thumbnails as one WebP, at the best quality that is small enough."""
    count, side, _, channels = thumbnails.shape
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, side, side, channels), np.uint8)
    cells[:count] = thumbnails
    grid = cells.reshape(rows, columns, side, side, channels).swapaxes(1, 2)
    image = as_image(np.ascontiguousarray(grid.reshape(rows * side, columns * side, channels)))
    for quality in QUALITIES:
        coded = _webp(image, quality)
        if len(coded) <= SHEET_BYTES:
            break
    return f"data:image/webp;base64,{base64.b64encode(coded).decode('ascii')}"


def _webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()
