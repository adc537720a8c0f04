"""Operations on colours, each equal to torchvision v2's on uint8.

The formulas, their order and the roundings between are those of torchvision's
transforms/v2/functional/_color.py in float32; torch's `add(other, alpha)` is a fused multiply-add.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import Kernel, flat, inlined, intrinsic, kernel
from looktwice.augment.operations.base import (
    Draw,
    Operation,
    Uniform,
    Whole,
    check_number,
    check_probability,
    check_range,
    check_whole,
)
from looktwice.errors import UsageError

JITTER_PARTS: Final = ("brightness", "contrast", "saturation", "hue")
# Every order of the four parts; a row holds the position in this list.
JITTER_ORDERS: Final = tuple(
    (a, b, c, 6 - a - b - c)
    for a in range(4)
    for b in range(4)
    for c in range(4)
    if len({a, b, c}) == 3
)

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_RED: Final = np.float32(0.2989)
_GREEN: Final = np.float32(0.587)
_BLUE: Final = np.float32(0.114)
_ONE: Final = np.float32(1.0)
_ZERO: Final = np.float32(0.0)
_TOP: Final = np.float32(255.0)
_SIXTH: Final = np.float32(1.0 / 6.0)
_PER_LEVEL: Final = np.float32(1.0 / 255.0)
_LEVELS: Final = np.float32(255.999)
# Rows: red, green and blue of the result from red, green and blue (a W3C filter's values).
_SEPIA: Final = np.array(
    [[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], np.float32
)
_ORDERS: Final = np.array(JITTER_ORDERS, dtype=np.int64)


@intrinsic
def multiply_add(_typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once, on every machine."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, b, c), generate


@inlined
def _byte(value: np.float32) -> np.uint8:
    """Clamp to 0-255 and cut off, as torch's clamp and conversion do."""
    value = value if value > _ZERO else _ZERO
    value = value if value < _TOP else _TOP
    return np.uint8(np.int32(value))


@inlined
def _luma(red: np.uint8, green: np.uint8, blue: np.uint8) -> np.int32:
    light = np.float32(red) * _RED
    light = multiply_add(np.float32(green), _GREEN, light)
    return np.int32(multiply_add(np.float32(blue), _BLUE, light))


@inlined
def _mean_luma(planes: Bytes) -> np.float32:
    total = 0
    pixels = planes.shape[1]
    if planes.shape[0] == 3:
        red, green, blue = planes[0], planes[1], planes[2]
        for i in range(pixels):
            total += _luma(red[i], green[i], blue[i])
    else:
        for value in planes[0]:
            total += value
    return np.float32(total) / np.float32(pixels)


@inlined
def brighten(planes: Bytes, factor: np.float32) -> None:
    """Multiply every level by a factor."""
    for c in range(planes.shape[0]):
        levels = planes[c]
        for i in range(levels.size):
            levels[i] = _byte(np.float32(levels[i]) * factor)


@inlined
def contrast(planes: Bytes, factor: np.float32, rest: np.float32) -> None:
    """Blend with the picture's mean luma; `rest` is 1 - factor, taken in double precision."""
    mean = _mean_luma(planes)
    for c in range(planes.shape[0]):
        levels = planes[c]
        for i in range(levels.size):
            levels[i] = _byte(multiply_add(mean, rest, np.float32(levels[i]) * factor))


@inlined
def saturate(planes: Bytes, factor: np.float32, rest: np.float32) -> None:
    """Blend colours with their own luma; `rest` is 1 - factor, taken in double precision."""
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(red.size):
        luma = np.float32(_luma(red[i], green[i], blue[i]))
        red[i] = _byte(multiply_add(luma, rest, np.float32(red[i]) * factor))
        green[i] = _byte(multiply_add(luma, rest, np.float32(green[i]) * factor))
        blue[i] = _byte(multiply_add(luma, rest, np.float32(blue[i]) * factor))


@inlined
def shift_hue(planes: Bytes, shift: np.float32) -> None:
    """Turn hues by `shift` of the circle, through HSV and back, without a branch."""
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(red.size):
        r = np.float32(red[i]) * _PER_LEVEL
        g = np.float32(green[i]) * _PER_LEVEL
        b = np.float32(blue[i]) * _PER_LEVEL
        top = max(red[i], green[i], blue[i])
        high = np.float32(top) * _PER_LEVEL
        low = np.float32(min(red[i], green[i], blue[i])) * _PER_LEVEL
        span = high - low
        gray = span == _ZERO
        divisor = _ONE if gray else span
        s = span / (_ONE if gray else high)
        # (a, b) are the two distances that torchvision's formula for the largest channel uses.
        from_red, from_green = high == r, high == g
        sector = _ZERO if from_red else (np.float32(2.0) if from_green else np.float32(4.0))
        plus = b if from_red else (r if from_green else g)
        minus = g if from_red else (b if from_green else r)
        h = (sector + (high - plus) / divisor) - (high - minus) / divisor
        h = h * _SIXTH + _ONE
        h = h - _ONE if h >= _ONE else h
        h = h + shift
        h = h - _ONE if h >= _ONE else h
        h = h + _ONE if h < _ZERO else h
        six = h * np.float32(6.0)
        whole = np.int32(six)
        f = six - np.float32(whole)
        odd = (whole & 1) == 1
        sf = s * f
        p = (_ONE - s) * high
        middle = ((_ONE - sf) if odd else (sf + (_ONE - s))) * high
        middle = middle if middle < _ONE else _ONE
        mid = np.uint8(np.int32(middle * _LEVELS))
        base = np.uint8(np.int32(p * _LEVELS))
        # Sectors 0 to 5; a hue that rounds up to 6 is 0. Bitwise "or" keeps it free of branches.
        whole = np.int32(0) if whole == 6 else whole
        rest = mid if (whole == 1) | (whole == 4) else base
        red[i] = top if (whole == 0) | (whole == 5) else rest
        rest = mid if (whole == 0) | (whole == 3) else base
        green[i] = top if (whole == 1) | (whole == 2) else rest
        rest = mid if (whole == 2) | (whole == 5) else base
        blue[i] = top if (whole == 3) | (whole == 4) else rest


@inlined
def _change(planes: Bytes, part: int, amount: float) -> None:
    """Apply one of `JITTER_PARTS`; a neutral amount is no work, and grey has no colours."""
    factor, rest = np.float32(amount), np.float32(1.0 - amount)
    if part == 0 and amount != 1.0:
        brighten(planes, factor)
    elif part == 1 and amount != 1.0:
        contrast(planes, factor, rest)
    elif part == 2 and amount != 1.0 and planes.shape[0] == 3:
        saturate(planes, factor, rest)
    elif part == 3 and amount != 0.0 and planes.shape[0] == 3:
        shift_hue(planes, factor)


@kernel
def _jitter(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    order = int(drawn[4])
    for turn in range(4):
        part = _ORDERS[order, turn]
        _change(flat(planes), part, drawn[part])


@kernel
def _part(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    _change(flat(planes), int(constants[0]), drawn[0])


@kernel
def _gray(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    if planes.shape[0] != 3:
        return
    levels = flat(planes)
    red, green, blue = levels[0], levels[1], levels[2]
    for i in range(red.size):
        luma = np.uint8(_luma(red[i], green[i], blue[i]))
        red[i] = luma
        green[i] = luma
        blue[i] = luma


@kernel
def _sepia(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    levels = flat(planes)
    red, green, blue = levels[0], levels[1], levels[2]
    half = np.float32(0.5)
    for i in range(red.size):
        r, g, b = np.float32(red[i]), np.float32(green[i]), np.float32(blue[i])
        red[i] = _byte(_SEPIA[0, 0] * r + _SEPIA[0, 1] * g + _SEPIA[0, 2] * b + half)
        green[i] = _byte(_SEPIA[1, 0] * r + _SEPIA[1, 1] * g + _SEPIA[1, 2] * b + half)
        blue[i] = _byte(_SEPIA[2, 0] * r + _SEPIA[2, 1] * g + _SEPIA[2, 2] * b + half)


@kernel
def _brightness_contrast(
    planes: Bytes,
    drawn: Floats,
    constants: Floats,  # noqa: ARG001
    room: Bytes,  # noqa: ARG001
) -> None:
    factor, shift = np.float32(1.0 + drawn[1]), np.float32(255.0 * drawn[0])
    for c in range(planes.shape[0]):
        levels = flat(planes)[c]
        for i in range(levels.size):
            levels[i] = _byte(np.float32(levels[i]) * factor + shift)


@final
@dataclass(frozen=True)
class ColorJitter(Operation):
    """Change brightness, contrast, saturation and hue in a random order, as torchvision does.

    A strength v draws a factor from [max(0, 1 - v), 1 + v]; hue draws a shift from [-hue, hue]
    of the colour circle, hue <= 0.5. Strength 0 leaves that part out. Pictures of one channel
    have neither saturation nor hue.

    Attributes:
        brightness: strength, 0-100.
        contrast: strength, 0-100.
        saturation: strength, 0-100.
        hue: strength, 0-0.5.
        p: probability, 0-1.
        schedule: pairs (first epoch, factor on all strengths), epochs rising; factor 1 before the
            first pair. A hue beyond 0.5 is 0.5.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "jitter"
    kernel: ClassVar[Kernel] = _jitter
    mirrors: ClassVar[bool] = True

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    p: float = 1.0
    schedule: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name in JITTER_PARTS:
            check_number(owner, name, getattr(self, name), 0.0, 0.5 if name == "hue" else 100.0)
        check_probability(self)
        earlier = -1
        pairs = self.schedule if isinstance(self.schedule, tuple) else (None,)
        if not all(isinstance(each, tuple) and len(each) == 2 for each in pairs):
            raise UsageError(
                f"{owner}: schedule must be pairs of an epoch and a factor, found {self.schedule!r}"
            )
        for epoch, factor in self.schedule:
            check_whole(owner, "schedule's epoch", epoch, earlier + 1, 1 << 32)
            check_number(owner, "schedule's factor", factor, 0.0, 100.0)
            earlier = epoch

    def draws(self, _size: int, epoch: int, /) -> Mapping[str, Draw]:
        """Return factors of three parts, the shift of the hue, and the order."""
        factor = next((f for start, f in reversed(self.schedule) if start <= epoch), 1.0)
        ranges: dict[str, Draw] = {}
        for name in JITTER_PARTS[:3]:
            strength = factor * getattr(self, name)
            ranges[name] = Uniform(max(0.0, 1.0 - strength), 1.0 + strength)
        hue = min(factor * self.hue, 0.5)
        return {**ranges, "hue": Uniform(-hue, hue), "order": Whole(0, len(JITTER_ORDERS))}

    def describe(self, drawn: Mapping[str, float]) -> dict[str, float]:
        """Return the parts that are in use, in the order in which they were applied."""
        order = JITTER_ORDERS[int(drawn["order"])]
        in_order = [JITTER_PARTS[part] for part in order]
        return {name: drawn[name] for name in in_order if getattr(self, name) > 0.0}


@final
@dataclass(frozen=True)
class Brightness(Operation):
    """Multiply every level by a factor, as torchvision's `adjust_brightness` does.

    `BrightnessContrast` adds instead.

    Attributes:
        factor: its range, within [0, 100].
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "brightness"
    kernel: ClassVar[Kernel] = _part
    mirrors: ClassVar[bool] = True

    factor: tuple[float, float] = (0.6, 1.4)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_range(type(self).__name__, "factor", self.factor, 0.0, 100.0)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return the factor's range."""
        return {"factor": Uniform(*self.factor)}

    def constants(self, _size: int, /) -> tuple[float, ...]:
        """Return the part of the jitter."""
        return (0.0,)


@final
@dataclass(frozen=True)
class Contrast(Operation):
    """Blend with the mean luma of the picture, as torchvision's `adjust_contrast` does.

    Attributes:
        factor: its range, within [0, 100]; 0 is plain grey, 1 changes nothing.
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "contrast"
    kernel: ClassVar[Kernel] = _part
    mirrors: ClassVar[bool] = True

    factor: tuple[float, float] = (0.6, 1.4)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_range(type(self).__name__, "factor", self.factor, 0.0, 100.0)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return the factor's range."""
        return {"factor": Uniform(*self.factor)}

    def constants(self, _size: int, /) -> tuple[float, ...]:
        """Return the part of the jitter."""
        return (1.0,)


@final
@dataclass(frozen=True)
class Saturation(Operation):
    """Blend colours with their own luma, as torchvision's `adjust_saturation` does.

    Attributes:
        factor: its range, within [0, 100]; 0 takes all colour away, 1 changes nothing.
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "saturation"
    kernel: ClassVar[Kernel] = _part
    colour_only: ClassVar[bool] = True
    mirrors: ClassVar[bool] = True

    factor: tuple[float, float] = (0.6, 1.4)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_range(type(self).__name__, "factor", self.factor, 0.0, 100.0)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return the factor's range."""
        return {"factor": Uniform(*self.factor)}

    def constants(self, _size: int, /) -> tuple[float, ...]:
        """Return the part of the jitter."""
        return (2.0,)


@final
@dataclass(frozen=True)
class Hue(Operation):
    """Turn hues, as torchvision's `adjust_hue` does.

    Attributes:
        shift: its range in turns of the colour circle, within [-0.5, 0.5].
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "hue"
    kernel: ClassVar[Kernel] = _part
    colour_only: ClassVar[bool] = True
    mirrors: ClassVar[bool] = True

    shift: tuple[float, float] = (-0.1, 0.1)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_range(type(self).__name__, "shift", self.shift, -0.5, 0.5)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return the shift's range."""
        return {"shift": Uniform(*self.shift)}

    def constants(self, _size: int, /) -> tuple[float, ...]:
        """Return the part of the jitter."""
        return (3.0,)


@final
@dataclass(frozen=True)
class Grayscale(Operation):
    """Replace colours by their luma (ITU-R 601), keeping three equal channels.

    Attributes:
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "gray"
    kernel: ClassVar[Kernel] = _gray
    mirrors: ClassVar[bool] = True

    p: float = 0.2

    def __post_init__(self) -> None:
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return nothing."""
        return {}


@final
@dataclass(frozen=True)
class Sepia(Operation):
    """Replace colours by brown tones: Albumentations' `ToSepia`, rounded to the nearest level.

    Attributes:
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "sepia"
    kernel: ClassVar[Kernel] = _sepia
    colour_only: ClassVar[bool] = True
    mirrors: ClassVar[bool] = True

    p: float = 0.2

    def __post_init__(self) -> None:
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return nothing."""
        return {}


@final
@dataclass(frozen=True)
class BrightnessContrast(Operation):
    """Turn a level v into v (1 + contrast) + 255 brightness, clamped and cut off.

    This is Albumentations' `RandomBrightnessContrast`, whose brightness is additive; with
    `contrast=(0, 0)` it is its former `RandomBrightness`.

    Attributes:
        brightness: range of what is added, within [-1, 1] of the full scale.
        contrast: range of what the factor is above 1, within [-1, 100].
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "brightness-contrast"
    kernel: ClassVar[Kernel] = _brightness_contrast
    mirrors: ClassVar[bool] = True

    brightness: tuple[float, float] = (-0.2, 0.2)
    contrast: tuple[float, float] = (-0.2, 0.2)
    p: float = 0.5

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_range(owner, "brightness", self.brightness, -1.0, 1.0)
        check_range(owner, "contrast", self.contrast, -1.0, 100.0)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return both ranges."""
        return {"brightness": Uniform(*self.brightness), "contrast": Uniform(*self.contrast)}
