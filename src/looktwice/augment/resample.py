"""Antialiased resampling of a box to a square, bit for bit what torch does to uint8 pictures.

That is Pillow's algorithm: a horizontal pass rounded to uint8, then a vertical one, weights in
fixed point (ATen/native/cpu/UpSampleKernel.cpp, `_compute_index_ranges_int16_weights`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import inlined

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Scratch = tuple[Longs, Ints, Floats, Bytes, Bytes, Bytes, Bytes, Ints]

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
def fill_table(
    firsts: Longs, weights: Ints, exact: Floats, source: int, bicubic: bool, mirrored: bool
) -> int:
    """Fill where each result starts to read, (S,), and its weights, (S, taps); return the taps.

    `exact` is scratch like `weights`. All results get equally many taps, some of weight zero.
    """
    size = firsts.size
    scale = source / size
    support = (2.0 if bicubic else 1.0) * max(scale, 1.0)
    shrink = 1.0 / max(scale, 1.0)
    taps = 1
    for i in range(size):
        center = scale * (i + 0.5)
        firsts[i] = max(int(center - support + 0.5), 0)
        taps = max(taps, min(int(center + support + 0.5), source) - firsts[i])
    largest = 0.0
    for i in range(size):
        center = scale * (i + 0.5)
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
    if mirrored:
        firsts[:] = firsts[::-1].copy()
        weights[:] = weights[::-1].copy()
    return taps


@inlined
def _quantise(weights: Ints, exact: Floats, taps: int, largest: float) -> None:
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
def _blend_two(
    one: Bytes, other: Bytes, weight: np.int32, other_weight: np.int32, result: Bytes
) -> None:
    """Blend two rows by weights that are not negative: enlarging, bilinear."""
    for i in range(result.size):
        total = np.int32(np.int32(weight * one[i]) + np.int32(other_weight * other[i]))
        result[i] = np.uint8(np.int32(total + _HALF) >> _PRECISION)


@inlined
def _blend_many(source: Bytes, weights: Ints, total: Ints, result: Bytes) -> None:
    total[:] = _HALF
    for k in range(weights.size):
        weight, row = weights[k], source[k]
        if weight != 0:
            for i in range(total.size):
                total[i] += np.int32(weight * np.int32(row[i]))
    for i in range(total.size):
        level = total[i] >> _PRECISION
        level = level if level > 0 else 0
        result[i] = np.uint8(level if level < 255 else 255)


@inlined
def _resample(
    source: Bytes, firsts: Longs, weights: Ints, taps: int, total: Ints, result: Bytes
) -> None:
    """Resample the first axis of `source` (n, m) into `result` (S, m); `total` is scratch (m,)."""
    smooth = taps == 2 and weights[:, :2].min() >= 0
    for i in range(firsts.size):
        first = firsts[i]
        if smooth:
            _blend_two(source[first], source[first + 1], weights[i, 0], weights[i, 1], result[i])
        else:
            _blend_many(source[first : first + taps], weights[i, :taps], total, result[i])


@inlined
def scratch(size: int, channels: int, tallest: int, widest: int) -> Scratch:
    """Return room for `resample_box`, for pictures up to `tallest` x `widest` pixels."""
    most_taps = 2 * int(np.ceil(2.0 * max(tallest / size, widest / size, 1.0))) + 1
    return (
        np.empty(size, np.int64),
        np.empty((size, most_taps), np.int32),
        np.empty((size, most_taps), np.float64),
        np.empty((widest, channels * _BLOCK), np.uint8),
        np.empty((size, channels * _BLOCK), np.uint8),
        np.empty((tallest, channels * size), np.uint8),
        np.empty((size, channels * size), np.uint8),
        np.empty(channels * max(size, _BLOCK), np.int32),
    )


@inlined
def resample_box(box: Bytes, bicubic: bool, mirrored: bool, scratch: Scratch, planes: Bytes) -> None:
    """Resample a box (h, w, C) into planes (C, S, S), left and right exchanged if `mirrored`.

    The horizontal pass works on blocks of rows turned on their side: then both passes blend
    whole rows of memory.
    """
    height, width, channels = box.shape
    size = planes.shape[1]
    firsts, weights, exact, side, turned, strip, lines, total = scratch
    taps = fill_table(firsts, weights, exact, width, bicubic, mirrored)
    for start in range(0, height, _BLOCK):
        count = min(_BLOCK, height - start)
        used = channels * count
        for y in range(count):
            for x in range(width):
                for c in range(channels):
                    side[x, c * count + y] = box[start + y, x, c]
        _resample(side[:, :used], firsts, weights, taps, total[:used], turned[:, :used])
        for y in range(count):
            for c in range(channels):
                for x in range(size):
                    strip[start + y, c * size + x] = turned[x, c * count + y]
    taps = fill_table(firsts, weights, exact, height, bicubic, False)
    used = channels * size
    _resample(strip, firsts, weights, taps, total[:used], lines)
    for c in range(channels):
        planes[c] = lines[:, c * size : (c + 1) * size]
