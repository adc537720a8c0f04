"""Pictures beside the views that training would cut from them."""

from __future__ import annotations

import functools
import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from looktwice.errors import BadPictureError, DataError, UsageError
from looktwice.report.numbers import MINUS, fixed
from looktwice.report.pictures import as_image, is_small
from looktwice.storage import write_atomic

if TYPE_CHECKING:
    from looktwice.augment import Policy
    from looktwice.data import Source

COLOUR_ONLY = ("saturation", "hue", "grayscale")
TRIES = 4  # candidates for each picture that is asked for: unreadable ones are passed over
CELL = 168  # pixels: side of a picture's place in the PNG
GAP = 12  # pixels
LINE = 15  # pixels: line height of captions
INK, QUIET, PAPER = "#1d1f21", "#5d646b", "#ffffff"
BOX_COLOURS = ("#56b4e9", "#ffffff")  # told apart by solid and dashed lines too

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """One view of a picture.

    Attributes:
        pixels: (S, S, C) uint8.
        box: (top, left, height, width) of its crop, in pixels of the picture.
        operations: name and sampled numbers of every operation that was applied, in order.
    """

    pixels: NDArray[np.uint8]
    box: Box
    operations: tuple[tuple[str, dict[str, float]], ...]

    @property
    def in_words(self) -> tuple[str, ...]:
        """The operations in order, as ``horizontal flip``, ``brightness 1.21``, ``hue −0.03``.

        The crop is drawn, not told, and what changes only colours is left out of grey pictures.
        """
        told = [part for name, values in self.operations for part in _parts(name, values)]
        hidden = COLOUR_ONLY if self.pixels.shape[2] == 1 else ()
        return tuple(" ".join(words) for words in told if words[0] not in hidden)


@dataclass(frozen=True)
class ViewSet:
    """A picture, (H, W, C) uint8, with the views that were cut from it."""

    index: int
    identifier: str
    picture: NDArray[np.uint8]
    views: tuple[View, ...]


def _parts(name: str, values: dict[str, float]) -> list[tuple[str, ...]]:
    """Return an operation as its words; several numbers speak for themselves."""
    if name == "crop":
        return []
    spoken = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    if len(values) > 1:
        return [(key, fixed(value)) for key, value in values.items()]
    return [(spoken, *map(fixed, values.values()))]


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
    drawn = _drawn(source, TRIES * count, seed)
    readable = [(i, picture) for i in drawn if (picture := _picture(source, i)) is not None]
    if not readable:
        raise DataError(f"none of {len(drawn)} pictures tried in {source.name} can be read")
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
        ViewSet(index, source.identifier(index), picture, _views(policy, rows[i], views[i]))
        for i, (index, picture) in enumerate(readable)
    ]


def _drawn(source: Source, size: int, seed: int) -> list[int]:
    size = min(len(source), size)
    drawn: list[int] = np.random.default_rng(seed).choice(len(source), size, False).tolist()
    if source.labels is None:
        return drawn
    seen: Counter[int] = Counter()
    turns: list[tuple[int, int, int]] = []
    for index in drawn:
        label = int(source.labels[index])
        turns.append((seen[label], len(turns), index))
        seen[label] += 1
    return [index for _, _, index in sorted(turns)]


def _picture(source: Source, index: int) -> NDArray[np.uint8] | None:
    try:
        return source.image(index)
    except BadPictureError:
        return None


def _views(
    policy: Policy, rows: NDArray[np.float64], pixels: NDArray[np.uint8]
) -> tuple[View, ...]:
    return tuple(
        View(pixels[view], policy.crop_box(row), tuple(policy.describe(row, view)))
        for view, row in enumerate(rows)
    )


def write_preview(
    source: Source,
    policy: Policy,
    path: Path,
    *,
    count: int = 8,
    seed: int = 0,
    epoch: int = 0,
) -> Path:
    """Write a PNG of pictures with the crop boxes of their views, and the views beside them.

    Raises:
        DataError, UsageError: as `view_pairs`.
        RunError: the file cannot be written.
    """
    sheet = draw_preview(view_pairs(source, policy, count, seed, epoch))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())
    return path


def draw_preview(sets: Sequence[ViewSet]) -> Image.Image:
    """Draw every picture and its views as one line of a sheet, two lines abreast."""
    abreast = min(2, len(sets))
    cells = 1 + max(len(one.views) for one in sets)
    caption = 1 + max(len(view.in_words) for one in sets for view in one.views)
    width, height = cells * (CELL + GAP) + 2 * GAP, CELL + caption * LINE + 3 * GAP
    lines = -(-len(sets) // abreast)
    sheet = Image.new("RGB", (abreast * width + GAP, lines * height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, one in enumerate(sets):
        left, top = GAP + place % abreast * width, GAP + place // abreast * height
        _draw_set(sheet, draw, one, left, top)
    return sheet


def _draw_set(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, one: ViewSet, left: int, top: int
) -> None:
    scale = _paste(sheet, one.picture, left, top)
    for number, view in enumerate(one.views, start=1):
        _draw_box(draw, view.box, scale, left, top, number)
    name = one.identifier.encode("utf-8", "backslashreplace").decode("utf-8")
    _caption(draw, [name], left, top)
    for number, view in enumerate(one.views, start=1):
        x = left + number * (CELL + GAP)
        _paste(sheet, view.pixels, x, top)
        _caption(draw, [f"view {number}", *view.in_words], x, top)


def _paste(sheet: Image.Image, pixels: NDArray[np.uint8], left: int, top: int) -> float:
    """Paste a picture into its cell and return its enlargement."""
    height, width = pixels.shape[:2]
    fit = CELL / max(height, width)
    scale = float(math.floor(fit)) if is_small(height, width) else fit
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if is_small(height, width) else Image.Resampling.LANCZOS
    sheet.paste(as_image(pixels).resize(size, how), (left, top))
    return scale


def _draw_box(
    draw: ImageDraw.ImageDraw, box: Box, scale: float, left: int, top: int, number: int
) -> None:
    y, x = top + box[0] * scale, left + box[1] * scale
    # Room for both lines of the frame, however thin the crop.
    right, bottom = x + max(4, box[3] * scale - 1), y + max(4, box[2] * scale - 1)
    draw.rectangle((x, y, right, bottom), outline=INK, width=4)
    inner = (x + 1, y + 1, right - 1, bottom - 1)
    _outline(draw, inner, BOX_COLOURS[(number - 1) % 2], dashed=number % 2 == 0)
    badge_x = x + (number - 1) * 18
    draw.rectangle((badge_x, y, badge_x + 15, y + 17), fill=INK)
    draw.text((badge_x + 4, y + 1), str(number), fill=PAPER, font=_font(13))


def _outline(
    draw: ImageDraw.ImageDraw, box: Box, colour: str, *, dashed: bool, dash: int = 6
) -> None:
    left, top, right, bottom = box
    if not dashed:
        draw.rectangle(box, outline=colour, width=2)
        return
    for start in range(round(left), round(right), 2 * dash):
        for y in (top, bottom - 1):
            draw.line((start, y, min(start + dash, right), y), fill=colour, width=2)
    for start in range(round(top), round(bottom), 2 * dash):
        for x in (left, right - 1):
            draw.line((x, start, x, min(start + dash, bottom)), fill=colour, width=2)


def _caption(draw: ImageDraw.ImageDraw, lines: Sequence[str], left: int, top: int) -> None:
    for number, text in enumerate(lines):
        place = (left, top + CELL + 5 + number * LINE)
        # Pillow's own font has no typographic minus.
        draw.text(place, _clip(draw, text.replace(MINUS, "-")), fill=QUIET, font=_font(12))


def _clip(draw: ImageDraw.ImageDraw, text: str) -> str:
    shown = " ".join(text[:200].split())
    while draw.textlength(shown, font=_font(12)) > CELL:
        shown = shown.removesuffix("…")[:-1] + "…"
    return shown


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
