"""From pictures to features, for whoever measures them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from looktwice.data import Source
from looktwice.errors import BadPictureError, DataError
from looktwice.models import Encoder

BLOCK = 256  # pictures a forward pass


def readable(source: Source) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (index, picture uint8 (H, W, C)) for every picture that can be read."""
    for index in range(len(source)):
        try:
            picture = source.image(index)
        except BadPictureError:
            continue
        yield index, picture


def prepare(encoder: Encoder, source: Source) -> tuple[Tensor, NDArray[np.int64]]:
    """Return the pictures that can be read at the encoder's size, uint8 (N, C, S, S), and where.

    Each is brought to that size alone, in the way of the encoder itself, so that it does not
    matter which pictures are together.

    Returns:
        The pictures, on the CPU, and the index in the source of each.

    Raises:
        DataError: no picture can be read.
    """
    prepared, kept = [], []
    for index, picture in readable(source):
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        prepared.append(encoder.prepare(pixels[None]))
        kept.append(index)
    if not kept:
        raise DataError(f"none of the {len(source)} pictures in {source.name!r} can be read")
    return torch.cat(prepared), np.asarray(kept, np.int64)


def encoder_width(encoder: Encoder) -> int:
    """Return the width D of an encoder's features (N, D)."""
    side, channels = encoder.spec.image_size, encoder.spec.channels
    return encode(encoder, torch.zeros(1, channels, side, side, dtype=torch.uint8)).shape[1]


def encode(encoder: Encoder, pictures: Tensor) -> Tensor:
    """Return features (N, D), float32 on the CPU, of pictures uint8 (N, C, S, S).

    Put the encoder's backbone in eval mode first.
    """
    device = encoder.mean.device
    return torch.cat([encoder(block.to(device)).cpu() for block in torch.split(pictures, BLOCK)])
