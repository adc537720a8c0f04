"""Contrast-limited adaptive histogram equalization: OpenCV's `createCLAHE`, to the bit.

The steps, the padding and the arithmetic in float32 are those of opencv/opencv,
modules/imgproc/src/clahe.cpp; the method is Zuiderveld's, Graphics Gems IV (1994), VIII.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import Kernel, carve, flat, inlined, kernel
from looktwice.augment.lab import lab_to_rgb, rgb_to_lab
from looktwice.augment.operations.base import (
    Draw,
    Operation,
    Uniform,
    check_probability,
    check_range,
    check_whole,
)
from looktwice.augment.operations.blur import reflect
from looktwice.errors import UsageError

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int32]
Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

MAX_TILES: Final = 64

_ONE: Final = np.float32(1.0)
_HALF: Final = np.float32(0.5)
_TOP: Final = np.float32(255.0)


@inlined
def _count_tile(plane: Bytes, top: int, left: int, height: int, width: int, counts: Counts) -> None:
    """Fill `counts` (256,) with the levels of a tile, the plane reflected beyond its borders."""
    size = plane.shape[0]
    end = left + width
    for level in range(256):
        counts[level] = 0
    for y in range(top, top + height):
        line = plane[reflect(y, size)]
        for x in range(left, min(end, size)):
            counts[line[x]] += 1
        for x in range(max(left, size), end):
            counts[line[reflect(x, size)]] += 1


@inlined
def _clip_counts(counts: Counts, limit: np.int32) -> None:
    """Cut counts (256,) off at a limit and spread what was cut off evenly over all levels."""
    excess = np.int32(0)
    for level in range(256):
        over = np.int32(max(counts[level] - limit, 0))
        counts[level] -= over
        excess += over
    share, rest = np.int32(excess >> 8), excess & 255
    for level in range(256):
        counts[level] += share
    if rest > 0:
        step = 256 // rest
        for i in range(rest):
            counts[i * step] += 1


@inlined
def _fill_table(counts: Counts, scale: np.float32, table: Bytes) -> None:
    """Fill a tile's table (256,) of new levels, the scaled sums of its counts (256,)."""
    total = np.int32(0)
    for level in range(256):
        total += counts[level]
        counts[level] = total
    for level in range(256):
        scaled = np.rint(np.float32(counts[level]) * scale)
        table[level] = np.uint8(np.int32(min(scaled, _TOP)))


@inlined
def _between(i: int, inverse: np.float32, tiles: int) -> tuple[int, int, np.float32]:
    """Return the tiles whose centres are before and after a pixel, and the second's weight."""
    place = np.float32(i) * inverse - _HALF
    before = int(np.floor(place))
    return max(before, 0), min(before + 1, tiles - 1), place - np.float32(before)


@inlined
def _interpolate(
    plane: Bytes,
    tables: Bytes,
    columns: int,
    width: int,
    height: int,
    places: Counts,
    room: Singles,
) -> None:
    """Replace levels by the bilinear mean of four tiles' tables (rows * columns * 256,).

    `places` (2 S,) and `room` (S,) are scratch for where the tables of a column of pixels begin,
    and for the weight of the second.
    """
    size, rows = plane.shape[0], tables.size // (256 * columns)
    lefts, rights = places[:size], places[size:]
    for x in range(size):
        left, right, room[x] = _between(x, _ONE / np.float32(width), columns)
        lefts[x], rights[x] = 256 * left, 256 * right
    for y in range(size):
        above, below, lower = _between(y, _ONE / np.float32(height), rows)
        first, second = tables[256 * columns * above :], tables[256 * columns * below :]
        line, upper = plane[y], _ONE - lower
        for x in range(size):
            left, right = np.uint32(lefts[x] + line[x]), np.uint32(rights[x] + line[x])
            after = room[x]
            before = _ONE - after
            one = np.float32(first[left]) * before + np.float32(first[right]) * after
            other = np.float32(second[left]) * before + np.float32(second[right]) * after
            line[x] = np.uint8(np.int32(np.rint(one * upper + other * lower)))


@inlined
def _equalize(plane: Bytes, clip: float, columns: int, rows: int, room: Bytes) -> None:
    """Apply CLAHE to a plane (S, S); sides that the tiles do not divide both grow by a part."""
    size, num_tiles = plane.shape[0], columns * rows
    part = 0 if size % columns == 0 and size % rows == 0 else 1
    width, height = size // columns + part, size // rows + part
    counts = carve(room, 0, 256, np.int32)
    places = carve(room, 1024, 2 * size, np.int32)
    weights = carve(room, 1024 + 8 * size, size, np.float32)
    tables = carve(room, 1024 + 12 * size, 256 * num_tiles, np.uint8)
    limit = np.int32(max(int(clip * (width * height) / 256), 1))
    scale = _TOP / np.float32(width * height)
    for tile in range(num_tiles):
        top, left = tile // columns * height, tile % columns * width
        _count_tile(plane, top, left, height, width, counts)
        _clip_counts(counts, limit)
        _fill_table(counts, scale, tables[256 * tile : 256 * tile + 256])
    _interpolate(plane, tables, columns, width, height, places, weights)


@kernel
def _clahe(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:
    levels = flat(planes)
    if planes.shape[0] == 3:
        rgb_to_lab(levels)
    _equalize(planes[0], drawn[0], int(constants[0]), int(constants[1]), room)
    if planes.shape[0] == 3:
        lab_to_rgb(levels)


@final
@dataclass(frozen=True)
class CLAHE(Operation):
    """Equalize the histogram of each tile, its peaks cut off, and interpolate between tiles.

    Of colours the lightness L of CIELAB changes, in 8 bits as OpenCV's COLOR_RGB2LAB has it; a
    picture of one channel itself. Albumentations' `CLAHE` does the same.

    Attributes:
        clip_limit: range of the largest count of a level in multiples of the mean count, within
            [0.01, 1000]; a limit below one pixel is one pixel.
        tiles: numbers of columns and of rows, 1-64 each.
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "clahe"
    kernel: ClassVar[Kernel] = _clahe

    clip_limit: tuple[float, float] = (4.0, 4.0)
    tiles: tuple[int, int] = (8, 8)
    p: float = 0.2

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_range(owner, "clip_limit", self.clip_limit, 0.01, 1000.0)
        if not isinstance(self.tiles, tuple) or len(self.tiles) != 2:
            raise UsageError(f"{owner}: tiles must be (columns, rows), found {self.tiles!r}")
        check_whole(owner, "tiles' columns", self.tiles[0], 1, MAX_TILES)
        check_whole(owner, "tiles' rows", self.tiles[1], 1, MAX_TILES)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return the limit's range."""
        return {"clip_limit": Uniform(*self.clip_limit)}

    def constants(self, _size: int, /) -> tuple[float, ...]:
        """Return the numbers of columns and rows."""
        return self.tiles

    def room(self, size: int, _channels: int, /) -> int:
        """Return room for counts, where the tables of columns begin, weights, and tables."""
        return 1024 + 12 * size + 256 * self.tiles[0] * self.tiles[1]
