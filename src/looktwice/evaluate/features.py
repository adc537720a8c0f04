"""The pixels themselves as features: what an encoder has to beat."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from looktwice.data import Source
from looktwice.errors import DataError
from looktwice.features import readable
from looktwice.models import central_square

PIXEL_SIDE = 32  # pictures up to this many pixels a side are compared whole


def raw_pixels(source: Source, *, side: int = PIXEL_SIDE) -> tuple[Tensor, NDArray[np.int64]]:
    """Return the pixels of the pictures that can be read, 0 .. 1, as features.

    Pictures known to share one size of at most ``side`` pixels are taken whole; all others are
    resized (bilinear, antialiased) until the shorter side has ``side`` pixels, and cropped to the
    central square.

    Args:
        source: pictures with C channels.
        side: S, in pixels.

    Returns:
        Features float32 (N, H * W * C) or (N, S * S * C), and the index in the source of each
        row; pictures that cannot be read have none.

    Raises:
        DataError: no picture can be read.
    """
    size = source.picture_size
    whole = size is not None and max(size) <= side
    rows, kept = [], []
    for index, picture in readable(source):
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        square = pixels if whole else central_square(pixels, side)
        rows.append(square[0].permute(1, 2, 0).flatten())
        kept.append(index)
    if not rows:
        raise DataError(f"none of the {len(source)} pictures in {source.name!r} can be read")
    return torch.stack(rows).float() / 255, np.asarray(kept, np.int64)
