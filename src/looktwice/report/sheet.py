"""Sheets of pictures as PNG: views beside their pictures, and operations at several strengths."""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from looktwice.report.boxes import BADGE_HEIGHT, HALO, badge_width, place_badges, stroke
from looktwice.report.numbers import MINUS, NBSP
from looktwice.report.operations import SIDE, Line
from looktwice.report.pictures import as_image, is_small
from looktwice.report.preview import Box, Pixels, ViewSet, view_pairs
from looktwice.storage import write_atomic

if TYPE_CHECKING:
    from looktwice.augment import Policy
    from looktwice.data import Source

CELL = 168  # pixels: side of a picture's place in the PNG
GAP = 12  # pixels
LINE = 15  # pixels: line height of captions
VIEWS_ABREAST = 4  # more go on below
FEW_VIEWS = 2  # of a picture that shares its line with another
INK, QUIET, PAPER = "#1d1f21", "#5d646b", "#ffffff"

Draw = ImageDraw.ImageDraw


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
    write_atomic(path, as_png(draw_preview(view_pairs(source, policy, count, seed, epoch))))
    return path


def as_png(sheet: Image.Image) -> bytes:
    """Return the file's bytes."""
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def draw_preview(sets: Sequence[ViewSet]) -> Image.Image:
    """Draw every picture with its views: two pictures abreast, or larger ones of many views."""
    most = max(len(one.views) for one in sets)
    abreast, cells = (min(2, len(sets)), 1) if most <= FEW_VIEWS else (1, 2)
    per_line = -(-most // -(-most // VIEWS_ABREAST))
    block = (cells + per_line) * (CELL + GAP) + 2 * GAP
    rows = [sets[start : start + abreast] for start in range(0, len(sets), abreast)]
    heights = [_line_heights(row, per_line, cells) for row in rows]
    sheet = Image.new("RGB", (abreast * block + GAP, sum(map(sum, heights)) + GAP), PAPER)
    tops = itertools.accumulate(map(sum, heights), initial=GAP)
    for row, lines, top in zip(rows, heights, tops, strict=False):
        for place, one in enumerate(row):
            _draw_set(sheet, one, (GAP + place * block, top), cells, per_line, lines)
    return sheet


def _line_heights(row: Sequence[ViewSet], per_line: int, cells: int) -> list[int]:
    """Return the heights of the lines of views, enough together for a picture of some cells."""
    heights = []
    for start in range(0, max(len(one.views) for one in row), per_line):
        views = [view for one in row for view in one.views[start:][:per_line]]
        captions = max(len(_caption(view.in_words)) for view in views)
        heights.append(CELL + (1 + captions) * LINE + 3 * GAP)
    missing = cells * (CELL + GAP) + LINE + 2 * GAP - sum(heights)
    return [*heights[:-1], heights[-1] + max(0, missing)]


def _draw_set(
    sheet: Image.Image,
    one: ViewSet,
    place: tuple[int, int],
    cells: int,
    per_line: int,
    heights: Sequence[int],
) -> None:
    left, top = place
    draw = ImageDraw.Draw(sheet)
    room = cells * (CELL + GAP) - GAP
    scale, bottom = _paste(sheet, one.picture, left, top, room)
    _draw_boxes(draw, one, scale, left, top)
    name = one.identifier.encode("utf-8", "backslashreplace").decode("utf-8")
    _write(draw, [_clip(name, room)], left, bottom)
    tops = list(itertools.accumulate(heights, initial=top))
    for number, view in enumerate(one.views):
        x = left + (cells + number % per_line) * (CELL + GAP)
        _, below = _paste(sheet, view.pixels, x, tops[number // per_line], CELL)
        _write(draw, [f"view {number + 1}"], x, below, INK)
        _write(draw, _caption(view.in_words), x, below + LINE)


def _paste(sheet: Image.Image, pixels: Pixels, left: int, top: int, room: int) -> tuple[float, int]:
    """Paste a picture where there are room × room pixels; return its enlargement and its bottom."""
    height, width = pixels.shape[:2]
    fit = room / max(height, width)
    scale = float(math.floor(fit)) if is_small(height, width) else fit
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if is_small(height, width) else Image.Resampling.LANCZOS
    sheet.paste(as_image(pixels).resize(size, how), (left, top))
    return scale, top + size[1]


def draw_operations(lines: Sequence[Line]) -> Image.Image:
    """Draw a line for every operation: its name, what it does, the picture as it is, examples."""
    most = 1 + max(len(line.examples) for line in lines)
    width = GAP + most * (SIDE + GAP)
    texts = [_wrapped(line.sentence.replace("`", ""), width - 2 * GAP) for line in lines]
    heights = [
        2 * LINE + len(text) * LINE + SIDE + 2 * GAP + _captions_height(line)
        for line, text in zip(lines, texts, strict=True)
    ]
    sheet = Image.new("RGB", (width, GAP + sum(heights)), PAPER)
    for line, text, top in zip(
        lines, texts, itertools.accumulate(heights, initial=GAP), strict=False
    ):
        _draw_line(sheet, line, text, top)
    return sheet


def _captions_height(line: Line) -> int:
    return LINE * max(1, *(len(_caption(e.captions, SIDE)) for e in line.examples))


def _draw_line(sheet: Image.Image, line: Line, text: Sequence[str], top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, top), line.name, INK, _font(15))
    _write(draw, text, GAP, top + LINE)
    shown = [(line.before, ("as it is",)), *((e.pixels, e.captions) for e in line.examples)]
    for place, (pixels, captions) in enumerate(shown):
        left = GAP + place * (SIDE + GAP)
        _, bottom = _paste(sheet, pixels, left, top + (2 + len(text)) * LINE, SIDE)
        _write(draw, _caption(captions, SIDE), left, bottom)


def _draw_boxes(draw: Draw, one: ViewSet, scale: float, left: int, top: int) -> None:
    """Draw every crop, then the numbers over all of them."""
    boxes = [tuple(scale * side for side in view.box) for view in one.views]
    for number, (y, x, height, width) in enumerate(boxes):
        _draw_box(draw, (top + y, left + x, height, width), number)
    height, width = (scale * side for side in one.picture.shape[:2])
    widths = [badge_width(number) for number in range(len(boxes))]
    placed = place_badges([_box(box) for box in boxes], height, width, widths)
    for number, ((x, y), size) in enumerate(zip(placed, widths, strict=True), start=1):
        x, y = left + x, top + y
        draw.rectangle((x, y, x + size - 1, y + BADGE_HEIGHT - 1), fill=HALO)
        draw.text((x + size / 2, y + BADGE_HEIGHT / 2), str(number), PAPER, _font(12), anchor="mm")


def _box(sides: Sequence[float]) -> Box:
    top, left, height, width = sides
    return top, left, height, width


def _draw_box(draw: Draw, box: Box, view: int) -> None:
    top, left, height, width = box
    # Room for both lines of the frame, however thin the crop.
    right, bottom = left + max(4, width - 1), top + max(4, height - 1)
    draw.rectangle((left, top, right, bottom), outline=HALO, width=4)
    line = stroke(view)
    for x, length in _dashes(left + 1, right - 1, line.dashes):
        for y in (top + 1, bottom - 2):
            draw.rectangle((x, y, x + length - 1, y + 1), fill=line.colour)
    for y, length in _dashes(top + 1, bottom - 1, line.dashes):
        for x in (left + 1, right - 2):
            draw.rectangle((x, y, x + 1, y + length - 1), fill=line.colour)


def _dashes(start: float, end: float, dashes: Sequence[int]) -> Iterator[tuple[float, float]]:
    """Yield where the dashes of a side begin and how long they are, 1 pixel at least."""
    if not dashes:
        yield start, end - start + 1
        return
    for length, pause in itertools.cycle(zip(dashes[::2], dashes[1::2], strict=True)):
        if start > end:
            return
        yield start, min(length, end - start + 1)
        start += length + pause


def _caption(texts: Sequence[str], width: float = CELL) -> list[str]:
    """Return the lines that texts take below a picture."""
    return [line for text in texts for line in _wrapped(text, width)]


def _wrapped(text: str, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _length(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_clip(line, width) for line in lines]


def _write(
    draw: Draw, lines: Sequence[str], left: int, top: int, colour: str = QUIET, size: int = 12
) -> None:
    for number, text in enumerate(lines):
        draw.text((left, top + 5 + number * LINE), _plain(text), fill=colour, font=_font(size))


def _plain(text: str) -> str:
    """Return text in letters that Pillow's own font has."""
    return text.replace(MINUS, "-").replace("×", "x").replace(NBSP, " ")


def _clip(text: str, width: float) -> str:
    shown = " ".join(text[:200].split())
    while _length(shown) > width:
        shown = shown.removesuffix("…")[:-1] + "…"
    return shown


def _length(text: str, size: int = 12) -> float:
    return _font(size).getlength(_plain(text))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
