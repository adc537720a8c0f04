"""From keys to rows: what happens to view v of sample i in epoch e, as numbers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import entry, inlined
from looktwice.augment.operations import (
    JITTER_ORDERS,
    ColorJitter,
    GaussianBlur,
    RandomResizedCrop,
)
from looktwice.augment.philox import uniforms

Floats = npt.NDArray[np.float64]
Stream = Any  # six uint64, see philox.uniforms

_CROP: Final = RandomResizedCrop.code
_JITTER: Final = ColorJitter.code
_BLUR: Final = GaussianBlur.code
_NUM_ORDERS: Final = len(JITTER_ORDERS)
_TRIES: Final = 10


@inlined
def _between(low: float, high: float, u: float) -> float:
    return low + (high - low) * u


@inlined
def _sample_crop(
    parameters: Floats, stream: Stream, height: int, width: int, drawn: Floats
) -> None:
    """Draw top, left, height, width as torchvision's `RandomResizedCrop.get_params` does."""
    for attempt in range(_TRIES):
        u_area, u_ratio, u_top, u_left = uniforms(stream, 1 + attempt)
        area = height * width * _between(parameters[1], parameters[2], u_area)
        ratio = np.exp(_between(parameters[3], parameters[4], u_ratio))
        w = round(np.sqrt(area * ratio))
        h = round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            drawn[0] = np.floor(u_top * (height - h + 1))
            drawn[1] = np.floor(u_left * (width - w + 1))
            drawn[2] = h
            drawn[3] = w
            return
    w, h = width, height
    if width < parameters[5] * height:
        h = max(1, round(width / parameters[5]))
    elif width > parameters[6] * height:
        w = max(1, round(height * parameters[6]))
    drawn[0] = (height - h) // 2
    drawn[1] = (width - w) // 2
    drawn[2] = h
    drawn[3] = w


@inlined
def _sample_jitter(parameters: Floats, stream: Stream, drawn: Floats) -> None:
    factors = uniforms(stream, 1)
    for part in range(4):
        drawn[part] = _between(parameters[1 + 2 * part], parameters[2 + 2 * part], factors[part])
    drawn[4] = np.floor(uniforms(stream, 2)[0] * _NUM_ORDERS)


@inlined
def _sample_blur(parameters: Floats, stream: Stream, drawn: Floats) -> None:
    drawn[0] = _between(parameters[1], parameters[2], uniforms(stream, 1)[0])


@entry
def sample_rows(
    program: npt.NDArray[np.int64],
    parameters: Floats,
    seed: int,
    epoch: int,
    indices: npt.NDArray[np.int64],
    heights: npt.NDArray[np.int64],
    widths: npt.NDArray[np.int64],
    rows: Floats,
) -> None:
    """Fill `rows` (N, V, R), zeros before, for samples `indices` (N,) of pictures of given sizes.

    `program` (V, steps, 4) is `Policy`'s list of (code, slot, parameters, position). The Philox
    counter is (epoch, index low, index high, view << 24 | position << 16 | block) and the key is
    the seed, so that a row depends on nothing else.
    """
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for n in range(indices.size):
        index = np.uint64(indices[n])
        for view in range(program.shape[0]):
            for step in range(program.shape[1]):
                code, slot, offset, position = program[view, step]
                if code == 0:
                    break
                own = np.uint64((view << 24) | (position << 16))
                stream = (
                    np.uint64(seed) & mask, np.uint64(seed) >> half,
                    np.uint64(epoch), index & mask, index >> half, own,
                )  # fmt: skip
                if uniforms(stream, 0)[0] >= parameters[offset]:
                    continue
                rows[n, view, slot] = 1.0
                drawn = rows[n, view, slot + 1 :]
                if code == _CROP:
                    _sample_crop(parameters[offset:], stream, heights[n], widths[n], drawn)
                elif code == _JITTER:
                    _sample_jitter(parameters[offset:], stream, drawn)
                elif code == _BLUR:
                    _sample_blur(parameters[offset:], stream, drawn)
