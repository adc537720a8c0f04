"""Operations that move pixels or take them away."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import Kernel, carve, inlined, kernel
from looktwice.augment.operations.base import (
    Box,
    Draw,
    Operation,
    Uniform,
    Whole,
    check_choice,
    check_probability,
    check_range,
    check_whole,
)
from looktwice.augment.operations.colour import multiply_add

RotationMode = Literal["nearest", "bilinear"]
ROTATION_MODES: Final[Mapping[str, int]] = {"nearest": 0, "bilinear": 1}

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Matrix = tuple[float, float, float, float, float, float]

_ZERO: Final = np.float32(0.0)
_HALF: Final = np.float32(0.5)
_ONE: Final = np.float32(1.0)
# Up to this side torch multiplies the grid's matrices without fused sums.
_UNFUSED: Final = 8


@kernel
def _mirror(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    for c in range(planes.shape[0]):
        for y in range(planes.shape[1]):
            line = planes[c, y]
            for x in range(line.size // 2):
                line[x], line[-1 - x] = line[-1 - x], line[x]


@inlined
def copy_planes(planes: Bytes, room: Bytes) -> Bytes:
    """Copy planes (C, S, S) to the start of `room`; return that, flat (C S S,)."""
    flat, source = carve(planes, 0, planes.size, np.uint8), room[: planes.size]
    for i in range(flat.size):
        source[i] = flat[i]
    return source


@inlined
def _turn(planes: Bytes, source: Bytes, quarters: int) -> None:
    """Fill planes from `source` (C S S,), turned counter-clockwise by quarters of a circle."""
    channels, size, _ = planes.shape
    last, pixels = size - 1, size * size
    if quarters == 1:
        start, down, right = last, -1, size
    elif quarters == 2:
        start, down, right = pixels - 1, -size, -1
    elif quarters == 3:
        start, down, right = last * size, 1, -size
    else:
        start, down, right = 0, size, 1
    for c in range(channels):
        for y in range(size):
            first = c * pixels + start + y * down
            for x in range(size):
                planes[c, y, x] = source[first + x * right]


@inlined
def _position(
    x: np.float32, y: np.float32, row: tuple[np.float32, np.float32, np.float32], size: int
) -> np.float32:
    """Return one coordinate, in pixels of the source, of a pixel (x, y) counted from the centre.

    `row` is one of the matrix's, in half sides. This is torchvision's `_affine_grid` followed by
    torch's `grid_sample`, most of whose sums are fused; otherwise ties would go to other pixels.
    """
    if size > _UNFUSED:
        grid = multiply_add(y, row[1], x * row[0]) + row[2]
    else:
        grid = (x * row[0] + y * row[1]) + row[2]
    position: np.float32 = multiply_add(grid + _ONE, np.float32(0.5 * size), -_HALF)
    return position


@inlined
def _rows(
    matrix: Matrix, size: int
) -> tuple[tuple[np.float32, np.float32, np.float32], tuple[np.float32, np.float32, np.float32]]:
    """Return both rows of a matrix in half sides of the view, in float32."""
    a, b, c, d, e, f = matrix
    half = np.float32(0.5 * size)
    return (
        (np.float32(a) / half, np.float32(b) / half, np.float32(c) / half),
        (np.float32(d) / half, np.float32(e) / half, np.float32(f) / half),
    )


@inlined
def rotation_matrix(degrees: float) -> Matrix:
    """Return the matrix of a rotation counter-clockwise, from the result back to the source."""
    radians = math.radians(degrees)
    cosine, sine = math.cos(radians), math.sin(radians)
    return cosine, -sine, 0.0, sine, cosine, 0.0


@inlined
def affine_nearest(planes: Bytes, source: Bytes, matrix: Matrix, fill: np.uint8) -> None:
    """Fill planes (C, S, S) with the nearest pixels of `source` (C S S,), outside with `fill`.

    `matrix` turns a pixel of the result into one of the source, both counted from the centre:
    column a x + b y + c, row d x + e y + f. Equal to torchvision v2's `affine` on uint8.
    """
    channels, size, _ = planes.shape
    row_x, row_y = _rows(matrix, size)
    middle, end = np.float32(0.5 * (size - 1)), np.float32(size - 1)
    for line in range(size):
        y = np.float32(line) - middle
        for column in range(size):
            x = np.float32(column) - middle
            source_x = np.rint(_position(x, y, row_x, size))
            source_y = np.rint(_position(x, y, row_y, size))
            inside = (
                (source_x >= _ZERO) & (source_x <= end) & (source_y >= _ZERO) & (source_y <= end)
            )
            at = int(source_y) * size + int(source_x) if inside else 0
            for c in range(channels):
                planes[c, line, column] = source[c * size * size + at] if inside else fill


@inlined
def _corner(position: np.float32, size: int) -> tuple[int, int, np.float32, np.float32]:
    """Return both neighbours of a coordinate and their weights, which are 0 outside."""
    low = np.floor(position)
    high_weight = position - low
    low_weight = _ONE - high_weight
    first = int(low)
    if first < 0 or first >= size:
        low_weight = _ZERO
    if first < -1 or first >= size - 1:
        high_weight = _ZERO
    last = size - 1
    return min(max(first, 0), last), min(max(first + 1, 0), last), low_weight, high_weight


@inlined
def _affine_bilinear(planes: Bytes, source: Bytes, matrix: Matrix, fill: np.float32) -> None:
    """Fill planes as `affine_nearest` does, from four neighbours each.

    At the border torchvision blends with black, then once more with `fill` by the share of the
    neighbours that lie inside; so does this.
    """
    channels, size, _ = planes.shape
    row_x, row_y = _rows(matrix, size)
    middle = np.float32(0.5 * (size - 1))
    for line in range(size):
        y = np.float32(line) - middle
        for column in range(size):
            x = np.float32(column) - middle
            left, right, west, east = _corner(_position(x, y, row_x, size), size)
            top, bottom, north, south = _corner(_position(x, y, row_y, size), size)
            nw, ne, sw, se = west * north, east * north, west * south, east * south
            share = ((nw + ne) + sw) + se
            for c in range(channels):
                upper, lower = (c * size + top) * size, (c * size + bottom) * size
                value = np.float32(source[upper + left]) * nw
                value = multiply_add(np.float32(source[upper + right]), ne, value)
                value = multiply_add(np.float32(source[lower + left]), sw, value)
                value = multiply_add(np.float32(source[lower + right]), se, value)
                value = (value - fill) * share + fill
                planes[c, line, column] = np.uint8(np.int32(np.rint(value)))


@kernel
def _quarter_turn(
    planes: Bytes,
    drawn: Floats,
    constants: Floats,  # noqa: ARG001
    room: Bytes,
) -> None:
    _turn(planes, copy_planes(planes, room), int(drawn[0]))


@kernel
def _rotate(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:
    degrees = drawn[0] % 360.0
    source = copy_planes(planes, room)
    if degrees % 90.0 == 0.0:
        _turn(planes, source, int(degrees / 90.0))
    elif constants[0] == 0.0:
        affine_nearest(planes, source, rotation_matrix(degrees), np.uint8(constants[1]))
    else:
        _affine_bilinear(planes, source, rotation_matrix(degrees), np.float32(constants[1]))


@inlined
def _erase(planes: Bytes, top: int, left: int, bottom: int, right: int, fill: np.uint8) -> None:
    """Fill what a box has in common with the view."""
    size = planes.shape[1]
    first, last = max(left, 0), min(right, size)
    for c in range(planes.shape[0]):
        for y in range(max(top, 0), min(bottom, size)):
            for x in range(first, last):
                planes[c, y, x] = fill


@kernel
def _cut_out(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    side = max(1, round(min(drawn[0], 1.0) * planes.shape[1]))
    top, left = int(drawn[1]) - side // 2, int(drawn[2]) - side // 2
    _erase(planes, top, left, top + side, left + side, np.uint8(constants[0]))


@kernel
def _erase_box(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    top, left, height, width = int(drawn[0]), int(drawn[1]), int(drawn[2]), int(drawn[3])
    _erase(planes, top, left, top + height, left + width, np.uint8(constants[0]))


@final
@dataclass(frozen=True)
class HorizontalFlip(Operation):
    """Mirror left and right.

    Attributes:
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "flip"
    kernel: ClassVar[Kernel] = _mirror
    mirrors: ClassVar[bool] = True

    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return nothing."""
        return {}


@final
@dataclass(frozen=True)
class QuarterTurn(Operation):
    """Turn by 0, 90, 180 or 270 degrees counter-clockwise, each as likely (`numpy.rot90`).

    SimCLR's "rotate" (arXiv 2002.05709, figure 4).

    Attributes:
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "quarter-turn"
    kernel: ClassVar[Kernel] = _quarter_turn

    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return the number of quarters of a circle."""
        return {"quarters": Whole(0, 4)}

    def room(self, size: int, channels: int, /) -> int:
        """Return room for the planes."""
        return channels * size * size

    def describe(self, drawn: Mapping[str, float]) -> dict[str, float]:
        """Return the angle."""
        return {"degrees": 90.0 * drawn["quarters"]}


@final
@dataclass(frozen=True)
class Rotation(Operation):
    """Turn about the centre, as torchvision v2's `rotate` does to uint8 tensors.

    Attributes:
        degrees: range of the angle, counter-clockwise, within [-360, 360].
        interpolation: "nearest" or "bilinear".
        fill: level of the pixels that the picture leaves free, 0-255.
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "rotation"
    kernel: ClassVar[Kernel] = _rotate

    degrees: tuple[float, float] = (-30.0, 30.0)
    interpolation: RotationMode = "bilinear"
    fill: int = 0
    p: float = 1.0

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_range(owner, "degrees", self.degrees, -360.0, 360.0)
        check_choice(owner, "interpolation", self.interpolation, ROTATION_MODES)
        check_whole(owner, "fill", self.fill, 0, 255)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return the angle's range."""
        return {"degrees": Uniform(*self.degrees)}

    def constants(self, _size: int, /) -> tuple[float, ...]:
        """Return the interpolation and the fill."""
        return (ROTATION_MODES[self.interpolation], self.fill)

    def room(self, size: int, channels: int, /) -> int:
        """Return room for the planes."""
        return channels * size * size


@final
@dataclass(frozen=True)
class Cutout(Operation):
    """Fill a square around a pixel, each as likely; what lies outside of the view is cut off.

    DeVries and Taylor, arXiv 1708.04552, section 3.2.

    Attributes:
        side: range of the square's side as a share of the view's, within (0, 1]; it is rounded
            to whole pixels, at least one.
        fill: level of the square, 0-255.
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "cutout"
    kernel: ClassVar[Kernel] = _cut_out

    side: tuple[float, float] = (0.5, 0.5)
    fill: int = 0
    p: float = 1.0

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_range(owner, "side", self.side, 1e-6, 1.0)
        check_whole(owner, "fill", self.fill, 0, 255)
        check_probability(self)

    def draws(self, size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return the range of the side, and the pixels that may be the centre."""
        return {"side": Uniform(*self.side), "row": Whole(0, size), "column": Whole(0, size)}

    def constants(self, _size: int, /) -> tuple[float, ...]:
        """Return the fill."""
        return (self.fill,)


@final
@dataclass(frozen=True)
class RandomErasing(Operation):
    """Fill a box, drawn as torchvision's `RandomErasing` draws it (arXiv 1708.04896).

    Attributes:
        scale: range of the box's area as a share of the view's, within (0, 1].
        ratio: range of the box's height / width, within [0.01, 100], drawn uniformly in its
            logarithm.
        fill: level of the box, 0-255.
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "erasing"
    kernel: ClassVar[Kernel] = _erase_box

    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: int = 0
    p: float = 0.5

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_range(owner, "scale", self.scale, 1e-6, 1.0)
        check_range(owner, "ratio", self.ratio, 0.01, 100.0)
        check_whole(owner, "fill", self.fill, 0, 255)
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return the box."""
        return {"box": Box(self.scale, self.ratio)}

    def constants(self, _size: int, /) -> tuple[float, ...]:
        """Return the fill."""
        return (self.fill,)
