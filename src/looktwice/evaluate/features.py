"""Features of a source's pictures: an encoder's, and the pixels themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from looktwice.data.sources import Source
from looktwice.errors import BadPictureError, DataError

PIXEL_SIDE = 32  # pictures up to this many pixels are compared whole


class PictureEncoder(Protocol):
    """What ``extract`` needs of a module; ``looktwice.models.Encoder`` has it."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """Map uint8 (N, C, H, W) to features (N, D)."""

    def prepare(self, picture: Tensor) -> Tensor:
        """Bring one uint8 (1, C, h, w) picture of any size to the module's own (1, C, S, S)."""

    def eval(self) -> object:
        """Switch to evaluation mode."""


class Features(NamedTuple):
    """Features of the readable pictures of a source.

    Attributes:
        values: float32 (K, D), on the CPU.
        kept: int64 (K,), the pictures' indices in the source, rising.
        bad: reason by identifier of each picture that cannot be read and is left out.
    """

    values: Tensor
    kept: NDArray[np.int64]
    bad: dict[str, str]


def extract(
    module: PictureEncoder, source: Source, *, batch_size: int = 256, device: str = "cpu"
) -> Features:
    """Encode every readable picture of a source, without augmentation.

    Pictures that share one size go to the module as they are, in batches; pictures of various
    sizes are brought to the module's own size by ``module.prepare`` first.

    Args:
        module: on ``device``; switched to evaluation mode.
        source: the pictures.
        batch_size: pictures at a time.
        device: where the module computes.

    Raises:
        DataError: no picture can be read.
    """
    module.eval()
    same_size = source.picture_size is not None

    @torch.inference_mode()
    def encode(pictures: list[Tensor]) -> Tensor:
        ready = pictures if same_size else [module.prepare(picture) for picture in pictures]
        return module(torch.cat(ready).to(device)).float().cpu()

    return _map(source, batch_size, encode)


def raw_pixels(source: Source, *, side: int = PIXEL_SIDE, batch_size: int = 256) -> Features:
    """Return the pixels themselves as features, 0 .. 1: what an encoder has to beat.

    Pictures that share one size of at most ``side`` pixels are taken whole; all others are
    resized (antialiased, bilinear) until the shorter side has ``side`` pixels, and cropped to the
    central square.

    Raises:
        DataError: no picture can be read.
    """
    size = source.picture_size
    whole = size is not None and max(size) <= side

    def flatten(pictures: list[Tensor]) -> Tensor:
        ready = pictures if whole else [_central_square(picture, side) for picture in pictures]
        return torch.cat(ready).flatten(1).float() / 255

    return _map(source, batch_size, flatten)


class _Encode(Protocol):
    def __call__(self, pictures: list[Tensor]) -> Tensor: ...


def _map(source: Source, batch_size: int, encode: _Encode) -> Features:
    values: list[Tensor] = []
    kept: list[int] = []
    bad: dict[str, str] = {}
    pending: list[Tensor] = []
    for index, picture in _readable(source, bad):
        kept.append(index)
        pending.append(picture)
        if len(pending) == batch_size:
            values.append(encode(pending))
            pending = []
    if pending:
        values.append(encode(pending))
    if not kept:
        raise DataError(
            f"none of the {len(source)} pictures of {source.name} can be read; "
            f"the first: {next(iter(bad.values()), 'the source is empty')}"
        )
    return Features(torch.cat(values), np.array(kept, dtype=np.int64), bad)


def _readable(source: Source, bad: dict[str, str]) -> Iterator[tuple[int, Tensor]]:
    """Yield (index, uint8 (1, C, H, W)) of the readable pictures; note the others in ``bad``."""
    for index in range(len(source)):
        try:
            picture = source.image(index)
        except BadPictureError as error:
            bad[error.identifier] = error.reason
        else:
            # A copy: sources may hand out views of read-only memory.
            yield index, torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]


def _central_square(picture: Tensor, side: int) -> Tensor:
    """Resize uint8 (1, C, h, w) to a short side of ``side`` and crop its centre (1, C, S, S)."""
    height, width = picture.shape[2:]
    scale = side / min(height, width)
    size = (max(side, round(height * scale)), max(side, round(width * scale)))
    resized = F.interpolate(picture, size=size, mode="bilinear", antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return resized[:, :, top : top + side, left : left + side]
