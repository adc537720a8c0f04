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
from looktwice.augment.vectors import SPAN, TILE, Bytes, Shorts, blend, transpose

Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Table = tuple[Longs, Shorts, Floats]
Scratch = tuple[Table, Bytes, Bytes, Bytes]

_tuple: Final[Any] = types.Tuple  # Numba does not annotate it
_TABLE: Final = _tuple((types.int64[::1], types.int16[:, ::1], types.float64[:, ::1]))
_SCRATCH: Final = _tuple((_TABLE, types.uint8[::1], types.uint8[::1], types.uint8[::1]))
_RESAMPLE: Final = types.void(
    types.uint8[:, :, ::1], types.float64[::1], types.boolean, types.boolean, types.boolean,
    _SCRATCH, types.uint8[:, :, ::1],
)  # fmt: skip

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
def _fill_table(
    table: Table, begin: float, length: float, source: int, whole: bool, bicubic: bool
) -> tuple[int, int]:
    """Fill where each result starts to read and its weights; return the number of taps and bits.

    The results cover `length` pixels from `begin` on, of `source` that can be read. All results
    get equally many taps, some of weight zero. If they are part of the `whole` source resized,
    the largest weight of all its results decides about the bits of a weight, as in torch.
    """
    firsts, weights, exact = table
    size = firsts.size
    scale = length / size
    support = (2.0 if bicubic else 1.0) * max(scale, 1.0)
    shrink = 1.0 / max(scale, 1.0)
    before = int(begin / scale + 0.5) if whole else 0
    beyond = int(source / scale + 0.5) - before if whole else size
    taps = 1
    for i in range(-before, beyond):
        center = begin + scale * (i + 0.5)
        low = max(int(center - support + 0.5), 0)
        taps = max(taps, min(int(center + support + 0.5), source) - low)
    largest = 0.0
    for i in range(-before, beyond):
        center = begin + scale * (i + 0.5)
        low = max(int(center - support + 0.5), 0)
        end = min(int(center + support + 0.5), source)
        start = min(low, source - taps)
        inside = 0 <= i < size
        total, most = 0.0, 0.0
        for k in range(taps):
            read = low <= start + k < end
            weight = _filter((start + k - center + 0.5) * shrink, bicubic) if read else 0.0
            total += weight
            most = max(most, weight)
            if inside:
                exact[i, k] = weight
        largest = max(largest, most / total)
        if inside:
            firsts[i] = start
            for k in range(taps):
                exact[i, k] /= total
    return taps, _quantise(weights, exact, taps, largest)


@inlined
def _quantise(weights: Shorts, exact: Floats, taps: int, largest: float) -> int:
    """Round weights to 16 bits as torch does, and return how many of them are a fraction's."""
    precision = 0
    while precision < 22 and int(0.5 + largest * (1 << (precision + 1))) < 1 << 15:
        precision += 1
    one = float(1 << precision)
    for i in range(weights.shape[0]):
        for k in range(taps):
            scaled = exact[i, k] * one
            weights[i, k] = int(scaled - 0.5) if scaled < 0.0 else int(scaled + 0.5)
        weights[i, taps] = 0
    return precision


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


def scratch(size: int, channels: int, tallest: int, widest: int) -> Scratch:
    """Return room for `resample_box`, for pictures up to `tallest` x `widest` pixels."""
    most_taps = 2 * int(np.ceil(2.0 * max(tallest / size, widest / size, 1.0))) + 2
    table = (
        np.empty(size, np.int64),
        np.empty((size, most_taps), np.int16),
        np.empty((size, most_taps), np.float64),
    )
    beyond = channels * max(size, TILE) + 2 * SPAN
    turned = channels * _BLOCK * max(size + 1, widest + 1)
    strip = channels * size * (tallest + 1 + TILE)
    return (
        table,
        np.zeros(turned + beyond, np.uint8),
        np.zeros(max(turned, channels * size * size) + beyond, np.uint8),
        np.zeros(strip + beyond, np.uint8),
    )


@inlined
def _reach(begin: float, length: float, margin: float, source: int) -> tuple[int, int]:
    """Return the first pixel that matters to an interval of pixels, and the one after the last."""
    first = int(max(np.floor(begin - margin), 0.0))
    return first, max(first + 1, int(min(np.ceil(begin + length + margin), source)))


@inlined
def _turn_in(
    picture: Bytes, top: int, left: int, rows: int, width: int, turned: Bytes, pitch: int
) -> None:
    """Write rows of a picture as columns: row y of pixel x, channel c, at (x C + c) pitch + y."""
    _, wide, channels = picture.shape
    columns = width * channels
    if columns >= TILE:
        begin = (top * wide + left) * channels
        transpose(picture, begin, wide * channels, rows, columns, turned, 0, pitch, True)
        return
    for x in range(width):
        for c in range(channels):
            for y in range(rows):
                turned[(x * channels + c) * pitch + y] = picture[top + y, left + x, c]


@inlined
def _turn_out(
    turned: Bytes, channels: int, size: int, rows: int, pitch: int, strip: Bytes, begin: int
) -> None:
    """Write columns back as rows of C times S bytes: channels apart, then x."""
    for c in range(channels):
        if size >= TILE:
            transpose(
                turned, c * pitch, channels * pitch, size, rows, strip, begin + c * size,
                channels * size, False,
            )  # fmt: skip
            continue
        for x in range(size):
            for y in range(rows):
                level = turned[(x * channels + c) * pitch + y]
                strip[begin + (y * channels + c) * size + x] = level


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
    table, first, second, strip = scratch
    margin = 0.0 if within else 8.0
    y0, y1 = _reach(box[0], box[2], margin * max(box[2] / size, 1.0), picture.shape[0])
    x0, x1 = _reach(box[1], box[3], margin * max(box[3] / size, 1.0), picture.shape[1])
    height, width = y1 - y0, x1 - x0
    line = channels * size
    for axis in range(1, -1, -1):
        first_pixel = x0 if axis == 1 else y0
        begin, length = box[axis], picture.shape[axis]
        if within:
            begin, length = begin - first_pixel, width if axis == 1 else height
        taps, bits = _fill_table(table, begin, box[2 + axis], length, not within, bicubic)
        if not within:
            for i in range(size):
                table[0][i] -= first_pixel
        if axis == 1 and mirrored:
            _turn_round(table, taps)
        block = _BLOCK if axis == 1 else height
        for start in range(0, height, block):
            count = min(block, height - start)
            pitch = (count + TILE - 1) // TILE * TILE if axis == 1 else size
            if axis == 1:
                _turn_in(picture, y0 + start, x0, count, width, first, pitch)
            rows, across = (first if axis == 1 else strip), channels * pitch
            for i in range(size):
                blend(
                    rows, table[0][i] * across, across, table[1], i * table[1].shape[1],
                    (taps + 1) // 2, bits, second, i * across, across,
                )  # fmt: skip
            if axis == 1:
                _turn_out(second, channels, size, count, pitch, strip, start * line)
    for c in range(channels):
        for y in range(size):
            for x in range(size):
                planes[c, y, x] = second[y * line + c * size + x]
