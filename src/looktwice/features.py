"""From pictures to features, for whoever measures them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from looktwice.data import Source
from looktwice.errors import BadPictureError, DataError
from looktwice.models import Encoder

BLOCK = 256  # pictures a forward pass


def read_pictures(source: Source) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
    """Return the pictures that can be read, each (H, W, C) uint8, and their indices (N,).

    Raises:
        DataError: none can be read.
    """
    pictures, kept = [], []
    for index in range(len(source)):
        try:
            pictures.append(source.image(index))
        except BadPictureError:
            continue
        kept.append(index)
    if not pictures:
        raise DataError(f"none of the {len(source)} pictures in {source.name!r} can be read")
    return pictures, np.asarray(kept, np.int64)


def extract(encoder: Encoder, source: Source) -> tuple[Tensor, NDArray[np.int64]]:
    """Return features (N, D), float32 on the CPU, of the pictures that can be read.

    Pictures are brought to the encoder's size one by one where they differ in size, in the same
    way as by the encoder itself, so the features do not depend on which pictures are together.

    Args:
        encoder: in whatever mode its backbone is; put it in eval mode first.
        source: N or more pictures.

    Returns:
        Features, and the index in the source of each row; unreadable pictures have none.

    Raises:
        DataError: no picture can be read.
    """
    device = encoder.mean.device
    features, kept = [], []
    for start in range(0, len(source), BLOCK):
        prepared = []
        for index in range(start, min(start + BLOCK, len(source))):
            try:
                picture = source.image(index)
            except BadPictureError:
                continue
            pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
            prepared.append(encoder.prepare(pixels[None]))
            kept.append(index)
        if prepared:
            features.append(encoder(torch.cat(prepared).to(device)).cpu())
    if not features:
        raise DataError(f"none of the {len(source)} pictures in {source.name!r} can be read")
    return torch.cat(features), np.asarray(kept, np.int64)
