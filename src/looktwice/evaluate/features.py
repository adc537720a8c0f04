"""The pixels themselves as features: what an encoder has to beat."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from looktwice.data import Source
from looktwice.errors import DataError
from looktwice.features import readable

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
        rows.append((picture if whole else _central_square(picture, side)).ravel())
        kept.append(index)
    if not rows:
        raise DataError(f"none of the {len(source)} pictures in {source.name!r} can be read")
    return torch.from_numpy(np.stack(rows)).float() / 255, np.asarray(kept, np.int64)


def _central_square(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize uint8 (H, W, C) to a short side of ``side`` and crop its centre (S, S, C)."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    rows, columns = max(side, round(height * scale)), max(side, round(width * scale))
    pixels = torch.tensor(picture).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, size=[rows, columns], mode="bilinear", antialias=True)
    top, left = (rows - side) // 2, (columns - side) // 2
    square = resized[0, :, top : top + side, left : left + side]
    cropped: NDArray[np.uint8] = square.permute(1, 2, 0).numpy()
    return cropped
