"""From pictures to features, for whoever measures them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import groupby, islice
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from looktwice.data import Source
from looktwice.errors import BadPictureError, DataError
from looktwice.models import Encoder

BLOCK = 256  # pictures a forward pass
PIECE = 64  # pictures that a thread reads at once
NUM_AHEAD = 8  # pieces read before they are asked for, those in the making included
MAX_TOGETHER = 1 << 24  # bytes of pictures of one size brought to another in one call

Indices = NDArray[np.int64]
# Pictures of one size, uint8 (N, C, h, w), to whatever is wanted of each, (N, …).
Prepare: TypeAlias = Callable[[Tensor], Tensor]


def readable(
    source: Source, indices: Iterable[int] | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (index, picture uint8 (H, W, C)) for every picture that can be read.

    Args:
        source: the pictures.
        indices: which to read; all by default.
    """
    for index in range(len(source)) if indices is None else indices:
        try:
            picture = source.image(index)
        except BadPictureError:
            continue
        yield index, picture


def stream(
    source: Source, prepares: Sequence[Prepare], *, threads: int = 1, start: int = 0
) -> Generator[tuple[Indices, list[Tensor]]]:
    """Read each picture once, in threads a little ahead of the caller, and prepare it.

    What is held does not grow with the source: a few hundred prepared pictures, and of pictures
    still to prepare `MAX_TOGETHER` bytes, or one picture, a thread; while these are resized,
    `models.central_square` holds a few times what becomes of them.

    Args:
        source: the pictures; those that cannot be read are left out.
        prepares: what to make of each, such as ``encoder.prepare``. Pictures come (N, C, h, w);
            the result of each must not depend on the others.
        threads: that read and prepare, 1 or more.
        start: the first picture; those before it are taken as read.

    Yields:
        Indices in the source (N,), and (N, …) from each of `prepares`; N is `BLOCK`, but for the
        last. Close it (`contextlib.closing`) when leaving early: that ends its threads.

    Raises:
        DataError: no picture can be read, from the first on.
    """
    indices: Indices = np.empty(0, np.int64)
    waiting: list[list[Tensor]] = [[] for _ in prepares]
    any_read = start > 0
    with closing(_pieces(source, prepares, threads, start)) as pieces:
        for found, prepared in pieces:
            any_read = any_read or len(found) > 0
            indices = np.concatenate([indices, found])
            for tensors, made in zip(waiting, prepared, strict=True):
                tensors += made
            if len(indices) >= BLOCK:
                whole = [torch.cat(tensors) for tensors in waiting]
                yield indices[:BLOCK], [tensor[:BLOCK] for tensor in whole]
                indices, waiting = indices[BLOCK:], [[tensor[BLOCK:]] for tensor in whole]
    if len(indices):
        yield indices, [torch.cat(tensors) for tensors in waiting]
    if not any_read:
        raise DataError(f"none of the {len(source)} pictures in {source.name!r} can be read")


def _pieces(
    source: Source, prepares: Sequence[Prepare], threads: int, start: int
) -> Generator[tuple[Indices, list[list[Tensor]]]]:
    """Yield the pieces of a source in their order, read in threads."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="looktwice-features")
    try:
        tasks = (
            pool.submit(
                _read_piece, source, prepares, range(first, min(first + PIECE, len(source)))
            )
            for first in range(start, len(source), PIECE)
        )
        pending = deque(islice(tasks, max(NUM_AHEAD, threads + 1)))
        while pending:
            yield pending.popleft().result()
            pending.extend(islice(tasks, 1))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_piece(
    source: Source, prepares: Sequence[Prepare], piece: range
) -> tuple[Indices, list[list[Tensor]]]:
    """Read and prepare some pictures: where they are, and each preparation's tensors in order."""
    kept: list[int] = []
    made: list[list[Tensor]] = [[] for _ in prepares]
    for together in _together(readable(source, piece)):
        kept += [index for index, _ in together]
        pictures = torch.from_numpy(np.stack([picture for _, picture in together]))
        for prepare, tensors in zip(prepares, made, strict=True):
            tensors.append(prepare(pictures.permute(0, 3, 1, 2)))
    return np.asarray(kept, np.int64), made


def _together(
    pictures: Iterable[tuple[int, NDArray[np.uint8]]],
) -> Iterator[list[tuple[int, NDArray[np.uint8]]]]:
    """Split into runs of equal size, of at most `MAX_TOGETHER` bytes or one picture."""
    for shape, run in groupby(pictures, key=lambda found: found[1].shape):
        at_once = max(1, MAX_TOGETHER // math.prod(shape))
        while together := list(islice(run, at_once)):
            yield together


def prepare(encoder: Encoder, source: Source) -> tuple[Tensor, Indices]:
    """Return the pictures that can be read at the encoder's size, uint8 (N, C, S, S), and where.

    Each is brought to that size in the way of the encoder itself, so that it does not matter
    which pictures are together.

    Returns:
        The pictures, on the CPU, and the index in the source of each.

    Raises:
        DataError: no picture can be read.
    """
    blocks = list(stream(source, [encoder.prepare]))
    return (
        torch.cat([pictures for _, (pictures,) in blocks]),
        np.concatenate([indices for indices, _ in blocks]),
    )


def encoder_width(encoder: Encoder) -> int:
    """Return the width D of an encoder's features (N, D)."""
    side, channels = encoder.spec.image_size, encoder.spec.channels
    return encode(encoder, torch.zeros(1, channels, side, side, dtype=torch.uint8)).shape[1]


def encode(encoder: Encoder, pictures: Tensor) -> Tensor:
    """Return features (N, D), float32 on the CPU, of pictures uint8 (N, C, S, S).

    They are encoded `BLOCK` at a time: the last bits of a feature may depend on how many pictures
    are in its block. Put the encoder's backbone in eval mode first.
    """
    device = encoder.mean.device
    return torch.cat([encoder(block.to(device)).cpu() for block in torch.split(pictures, BLOCK)])
