"""The kernel: pictures and rows of numbers in, views out, one call per thread and slice."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.np.numpy_support import carray

from looktwice.augment import colour, resample
from looktwice.augment.blur import BlurScratch, blur, blur_scratch
from looktwice.augment.compiling import entry, inlined, intrinsic
from looktwice.augment.operations import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
)

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Scratch = tuple[Bytes, resample.Scratch, BlurScratch]

_END: Final = 0
_FLIP: Final = HorizontalFlip.code
_JITTER: Final = ColorJitter.code
_GRAY: Final = Grayscale.code
_BLUR: Final = GaussianBlur.code


@intrinsic
def _pointer(_typing: Any, address: Any) -> Any:
    """Turn an address into what `numba.carray` takes, so that pictures in a list are not copied."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(address), generate


@inlined
def _mirror(planes: Bytes) -> None:
    for c in range(planes.shape[0]):
        for y in range(planes.shape[1]):
            line = planes[c, y]
            for x in range(line.size // 2):
                line[x], line[-1 - x] = line[-1 - x], line[x]


@inlined
def _interleave(planes: Bytes, result: Bytes) -> None:
    """Write planes (C, pixels) as pixels of C bytes; the constant 3 lets LLVM use shuffles."""
    if planes.shape[0] == 3:
        red, green, blue = planes[0], planes[1], planes[2]
        for i in range(red.size):
            result[3 * i] = red[i]
            result[3 * i + 1] = green[i]
            result[3 * i + 2] = blue[i]
    else:
        for i in range(result.size):
            result[i] = planes[0, i]


def scratch(size: int, channels: int, tallest: int, widest: int) -> Scratch:
    """Return what one thread needs for views of `size` from pictures up to the given sides."""
    planes = np.empty((channels, size, size), np.uint8)
    return planes, resample.scratch(size, channels, tallest, widest), blur_scratch(size)


@entry
def apply_rows(
    program: Longs,
    parameters: Floats,
    rows: Floats,
    addresses: npt.NDArray[np.uintp],
    heights: Longs,
    widths: Longs,
    room: Scratch,
    out: Bytes,
) -> None:
    """Fill `out` (N, V, S, S, C) from the pictures (h, w, C) that begin at `addresses` (N,).

    `program` (V, steps, 4) and `parameters` are `Policy`'s, `room` is this call's `scratch`.
    """
    _, num_views, size, _, channels = out.shape
    planes, resample_room, blur_room = room
    flat = planes.reshape(channels, size * size)
    for n in range(addresses.size):
        shape = (heights[n], widths[n], channels)
        picture = carray(_pointer(addresses[n]), shape, np.uint8)
        for view in range(num_views):
            steps, row = program[view], rows[n, view]
            mirrored = steps[1, 0] == _FLIP and row[steps[1, 1]] != 0.0
            bicubic = parameters[steps[0, 2] + 7] == 1.0
            top, left = int(row[1]), int(row[2])
            height, width = int(row[3]), int(row[4])
            box = picture[top : top + height, left : left + width]
            resample.resample_box(box, bicubic, mirrored, resample_room, planes)
            for step in range(2 if mirrored else 1, steps.shape[0]):
                code, slot, offset = steps[step, 0], steps[step, 1], steps[step, 2]
                if code == _END:
                    break
                if row[slot] == 0.0:
                    continue
                if code == _FLIP:
                    _mirror(planes)
                elif code == _JITTER:
                    colour.jitter(flat, row[slot + 1 :])
                elif code == _GRAY:
                    colour.to_gray(flat)
                elif code == _BLUR:
                    blur(planes, row[slot + 1], int(parameters[offset + 3]), blur_room)
            _interleave(flat, out[n, view].reshape(-1))
