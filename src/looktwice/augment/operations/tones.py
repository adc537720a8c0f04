"""Operations on each level alone: torchvision v2's on uint8, to the bit.

The formulas are those of torchvision's transforms/v2/functional/_color.py, those of `equalize`
Pillow's ImageOps.equalize as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import Kernel, carve, flat, inlined, kernel
from looktwice.augment.operations.base import Draw, Operation, check_probability, check_whole

EQUALIZE_ROOM: Final = 4 * 4 * 256
"""Bytes of scratch that `equalize` needs."""

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

_PER_LEVEL: Final = np.float32(1.0 / 255.0)
_TOP: Final = np.float32(255.0)


@inlined
def invert(planes: Bytes) -> None:
    """Replace every level v of `planes` (C, ...) by 255 - v."""
    flat = carve(planes, 0, planes.size, np.uint8)
    for i in range(flat.size):
        flat[i] = ~flat[i]


@inlined
def solarize(planes: Bytes, threshold: float) -> None:
    """Replace the levels v >= threshold of `planes` (C, ...) by 255 - v; any threshold is fine."""
    flat, first = carve(planes, 0, planes.size, np.uint8), np.int32(np.ceil(threshold))
    for i in range(flat.size):
        flat[i] = ~flat[i] if np.int32(flat[i]) >= first else flat[i]


@inlined
def posterize(planes: Bytes, bits: int) -> None:
    """Clear all but the upper `bits`, 0-8, of every level of `planes` (C, ...)."""
    flat, mask = carve(planes, 0, planes.size, np.uint8), np.uint8((0xFF00 >> int(bits)) & 0xFF)
    for i in range(flat.size):
        flat[i] &= mask


@inlined
def _count_levels(levels: Bytes, counts: Counts) -> None:
    """Fill the first 256 of `counts` (1024,) with how often each of 256 levels is there.

    Four counters for each level: equal neighbours do not wait for each other's store.
    """
    for level in range(1024):
        counts[level] = 0
    fourths = levels.size // 4
    for i in range(fourths):
        for part in range(4):
            counts[256 * part + levels[4 * i + part]] += 1
    for i in range(4 * fourths, levels.size):
        counts[levels[i]] += 1
    for level in range(256):
        counts[level] += counts[256 + level] + counts[512 + level] + counts[768 + level]


@inlined
def equalize(planes: Bytes, room: Bytes) -> None:
    """Equalize the histogram of each of `planes` (C, ...), in `EQUALIZE_ROOM` bytes of `room`."""
    counts = carve(room, 0, EQUALIZE_ROOM // 4, np.int32)
    for c in range(planes.shape[0]):
        levels = flat(planes)[c]
        _count_levels(levels, counts)
        highest = 255
        while counts[highest] == 0:
            highest -= 1
        step = (levels.size - counts[highest]) // 255
        if step == 0:
            continue
        below = step // 2
        for level in range(256):
            count = counts[level]
            counts[level] = min(below // step, 255)
            below += count
        for i in range(levels.size):
            levels[i] = counts[levels[i]]


@inlined
def autocontrast(planes: Bytes) -> None:
    """Stretch each of `planes` (C, ...) linearly so that it reaches from 0 to 255."""
    for c in range(planes.shape[0]):
        levels = flat(planes)[c]
        low, high = levels[0], levels[0]
        for i in range(levels.size):
            low, high = min(low, levels[i]), max(high, levels[i])
        if low == high:
            continue
        shift = np.float32(low)
        scale = (np.float32(high) - shift) * _PER_LEVEL
        for i in range(levels.size):
            levels[i] = np.uint8(np.int32(min((np.float32(levels[i]) - shift) / scale, _TOP)))


@kernel
def _invert(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    invert(planes)


@kernel
def _solarize(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    solarize(planes, constants[0])


@kernel
def _posterize(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    posterize(planes, int(constants[0]))


@kernel
def _equalize(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    equalize(planes, room)


@kernel
def _autocontrast(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    autocontrast(planes)


@final
@dataclass(frozen=True)
class Invert(Operation):
    """Replace every level v by 255 - v, as torchvision's `invert` does.

    Attributes:
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "invert"
    kernel: ClassVar[Kernel] = _invert
    mirrors: ClassVar[bool] = True

    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return nothing."""
        return {}


@final
@dataclass(frozen=True)
class Solarize(Operation):
    """Invert the levels from `threshold` on, as torchvision's `solarize` does.

    Attributes:
        threshold: the first level that is inverted, 0-256; 0 inverts all, 256 none.
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "solarize"
    kernel: ClassVar[Kernel] = _solarize
    mirrors: ClassVar[bool] = True

    threshold: int = 128
    p: float = 0.5

    def __post_init__(self) -> None:
        check_whole(type(self).__name__, "threshold", self.threshold, 0, 256)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return nothing."""
        return {}

    def constants(self, _size: int, /) -> tuple[float, ...]:
        """Return the threshold."""
        return (self.threshold,)


@final
@dataclass(frozen=True)
class Posterize(Operation):
    """Clear all but the upper bits of every level, as torchvision's `posterize` does.

    Attributes:
        bits: how many are kept, 1-8; 8 changes nothing.
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "posterize"
    kernel: ClassVar[Kernel] = _posterize
    mirrors: ClassVar[bool] = True

    bits: int = 4
    p: float = 0.5

    def __post_init__(self) -> None:
        check_whole(type(self).__name__, "bits", self.bits, 1, 8)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return nothing."""
        return {}

    def constants(self, _size: int, /) -> tuple[float, ...]:
        """Return the number of bits."""
        return (self.bits,)


@final
@dataclass(frozen=True)
class Equalize(Operation):
    """Make the histogram of each channel as even as one table of levels can.

    Pillow's `ImageOps.equalize` and torchvision's `equalize` on uint8 agree on every picture, and
    this with both. A channel with fewer than 255 pixels below its highest level stays as it is.

    Attributes:
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "equalize"
    kernel: ClassVar[Kernel] = _equalize
    mirrors: ClassVar[bool] = True

    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return nothing."""
        return {}

    def room(self, _size: int, _channels: int, /) -> int:
        """Return room for the counts of levels."""
        return EQUALIZE_ROOM


@final
@dataclass(frozen=True)
class AutoContrast(Operation):
    """Stretch each channel so that it reaches from 0 to 255, as torchvision's `autocontrast` does.

    The arithmetic is torchvision's on uint8: float32, and what is behind the point is cut off;
    Pillow's `ImageOps.autocontrast` is a level apart at places. A plain channel stays as it is.

    Attributes:
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "autocontrast"
    kernel: ClassVar[Kernel] = _autocontrast
    mirrors: ClassVar[bool] = True

    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return nothing."""
        return {}
