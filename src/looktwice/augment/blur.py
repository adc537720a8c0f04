"""Gaussian blur, separable, in float32; torchvision's two-dimensional sum to within one level."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import inlined
from looktwice.augment.operations import MAX_KERNEL

Bytes = npt.NDArray[np.uint8]
Singles = npt.NDArray[np.float32]
BlurScratch = tuple[Singles, Bytes, Singles, Singles]

# A weight this small moves no pixel by more than a thousandth of a level.
_NEGLIGIBLE: Final = 1e-6


@inlined
def _fill_window(window: Singles, sigma: float, half: int) -> int:
    """Fill weights by distance (half + 1,); return the distance beyond which they vanish."""
    total = 1.0
    for j in range(1, half + 1):
        total += 2.0 * np.exp(-0.5 * (j / sigma) ** 2)
    reach = 0
    for j in range(half + 1):
        weight = np.exp(-0.5 * (j / sigma) ** 2) / total
        window[j] = weight
        if weight > _NEGLIGIBLE:
            reach = j
    return reach


@inlined
def _reflect(i: int, size: int) -> int:
    """Fold an index back into [0, size) at the centres of the border pixels."""
    if size == 1:
        return 0
    i = abs(i) % (2 * size - 2)
    return min(i, 2 * size - 2 - i)


@inlined
def _add_pair(total: Singles, weight: np.float32, one: Bytes, other: Bytes) -> None:
    for x in range(total.size):
        total[x] += weight * np.float32(np.int32(one[x]) + np.int32(other[x]))


@inlined
def _blur_row(line: Singles, window: Singles, reach: int, total: Singles, result: Bytes) -> None:
    """Blur a padded line (S + 2 reach,) into `result` (S,)."""
    size = result.size
    for x in range(size):
        total[x] = window[0] * line[reach + x] + np.float32(0.5)
    for j in range(1, reach + 1):
        weight = window[j]
        left, right = line[reach - j :], line[reach + j :]
        for x in range(size):
            total[x] += weight * (left[x] + right[x])
    for x in range(size):
        result[x] = np.uint8(np.int32(total[x]))


def blur_scratch(size: int) -> BlurScratch:
    """Return room for window, source plane, padded line and sums, for views of `size` pixels."""
    return (
        np.empty(MAX_KERNEL // 2 + 1, np.float32),
        np.empty((size, size), np.uint8),
        np.empty(size + MAX_KERNEL, np.float32),
        np.empty(size, np.float32),
    )


@inlined
def blur(planes: Bytes, sigma: float, kernel: int, scratch: BlurScratch) -> None:
    """Blur planes (C, S, S) in place."""
    window, source, line, total = scratch
    size = planes.shape[1]
    reach = _fill_window(window, sigma, kernel // 2)
    inner = line[reach : reach + size]
    for c in range(planes.shape[0]):
        for y in range(size):
            for x in range(size):
                source[y, x] = planes[c, y, x]
        for y in range(size):
            for x in range(size):
                inner[x] = window[0] * np.float32(source[y, x])
            for j in range(1, reach + 1):
                above, below = _reflect(y - j, size), _reflect(y + j, size)
                _add_pair(inner, window[j], source[above], source[below])
            for j in range(1, reach + 1):
                line[reach - j] = inner[_reflect(-j, size)]
                line[reach + size - 1 + j] = inner[_reflect(size - 1 + j, size)]
            _blur_row(line, window, reach, total, planes[c, y])
