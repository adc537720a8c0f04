"""From keys to rows: what happens to view v of sample i in epoch e, as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types

from looktwice.augment.compiling import call, entry, inlined, separate
from looktwice.augment.operations.base import Box, Draw, Uniform
from looktwice.augment.philox import uniforms

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Stream = Any  # six uint64, see philox.uniforms

END: Final = -1
"""The kind of a step behind a view's last one."""

_TRIES: Final = 10
_UNIFORM: Final = 0.0
_WHOLE: Final = 1.0
_BOX: Final = 2.0
_ENTRY: Final = 5  # numbers that describe a draw
# Numbers come from blocks 1, 2, ...; the tries of a box from here on.
_BOX_BLOCK: Final = 256


def encode(draws: Iterable[Draw]) -> list[float]:
    """Return draws as `sample_rows` reads them: how many, then kind and four bounds of each."""
    entries: list[float] = []
    for draw in draws:
        if isinstance(draw, Box):
            entries += (_BOX, *draw.scale, math.log(draw.ratio[0]), math.log(draw.ratio[1]))
        else:
            kind = _UNIFORM if isinstance(draw, Uniform) else _WHOLE
            entries += (kind, draw.low, draw.high, 0.0, 0.0)
    return [len(entries) // _ENTRY, *entries]


@inlined
def _between(low: float, high: float, u: float) -> float:
    return low + (high - low) * u


@inlined
def _try_boxes(
    bounds: Floats, stream: Stream, block: int, area: float, tallest: int, widest: int
) -> tuple[int, int, float, float]:
    """Return height, width and two uniforms of the first of ten boxes that fits, or zeros.

    `bounds` are the range of the box's share of the area and of log(width / height).
    """
    for attempt in range(_TRIES):
        u_area, u_ratio, u_top, u_left = uniforms(stream, block + attempt)
        part = area * _between(bounds[0], bounds[1], u_area)
        ratio = np.exp(_between(bounds[2], bounds[3], u_ratio))
        width, height = round(np.sqrt(part * ratio)), round(np.sqrt(part / ratio))
        if 0 < width <= widest and 0 < height <= tallest:
            return height, width, u_top, u_left
    return 0, 0, 0.0, 0.0


@inlined
def _sample_crop(constants: Floats, stream: Stream, height: int, width: int, drawn: Floats) -> None:
    """Draw top, left, height, width as torchvision's `RandomResizedCrop.get_params` does."""
    h, w, u_top, u_left = _try_boxes(constants[2:], stream, 1, height * width, height, width)
    if h > 0:
        drawn[0] = np.floor(u_top * (height - h + 1))
        drawn[1] = np.floor(u_left * (width - w + 1))
    else:
        h, w = height, width
        if width < constants[6] * height:
            h = max(1, round(width / constants[6]))
        elif width > constants[7] * height:
            w = max(1, round(height * constants[7]))
        drawn[0] = (height - h) // 2
        drawn[1] = (width - w) // 2
    drawn[2] = h
    drawn[3] = w


@inlined
def _center(length: int, resized: int, size: int) -> tuple[float, float]:
    """Return where the central `size` of `resized` pixels begin in `length`, and how many."""
    return round((resized - size) / 2) * (length / resized), size * (length / resized)


@inlined
def _place_crop(constants: Floats, stream: Stream, height: int, width: int, drawn: Floats) -> None:
    """Fill top, left, height, width of one of the crops of `operations.crop`."""
    if constants[1] == 0.0:
        _sample_crop(constants, stream, height, width, drawn)
    elif constants[1] == 1.0:
        size, shorter = int(constants[2]), int(constants[3])
        tall = int(shorter * height / width) if width <= height else shorter
        wide = int(shorter * width / height) if height < width else shorter
        drawn[0], drawn[2] = _center(height, tall, size)
        drawn[1], drawn[3] = _center(width, wide, size)
    else:
        drawn[0], drawn[1], drawn[2], drawn[3] = 0.0, 0.0, height, width


@inlined
def _sample_box(bounds: Floats, stream: Stream, size: int, drawn: Floats) -> None:
    """Draw top, left, height, width as torchvision's `RandomErasing.get_params` does.

    Its ratio is height / width, and the box is smaller than the view; without one it is empty.
    """
    area, largest = size * size, size - 1
    w, h, u_left, u_top = _try_boxes(bounds[1:], stream, _BOX_BLOCK, area, largest, largest)
    drawn[0] = np.floor(u_top * (size - h + 1))
    drawn[1] = np.floor(u_left * (size - w + 1))
    drawn[2] = h
    drawn[3] = w


@inlined
def _sample_numbers(parameters: Floats, stream: Stream, size: int, drawn: Floats) -> None:
    place = 0
    for number in range(int(parameters[1])):
        bounds = parameters[2 + _ENTRY * number :]
        if bounds[0] == _BOX:
            _sample_box(bounds, stream, size, drawn[place:])
            place += 4
            continue
        u = uniforms(stream, 1 + place // 4)[place % 4]
        value = _between(bounds[1], bounds[2], u)
        drawn[place] = np.floor(value) if bounds[0] == _WHOLE else value
        place += 1


_LONGS: Final = types.int64[::1]


@separate(
    types.void(
        types.int64[:, :, ::1], _LONGS, types.float64[::1], types.uint64, types.uint64,
        _LONGS, _LONGS, _LONGS, types.float64[:, :, ::1],
    )
)  # fmt: skip
def sampler(
    steps: Longs,
    sizes: Longs,
    parameters: Floats,
    seed: int,
    epoch: int,
    indices: Longs,
    heights: Longs,
    widths: Longs,
    rows: Floats,
) -> None:
    """Fill `rows` (N, V, R) for samples `indices` (N,) of pictures of some sizes.

    `steps`, `sizes` and `parameters` are `Policy`'s program. The Philox counter is (epoch, index
    low, index high, view << 24 | position << 16 | block) and the key is the seed, so that a row
    depends on nothing else.
    """
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for n in range(indices.size):
        index = np.uint64(indices[n])
        for view in range(steps.shape[0]):
            row = rows[n, view]
            for place in range(row.size):
                row[place] = 0.0
            for step in range(steps.shape[1]):
                if steps[view, step, 0] == END:
                    break
                slot, offset = steps[view, step, 1], steps[view, step, 2]
                own = np.uint64((view << 24) | (steps[view, step, 4] << 16))
                stream = (
                    np.uint64(seed) & mask, np.uint64(seed) >> half,
                    np.uint64(epoch), index & mask, index >> half, own,
                )  # fmt: skip
                if step == 0:
                    row[0] = 1.0
                    _place_crop(parameters[offset:], stream, heights[n], widths[n], row[1:])
                elif uniforms(stream, 0)[0] < parameters[offset]:
                    row[slot] = 1.0
                    _sample_numbers(parameters[offset:], stream, sizes[view], row[slot + 1 :])


@entry
def sample_rows(address: int, arguments: tuple[Any, ...]) -> None:
    """Call the compiled `sampler`, which begins at an address, with a tuple of its arguments."""
    call(address, arguments)
