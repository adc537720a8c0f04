"""Gaussian blur, separable, in float32; torchvision's two-dimensional sum to within one level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import Kernel, inlined, kernel
from looktwice.augment.operations.base import (
    Draw,
    Operation,
    Uniform,
    check_probability,
    check_range,
    check_whole,
)
from looktwice.errors import UsageError

Bytes = npt.NDArray[np.uint8]
Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

MAX_KERNEL: Final = 511

# A weight this small moves no pixel by more than a thousandth of a level.
_NEGLIGIBLE: Final = 1e-6
_WINDOW: Final = MAX_KERNEL // 2 + 1
_PADDED: Final = MAX_KERNEL + 1


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
def reflect(i: int, size: int) -> int:
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


@kernel
def _blur(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:
    size = planes.shape[1]
    singles = room[: 4 * (_WINDOW + _PADDED + 2 * size)].view(np.float32)
    window, line, total = (
        singles[:_WINDOW],
        singles[_WINDOW : _WINDOW + _PADDED + size],
        singles[_WINDOW + _PADDED + size :],
    )
    source = room[4 * singles.size :][: size * size].reshape(size, size)
    reach = _fill_window(window, drawn[0], int(constants[0]) // 2)
    inner = line[reach : reach + size]
    for c in range(planes.shape[0]):
        for y in range(size):
            for x in range(size):
                source[y, x] = planes[c, y, x]
        for y in range(size):
            for x in range(size):
                inner[x] = window[0] * np.float32(source[y, x])
            for j in range(1, reach + 1):
                above, below = reflect(y - j, size), reflect(y + j, size)
                _add_pair(inner, window[j], source[above], source[below])
            for j in range(1, reach + 1):
                line[reach - j] = inner[reflect(-j, size)]
                line[reach + size - 1 + j] = inner[reflect(size - 1 + j, size)]
            _blur_row(line, window, reach, total, planes[c, y])


@final
@dataclass(frozen=True)
class GaussianBlur(Operation):
    """Blur with a Gaussian window of `kernel_size` pixels a side, torchvision's `gaussian_blur`.

    Borders are reflected. Where the window is wider than the picture, torchvision fails; here
    the reflection goes on back and forth, as `numpy.pad(mode="reflect")` does.

    Attributes:
        sigma: range of the standard deviation in pixels, within [0.01, 100].
        kernel_size: odd side of the window in pixels, 1-511; None takes the odd number nearest to
            10 % of the view's side, at least 3 (SimCLR, appendix A, asks for 10 %).
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "blur"
    kernel: ClassVar[Kernel] = _blur
    mirrors: ClassVar[bool] = True

    sigma: tuple[float, float] = (0.1, 2.0)
    kernel_size: int | None = None
    p: float = 0.5

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_range(owner, "sigma", self.sigma, 0.01, 100.0)
        check_probability(self)
        if self.kernel_size is not None:
            check_whole(owner, "kernel_size", self.kernel_size, 1, MAX_KERNEL)
            if self.kernel_size % 2 == 0:
                raise UsageError(
                    f"{owner}: kernel_size must be odd, found {self.kernel_size}; use "
                    f"{self.kernel_size + 1}"
                )

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return sigma's range."""
        return {"sigma": Uniform(*self.sigma)}

    def constants(self, size: int, /) -> tuple[float, ...]:
        """Return the window's side."""
        return (max(3, 2 * (size // 20) + 1) if self.kernel_size is None else self.kernel_size,)

    def room(self, size: int, _channels: int, /) -> int:
        """Return room for window, padded line, sums and a plane."""
        return 4 * (_WINDOW + _PADDED + 2 * size) + size * size
