"""Gradients, sharpening and noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import Kernel, carve, inlined, kernel
from looktwice.augment.operations.base import (
    MAX_WHOLE,
    Draw,
    Operation,
    Uniform,
    Whole,
    check_probability,
    check_range,
)
from looktwice.augment.operations.blur import reflect
from looktwice.augment.operations.colour import multiply_add
from looktwice.augment.operations.geometry import copy_planes
from looktwice.augment.philox import philox

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

_ZERO: Final = np.float32(0.0)
_TOP: Final = np.float32(255.0)
_HALF: Final = np.float32(0.5)
_QUARTER: Final = np.float32(0.25)
_THIRTEENTH: Final = np.float32(1.0 / 13.0)
_UNIT: Final = np.float32(1.0 / 4294967296.0)
_CIRCLE: Final = np.float32(2.0 * math.pi / 4294967296.0)


@inlined
def _gradients(rows: tuple[Bytes, Bytes, Bytes], sums: Integers, differences: Integers) -> None:
    """Fill sums and differences down three rows (S,), with a reflected pixel at each end."""
    above, here, below = rows
    size = here.size
    for x in range(size):
        sums[1 + x] = np.int32(above[x]) + 2 * np.int32(here[x]) + np.int32(below[x])
        differences[1 + x] = np.int32(below[x]) - np.int32(above[x])
    for line in (sums, differences):
        line[0] = line[1 + reflect(-1, size)]
        line[size + 1] = line[1 + reflect(size, size)]


@inlined
def _magnitudes(sums: Integers, differences: Integers, result: Bytes) -> None:
    """Write a quarter of the gradients' length; float32 rounds none of them differently."""
    for x in range(result.size):
        across = sums[x + 2] - sums[x]
        down = differences[x] + 2 * differences[x + 1] + differences[x + 2]
        length = np.sqrt(np.float32(across * across + down * down))
        result[x] = np.uint8(np.int32(min(_QUARTER * length + _HALF, _TOP)))


@kernel
def _sobel(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    channels, size, _ = planes.shape
    lines = carve(room, 0, 2 * (size + 2), np.int32)
    sums, differences = lines[: size + 2], lines[size + 2 :]
    source = copy_planes(planes, room[8 * (size + 2) :])
    for c in range(channels):
        plane = source[c * size * size :]
        for y in range(size):
            above, below = reflect(y - 1, size) * size, reflect(y + 1, size) * size
            rows = (
                plane[above : above + size],
                plane[y * size : (y + 1) * size],
                plane[below : below + size],
            )
            _gradients(rows, sums, differences)
            _magnitudes(sums, differences, planes[c, y])


@inlined
def sharpen(planes: Bytes, factor: float, room: Bytes) -> None:
    """Blend with a smoothed picture, as torchvision v2's `adjust_sharpness` does on uint8.

    `room` holds 4 S bytes for a line, then the planes (C, S, S).
    """
    channels, size, _ = planes.shape
    rest = np.float32(1.0 - factor)
    sums = carve(room, 0, size, np.int32)
    source = copy_planes(planes, room[4 * size :])
    for c in range(channels):
        for y in range(1, size - 1):
            start = (c * size + y) * size
            above, here, below = source[start - size :], source[start:], source[start + size :]
            for x in range(size):
                sums[x] = np.int32(above[x]) + np.int32(here[x]) + np.int32(below[x])
            result = planes[c, y]
            for x in range(1, size - 1):
                level = np.int32(here[x])
                total = sums[x - 1] + sums[x] + sums[x + 1] + 4 * level
                # A thirteenth of a whole number is never near a half: any sum rounds alike.
                smooth = np.int32(np.float32(total) * _THIRTEENTH + _HALF)
                value = multiply_add(np.float32(smooth - level), rest, np.float32(level))
                value = value if value > _ZERO else _ZERO
                result[x] = np.uint8(np.int32(value if value < _TOP else _TOP))


@kernel
def _sharpness(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    sharpen(planes, drawn[0], room)


@inlined
def _normals(
    block: int, key: tuple[np.uint64, np.uint64]
) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Return four standard normal numbers in float32 (Box and Muller, 1958)."""
    none = np.uint64(0)
    a, b, c, d = philox((np.uint64(block), none, none, none), key)
    one = np.sqrt(np.float32(-2.0) * np.log(np.float32(a + np.uint64(1)) * _UNIT))
    other = np.sqrt(np.float32(-2.0) * np.log(np.float32(c + np.uint64(1)) * _UNIT))
    first, second = np.float32(b) * _CIRCLE, np.float32(d) * _CIRCLE
    return one * np.cos(first), one * np.sin(first), other * np.cos(second), other * np.sin(second)


@kernel
def _noise(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    flat = carve(planes, 0, planes.size, np.uint8)
    scale = np.float32(255.0 * drawn[0])
    key = np.uint64(drawn[1]), np.uint64(drawn[2])
    for start in range(0, flat.size, 4):
        normals = _normals(start // 4, key)
        for i in range(start, min(start + 4, flat.size)):
            value = np.float32(flat[i]) + scale * normals[i - start] + _HALF
            value = value if value > _ZERO else _ZERO
            flat[i] = np.uint8(np.int32(value if value < _TOP else _TOP))


@final
@dataclass(frozen=True)
class Sobel(Operation):
    """Replace each channel by the length of its gradient (SimCLR, arXiv 2002.05709, figure 4).

    Both 3 x 3 Sobel sums are divided by 4, so that an edge of 255 levels gives 255; the length is
    rounded and clamped. Borders are reflected at the centres of their pixels.

    Attributes:
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "sobel"
    kernel: ClassVar[Kernel] = _sobel
    mirrors: ClassVar[bool] = True

    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return nothing."""
        return {}

    def room(self, size: int, channels: int, /) -> int:
        """Return room for two lines of int32 and the planes."""
        return 8 * (size + 2) + channels * size * size


@final
@dataclass(frozen=True)
class Sharpness(Operation):
    """Blend with a smoothed picture, as torchvision v2's `adjust_sharpness` does to uint8.

    The outermost pixels stay as they are, and so do views of one or two pixels.

    Attributes:
        factor: its range, within [0, 100]; 0 smooths, 1 changes nothing, more sharpens.
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "sharpness"
    kernel: ClassVar[Kernel] = _sharpness
    mirrors: ClassVar[bool] = True

    factor: tuple[float, float] = (0.5, 1.5)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_range(type(self).__name__, "factor", self.factor, 0.0, 100.0)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return the factor's range."""
        return {"factor": Uniform(*self.factor)}

    def room(self, size: int, channels: int, /) -> int:
        """Return room for a line of int32 and the planes."""
        return 4 * size + channels * size * size


@final
@dataclass(frozen=True)
class GaussianNoise(Operation):
    """Add to every pixel of every channel a normal number of its own; round and clamp.

    The numbers come from Philox: the row holds the key, and pixel i of the planes, counted
    through all channels, has lane i % 4 of counter i // 4.

    Attributes:
        sigma: range of the standard deviation as a share of full scale, within [0, 1].
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "noise"
    kernel: ClassVar[Kernel] = _noise

    sigma: tuple[float, float] = (0.0, 0.1)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_range(type(self).__name__, "sigma", self.sigma, 0.0, 1.0)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return sigma's range, and the key."""
        word = Whole(0, MAX_WHOLE)
        return {"sigma": Uniform(*self.sigma), "key_low": word, "key_high": word}

    def describe(self, drawn: Mapping[str, float]) -> dict[str, float]:
        """Return sigma."""
        return {"sigma": drawn["sigma"]}
