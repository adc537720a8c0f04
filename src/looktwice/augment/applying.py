"""The kernel: pictures and rows of numbers in, views out, one call per thread and slice."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba.np.numpy_support import carray

from looktwice.augment import resample
from looktwice.augment.compiling import call, entry, flat, inlined, pointer
from looktwice.augment.sampling import END

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FLIP: Final = -2
CROP: Final = 0
"""What a step does beside `END`: mirror with the crop, crop; other numbers call a kernel."""


@inlined
def _interleave(planes: Bytes, result: Bytes) -> None:
    """Write planes (C, pixels) as pixels (S, S, C); the constant 3 lets LLVM use shuffles."""
    size = result.shape[0]
    for y in range(size):
        if planes.shape[0] == 3:
            for x in range(size):
                for c in range(3):
                    result[y, x, c] = planes[c, y * size + x]
        else:
            for x in range(size):
                result[y, x, 0] = planes[0, y * size + x]


@entry
def apply_rows(
    sampler: int,
    sampling: tuple[Any, ...],
    views: Longs,
    parameters: Floats,
    kernels: npt.NDArray[np.uintp],
    addresses: npt.NDArray[np.uintp],
    resample_room: resample.Scratch,
    planes: Bytes,
    room: Bytes,
    out: Bytes,
) -> None:
    """Fill `out` (N, views, S, S, C) from the pictures (h, w, C) that begin at `addresses` (N,).

    `sampling` is what `sampling.sampler` takes. If that one's address is given, the rows are
    drawn first, in this call: each return to Python waits for its lock.

    `views` says which of the V views of the steps (V, steps, 5) and rows (N, V, R) these are;
    `parameters` and `kernels` are `Policy`'s program. The scratch of resampling, the planes
    (C, S, S) and the kernels' room are this thread's own.
    """
    if sampler != 0:
        call(sampler, sampling)
    steps, heights, widths, rows = sampling[0], sampling[6], sampling[7], sampling[8]
    channels = out.shape[4]
    for n in range(addresses.size):
        picture = carray(pointer(addresses[n]), (heights[n], widths[n], channels), np.uint8)
        for place, view in enumerate(views):
            row = rows[n, view]
            flips = steps[view, 1, 0] == FLIP
            mirrored = flips and row[steps[view, 1, 1]] != 0.0
            constants = parameters[steps[view, 0, 3] :]
            within, bicubic = constants[1] == 0.0, constants[0] == 1.0
            call(kernels[0], (picture, row[1:5], within, bicubic, mirrored, resample_room, planes))
            for step in range(2 if flips else 1, steps.shape[1]):
                kind, slot = steps[view, step, 0], steps[view, step, 1]
                if kind == END:
                    break
                if row[slot] != 0.0:
                    drawn, constants = row[slot + 1 :], parameters[steps[view, step, 3] :]
                    call(kernels[kind], (planes, drawn, constants, room))
            _interleave(flat(planes), out[n, place])
