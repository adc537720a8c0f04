"""RGB to CIELAB and back on uint8: bit for bit OpenCV's COLOR_RGB2LAB and COLOR_LAB2RGB.

These are fixed-point integers: linear levels of 255 * 8, cube roots and CIE's f in units of
2^-15 on the way there and 2^-14 on the way back. L is scaled to 0-255, a and b are shifted by 128
(opencv/opencv, modules/imgproc/src/color_lab.cpp; its tables are made from their formulas here).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import inlined

Bytes = npt.NDArray[np.uint8]
Table = npt.NDArray[np.uint16]
Reals = npt.NDArray[np.floating]
Weights = tuple[int, int, int]

# sRGB with the white point D65 (IEC 61966-2-1), to as many digits as OpenCV uses.
_TO_XYZ: Final = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_FROM_XYZ: Final = np.array(
    [
        [3.240479, -1.53715, -0.498535],
        [-0.969256, 1.875991, 0.041556],
        [0.055648, -0.204043, 1.057311],
    ]
)
_WHITE: Final = np.array([0.950456, 1.0, 1.088754])
# CIE's f is a cube root above the threshold and a line below.
_THRESHOLD: Final = 216 / 24389
_SLOPE: Final = 841 / 108
_OFFSET: Final = 16 / 116

_LINEAR_LEVELS: Final = 255 * 8
_UNIT: Final = 1 << 14


def _rounded(values: Reals) -> Table:
    return np.rint(values).astype(np.uint16)


def _weights(matrix: Reals) -> list[Weights]:
    return [(round(a), round(b), round(c)) for a, b, c in (4096 * matrix).tolist()]


def _linear_table() -> Table:
    """Return the linear level (0-2040) of each sRGB level (256,)."""
    level = np.arange(256) / 255
    power = ((level + 0.055) / 1.055) ** 2.4
    return _rounded(_LINEAR_LEVELS * np.where(level <= 0.04045, level / 12.92, power))


def _root_table() -> Table:
    """Return CIE's f in units of 2^-15 of each linear level (2041,), itself rounded to float32."""
    level = np.arange(_LINEAR_LEVELS + 1) / _LINEAR_LEVELS
    root = np.where(level < _THRESHOLD, level * _SLOPE + _OFFSET, np.cbrt(level))
    return _rounded(2.0**15 * root.astype(np.float32))


def _lightness_tables() -> tuple[Table, Table]:
    """Return luminance and CIE's f, both in units of 2^-14, of each lightness (256,)."""
    lightness = np.arange(256) / 255 * 100
    above = (lightness + 16) / 116
    luminance = np.where(lightness <= 8, lightness * 27 / 29**3, above**3)
    root = np.where(lightness <= 8, lightness * 27 / 29**3 * _SLOPE + _OFFSET, above)
    return _rounded(_UNIT * luminance), _rounded(_UNIT * root)


def _encoded_table() -> Table:
    """Return the sRGB level of each linear level in units of 2^-12 (4096,)."""
    level = np.arange(4096) / 4096
    power = 1.055 * level ** (1 / 2.4) - 0.055
    return _rounded(255 * np.where(level <= 0.0031308, level * 12.92, power))


_LINEAR: Final = _linear_table()
_ROOT: Final = _root_table()
_LUMINANCE, _LIGHTNESS_ROOT = _lightness_tables()
_ENCODED: Final = _encoded_table()
# Rows of the matrices in units of 2^-12, the white point divided out and multiplied in.
_TO_X, _TO_Y, _TO_Z = _weights(_TO_XYZ / _WHITE[:, None])
_TO_RED, _TO_GREEN, _TO_BLUE = _weights(_FROM_XYZ * _WHITE)
_ZERO: Final = np.int32(0)
_BRIGHTEST: Final = np.int32(_ENCODED.size - 1)
_LIGHTNESS_SCALE: Final = (116 * 255 + 50) // 100
_LIGHTNESS_SHIFT: Final = (16 * 255 * (1 << 15) + 50) // 100 - (1 << 14)
_CHROMA_SHIFT: Final = (128 << 15) + (1 << 14)


@inlined
def _root(weights: Weights, red: np.int32, green: np.int32, blue: np.int32) -> np.int32:
    """Return CIE's f of one of X, Y, Z, in units of 2^-15."""
    level = np.uint32(weights[0] * red + weights[1] * green + weights[2] * blue + (1 << 11))
    return np.int32(_ROOT[level >> np.uint32(12)])


@inlined
def rgb_to_lab(planes: Bytes) -> None:
    """Replace red, green and blue of `planes` (3, pixels) by L, a and b."""
    first, second, third = planes[0], planes[1], planes[2]
    for i in range(first.size):
        red, green = np.int32(_LINEAR[first[i]]), np.int32(_LINEAR[second[i]])
        blue = np.int32(_LINEAR[third[i]])
        x, y = _root(_TO_X, red, green, blue), _root(_TO_Y, red, green, blue)
        z = _root(_TO_Z, red, green, blue)
        first[i] = np.uint8(np.int32(_LIGHTNESS_SCALE * y - _LIGHTNESS_SHIFT) >> 15)
        second[i] = np.uint8(np.int32(500 * (x - y) + _CHROMA_SHIFT) >> 15)
        third[i] = np.uint8(np.int32(200 * (y - z) + _CHROMA_SHIFT) >> 15)


@inlined
def _cube(root: np.int32) -> np.int32:
    """Return X or Z of CIE's f, both in units of 2^-14; the line's quotient is cut off."""
    line = np.int32(np.float32(np.int32(108 * root)) / np.float32(841.0)) - 290
    power = np.int32(np.int32(np.int32(root * root) >> 14) * root) >> 14
    return np.int32(line if root <= 3390 else power)


@inlined
def _encode(weights: Weights, x: np.int32, y: np.int32, z: np.int32) -> np.uint8:
    """Return the sRGB level of one of red, green, blue."""
    level = np.int32(weights[0] * x + weights[1] * y + weights[2] * z + (1 << 13)) >> 14
    return np.uint8(_ENCODED[np.uint32(max(_ZERO, min(level, _BRIGHTEST)))])


@inlined
def lab_to_rgb(planes: Bytes) -> None:
    """Replace L, a and b of `planes` (3, pixels) by red, green and blue.

    Of a the 500th part and of b the 200th are added to the f of Y and taken from it: 2^14 / 500
    is 5 * 53687 / 2^13, and 2^14 / 200 is 41943 / 2^9.
    """
    first, second, third = planes[0], planes[1], planes[2]
    for i in range(first.size):
        y, root = np.int32(_LUMINANCE[first[i]]), np.int32(_LIGHTNESS_ROOT[first[i]])
        over = (np.int32(5 * 53687 * np.int32(second[i]) + (1 << 7)) >> 13) - 4194
        under = (np.int32(41943 * np.int32(third[i]) + (1 << 4)) >> 9) - 10484
        x, z = _cube(np.int32(root + over)), _cube(np.int32(root - under))
        first[i] = _encode(_TO_RED, x, y, z)
        second[i] = _encode(_TO_GREEN, x, y, z)
        third[i] = _encode(_TO_BLUE, x, y, z)
