"""Antialiased resampling of a box to a square, bit for bit what torch does to uint8 pictures.

That is Pillow's algorithm: a horizontal pass rounded to uint8, then a vertical one, weights in
fixed point (ATen/native/cpu/UpSampleKernel.cpp, `_compute_index_ranges_int16_weights`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types

from looktwice.augment.compiling import inlined, separate

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Table = tuple[Longs, Ints, Floats]
Scratch = tuple[Table, Bytes, Bytes, Bytes, Ints]

_tuple: Final[Any] = types.Tuple  # Numba does not annotate it
_TABLE: Final = _tuple((types.int64[::1], types.int32[:, ::1], types.float64[:, ::1]))
_SCRATCH: Final = _tuple(
    (_TABLE, types.uint8[::1], types.uint8[::1], types.uint8[::1], types.int32[::1])
)
_RESAMPLE: Final = types.void(
    types.uint8[:, :, ::1], types.float64[::1], types.boolean, types.boolean, types.boolean,
    _SCRATCH, types.uint8[:, :, ::1],
)  # fmt: skip

# Torch chooses 0 to 22 bits so that weights fit in 16; at 22 all the same sums come out, shifted.
_PRECISION: Final = 22
_HALF: Final = np.int32(1 << (_PRECISION - 1))
# Rows that the horizontal pass takes at once: small enough for the first cache.
_BLOCK: Final = 32


@inlined
def _filter(x: float, bicubic: bool) -> float:
    """Weight at distance x: a triangle, or Keys' cubic with a = -0.5."""
    x = abs(x)
    if not bicubic:
        return max(1.0 - x, 0.0)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return 0.0


@inlined
def _fill_table(table: Table, begin: float, length: float, source: int, bicubic: bool) -> int:
    """Fill where each result starts to read and its weights; return the number of taps.

    The results cover `length` pixels from `begin` on, of `source` that can be read. All results
    get equally many taps, some of weight zero.
    """
    firsts, weights, exact = table
    size = firsts.size
    scale = length / size
    support = (2.0 if bicubic else 1.0) * max(scale, 1.0)
    shrink = 1.0 / max(scale, 1.0)
    taps = 1
    for i in range(size):
        center = begin + scale * (i + 0.5)
        firsts[i] = max(int(center - support + 0.5), 0)
        taps = max(taps, min(int(center + support + 0.5), source) - firsts[i])
    largest = 0.0
    for i in range(size):
        center = begin + scale * (i + 0.5)
        end = min(int(center + support + 0.5), source)
        start = min(firsts[i], source - taps)
        total = 0.0
        for k in range(taps):
            inside = firsts[i] <= start + k < end
            weight = _filter((start + k - center + 0.5) * shrink, bicubic) if inside else 0.0
            exact[i, k] = weight
            total += weight
        for k in range(taps):
            exact[i, k] /= total
            largest = max(largest, exact[i, k])
        firsts[i] = start
    _quantise(weights, exact, taps, largest)
    return taps


@inlined
def _quantise(weights: Ints, exact: Floats, taps: int, largest: float) -> None:
    """Round weights as torch does at its precision, and write them at ours."""
    precision = 0
    while precision < _PRECISION and int(0.5 + largest * (1 << (precision + 1))) < 1 << 15:
        precision += 1
    one = float(1 << precision)
    for i in range(weights.shape[0]):
        for k in range(taps):
            scaled = exact[i, k] * one
            rounded = int(scaled - 0.5) if scaled < 0.0 else int(scaled + 0.5)
            weights[i, k] = rounded << (_PRECISION - precision)


@inlined
def _turn_round(table: Table, taps: int) -> None:
    """Exchange left and right of what a table makes."""
    firsts, weights, _ = table
    size = firsts.size
    for i in range(size // 2):
        j = size - 1 - i
        firsts[i], firsts[j] = firsts[j], firsts[i]
        for k in range(taps):
            weights[i, k], weights[j, k] = weights[j, k], weights[i, k]


@inlined
def _blend_two(one: Bytes, other: Bytes, weights: Ints, result: Bytes) -> None:
    """Blend two rows by weights that are not negative."""
    weight, other_weight = weights[0], weights[1]
    for i in range(result.size):
        total = np.int32(np.int32(weight * one[i]) + np.int32(other_weight * other[i]))
        result[i] = np.uint8(np.int32(total + _HALF) >> _PRECISION)


@inlined
def _blend_many(
    rows: Bytes, width: int, weights: Ints, taps: int, sums: Ints, result: Bytes
) -> None:
    for i in range(width):
        sums[i] = _HALF
    for k in range(taps):
        weight, row = weights[k], rows[k * width :]
        if weight != 0:
            for i in range(width):
                sums[i] += np.int32(weight * np.int32(row[i]))
    for i in range(width):
        level = sums[i] >> _PRECISION
        level = level if level > 0 else 0
        result[i] = np.uint8(level if level < 255 else 255)


@inlined
def _resample(
    source: Bytes, across: int, table: Table, taps: int, bicubic: bool, sums: Ints, result: Bytes
) -> None:
    """Resample the first axis of `source` (n, across) into `result` (S, across), both flat."""
    firsts, weights, _ = table
    for i in range(firsts.size):
        rows = source[firsts[i] * across :]
        row = result[i * across : (i + 1) * across]
        if taps == 2 and not bicubic:
            _blend_two(rows, rows[across:], weights[i], row)
        else:
            _blend_many(rows, across, weights[i], taps, sums, row)


def scratch(size: int, channels: int, tallest: int, widest: int) -> Scratch:
    """Return room for `resample_box`, for pictures up to `tallest` x `widest` pixels."""
    most_taps = 2 * int(np.ceil(2.0 * max(tallest / size, widest / size, 1.0))) + 1
    table = (
        np.empty(size, np.int64),
        np.empty((size, most_taps), np.int32),
        np.empty((size, most_taps), np.float64),
    )
    longest = max(size * size, widest * _BLOCK, tallest * size) * channels
    first, second = np.empty(longest, np.uint8), np.empty(longest, np.uint8)
    strip = np.empty(tallest * size * channels, np.uint8)
    return table, first, second, strip, np.empty(channels * max(size, _BLOCK), np.int32)


@inlined
def _reach(begin: float, length: float, margin: float, source: int) -> tuple[int, int]:
    """Return the first pixel that matters to an interval of pixels, and the one after the last."""
    first = int(max(np.floor(begin - margin), 0.0))
    return first, max(first + 1, int(min(np.ceil(begin + length + margin), source)))


@separate(_RESAMPLE)
def resample_box(
    picture: Bytes,
    box: Floats,
    within: bool,
    bicubic: bool,
    mirrored: bool,
    scratch: Scratch,
    planes: Bytes,
) -> None:
    """Resample a box of a picture (H, W, C) into planes (C, S, S), mirrored left-right or not.

    The first of two passes resamples columns, in blocks of rows turned on their side, so that
    both passes blend whole rows of memory.

    Args:
        picture: what to read.
        box: top, left, height, width in pixels of the picture, whole numbers or not.
        within: whether pixels beyond the box are out of reach, as after a crop, or are not.
        bicubic: the interpolation.
        mirrored: whether left and right are exchanged.
        scratch: room made by `scratch`.
        planes: the result.
    """
    channels, size, _ = planes.shape
    table, first, second, strip, sums = scratch
    margin = 0.0 if within else 4.0
    y0, y1 = _reach(box[0], box[2], margin * max(box[2] / size, 1.0), picture.shape[0])
    x0, x1 = _reach(box[1], box[3], margin * max(box[3] / size, 1.0), picture.shape[1])
    height, width = y1 - y0, x1 - x0
    for axis in range(1, -1, -1):
        begin, length = (box[1] - x0, width) if axis == 1 else (box[0] - y0, height)
        taps = _fill_table(table, begin, box[2 + axis], length, bicubic)
        if axis == 1 and mirrored:
            _turn_round(table, taps)
        block = _BLOCK if axis == 1 else height
        for start in range(0, height, block):
            count = min(block, height - start)
            across = channels * (count if axis == 1 else size)
            if axis == 1:
                for x in range(width):
                    for c in range(channels):
                        for y in range(count):
                            first[(x * channels + c) * count + y] = picture[
                                y0 + start + y, x0 + x, c
                            ]
            _resample(first if axis == 1 else strip, across, table, taps, bicubic, sums, second)
            if axis == 1:
                for x in range(size):
                    for c in range(channels):
                        for y in range(count):
                            strip[(start + y) * channels * size + c * size + x] = second[
                                (x * channels + c) * count + y
                            ]
    for c in range(channels):
        for y in range(size):
            for x in range(size):
                planes[c, y, x] = second[y * channels * size + c * size + x]
