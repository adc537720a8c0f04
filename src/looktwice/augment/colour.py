"""Operations on the colours of planes (C, pixels), each equal to torchvision v2's on uint8.

The formulas, their order and the roundings between are those of torchvision's
transforms/v2/functional/_color.py in float32; torch's `add(other, alpha)` is a fused multiply-add.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import inlined, intrinsic
from looktwice.augment.operations import JITTER_ORDERS

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
_ORDERS: Final = np.array(JITTER_ORDERS, dtype=np.int64)


@intrinsic
def _multiply_add(_typing: Any, a: Any, b: Any, c: Any) -> Any:
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
    light = _multiply_add(np.float32(green), _GREEN, light)
    return np.int32(_multiply_add(np.float32(blue), _BLUE, light))


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
    flat = planes.reshape(-1)
    for i in range(flat.size):
        flat[i] = _byte(np.float32(flat[i]) * factor)


@inlined
def contrast(planes: Bytes, factor: np.float32, rest: np.float32) -> None:
    """Blend with the picture's mean luma; `rest` is 1 - factor, taken in double precision."""
    mean = _mean_luma(planes)
    flat = planes.reshape(-1)
    for i in range(flat.size):
        flat[i] = _byte(_multiply_add(mean, rest, np.float32(flat[i]) * factor))


@inlined
def saturate(planes: Bytes, factor: np.float32, rest: np.float32) -> None:
    """Blend colours with their own luma; `rest` is 1 - factor, taken in double precision."""
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(red.size):
        luma = np.float32(_luma(red[i], green[i], blue[i]))
        red[i] = _byte(_multiply_add(luma, rest, np.float32(red[i]) * factor))
        green[i] = _byte(_multiply_add(luma, rest, np.float32(green[i]) * factor))
        blue[i] = _byte(_multiply_add(luma, rest, np.float32(blue[i]) * factor))


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
def jitter(planes: Bytes, drawn: Floats) -> None:
    """Apply the four parts of `ColorJitter` in the drawn order; a neutral number is no work."""
    colour = planes.shape[0] == 3
    for part in _ORDERS[int(drawn[4]) % len(_ORDERS)]:
        amount = drawn[part]
        factor, rest = np.float32(amount), np.float32(1.0 - amount)
        if part == 0 and amount != 1.0:
            brighten(planes, factor)
        elif part == 1 and amount != 1.0:
            contrast(planes, factor, rest)
        elif part == 2 and amount != 1.0 and colour:
            saturate(planes, factor, rest)
        elif part == 3 and amount != 0.0 and colour:
            shift_hue(planes, factor)


@inlined
def to_gray(planes: Bytes) -> None:
    """Replace three planes by their luma; one plane stays as it is."""
    if planes.shape[0] != 3:
        return
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(red.size):
        luma = np.uint8(_luma(red[i], green[i], blue[i]))
        red[i] = luma
        green[i] = luma
        blue[i] = luma
