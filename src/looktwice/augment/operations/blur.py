"""Gaussian blur, separable, in whole numbers; torchvision's sum to within one level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import Kernel, carve, inlined, kernel
from looktwice.augment.operations.base import (
    Draw,
    Operation,
    Uniform,
    check_probability,
    check_range,
    check_whole,
)
from looktwice.augment.vectors import SPAN, TILE, Bytes, Shorts, blend, transpose
from looktwice.errors import UsageError

Floats = npt.NDArray[np.float64]

MAX_KERNEL: Final = 511
# Bytes for its weights, a multiple of 64.
_WINDOW: Final = 1088

_BITS: Final = 15
_ONE: Final = 1 << _BITS


@inlined
def _fill_window(window: Shorts, sigma: float, half: int) -> int:
    """Fill weights from one end to the other, and a zero; return their reach.

    The weights are whole numbers that sum to 2^15, so that even areas stay as they are.
    """
    total = 1.0
    for j in range(1, half + 1):
        total += 2.0 * np.exp(-0.5 * (j / sigma) ** 2)
    reach, sides = 0, 0
    for j in range(1, half + 1):
        weight = int(np.exp(-0.5 * (j / sigma) ** 2) / total * _ONE + 0.5)
        if weight > 0:
            reach = j
            sides += 2 * weight
    for j in range(1, reach + 1):
        weight = int(np.exp(-0.5 * (j / sigma) ** 2) / total * _ONE + 0.5)
        window[reach - j] = weight
        window[reach + j] = weight
    window[reach] = _ONE - sides
    window[2 * reach + 1] = 0
    return reach


@inlined
def reflect(i: int, size: int) -> int:
    """Fold an index back into [0, size) at the centres of the border pixels."""
    if size == 1:
        return 0
    i = abs(i) % (2 * size - 2)
    return min(i, 2 * size - 2 - i)


@inlined
def _pitch(size: int) -> int:
    return (size + TILE - 1) // TILE * TILE


@kernel
def _blur(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:
    """Blend rows with the rows around them, turn the plane on its side, and do it again."""
    size, half = planes.shape[1], int(constants[0]) // 2
    window = carve(room, 0, 2 * half + 2, np.int16)
    padded, blended = room[_WINDOW:], room[_WINDOW + int(constants[1]) :]
    reach = _fill_window(window, drawn[0], half)
    if reach == 0:
        return
    pitch = _pitch(size)
    tall = max(size, TILE)
    for c in range(planes.shape[0]):
        for y in range(size):
            for x in range(size):
                padded[(reach + y) * pitch + x] = planes[c, y, x]
        for _ in range(2):
            for j in range(1, reach + 1):
                above, below = reach + reflect(-j, size), reach + reflect(size - 1 + j, size)
                for x in range(size):
                    padded[(reach - j) * pitch + x] = padded[above * pitch + x]
                    padded[(reach + size - 1 + j) * pitch + x] = padded[below * pitch + x]
            for y in range(size):
                blend(
                    padded, y * pitch, pitch, window, 0, reach + 1, _BITS, blended, y * pitch, size
                )
            transpose(blended, 0, pitch, size, tall, padded, reach * pitch, pitch, True)
        for y in range(size):
            for x in range(size):
                planes[c, y, x] = padded[(reach + y) * pitch + x]


def _padded_size(size: int, half: int) -> int:
    """Return the bytes of a plane with borders, and what `blend` may touch beyond."""
    return (size + TILE + 2 * half + 2) * (size + TILE) + SPAN


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
        """Return the window's side, and the bytes of a plane with borders."""
        side = max(3, 2 * (size // 20) + 1) if self.kernel_size is None else self.kernel_size
        return (side, _padded_size(size, side // 2))

    def room(self, size: int, _channels: int, /) -> int:
        """Return room for the window, a plane with borders and a plane."""
        return _WINDOW + int(self.constants(size)[1]) + _padded_size(size, 0)
