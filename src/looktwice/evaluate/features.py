"""The pixels themselves as features: what an encoder has to beat."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from looktwice.data import Source
from looktwice.features import Prepare, stream
from looktwice.models import central_square

PIXEL_SIDE = 32  # pictures up to this many pixels a side are compared whole


def raw_pixels(source: Source) -> tuple[Tensor, NDArray[np.int64]]:
    """Return the pixels of the pictures that can be read as features, as `pixels_of` says.

    Returns:
        Features float32 (N, D), and the index in the source of each row; pictures that cannot be
        read have none.

    Raises:
        DataError: no picture can be read.
    """
    blocks = list(stream(source, [pixels_of(source)]))
    return (
        torch.cat([pixels for _, (pixels,) in blocks]),
        np.concatenate([indices for indices, _ in blocks]),
    )


def pixels_of(source: Source, *, side: int = PIXEL_SIDE) -> Prepare:
    """Return what turns pictures of one size of a source into features, their pixels 0 .. 1.

    Pictures known to share one size of at most ``side`` pixels are taken whole; all others are
    resized (bilinear, antialiased) until the shorter side has ``side`` pixels, and cropped to the
    central square.

    Args:
        source: pictures with C channels.
        side: S, in pixels.

    Returns:
        A function of pictures uint8 (N, C, H, W) that returns features float32 (N, H * W * C) or
        (N, S * S * C).
    """
    size = source.picture_size
    whole = size is not None and max(size) <= side

    def pixels(pictures: Tensor) -> Tensor:
        square = pictures if whole else central_square(pictures, side)
        return square.permute(0, 2, 3, 1).flatten(1).float() / 255

    return pixels
