"""Pictures that look alike: a hash that survives re-encoding, and pairs of near hashes.

The hash is pHash (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
2010, section 3.2.1): of the grey picture at 32 x 32, which of the 8 x 8 lowest coefficients of its
cosine transform are above their median, 64 bits. Pairs whose hashes differ in at most `MAX_BITS`
are found by multi-index hashing (Norouzi, Punjani and Fleet, CVPR 2012): of `MAX_BITS` + 1 pieces
of two such hashes one must be equal, so that only pictures that share a piece are compared. A pair
counts when its 16 x 16 thumbnails correlate, too.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from looktwice.data.decoding import Picture

MAX_BITS: Final = 6
"""Bits in which hashes of near pictures may differ."""

MIN_CORRELATION: Final = 0.99
"""Of near pictures' thumbnails; docs/data.md tells on what it and `MAX_BITS` were chosen."""

MIN_CONTRAST: Final = 4.0
"""Standard deviation of a thumbnail, of 255, below which a picture is flat, and near to nothing."""

SIDE: Final = 16
"""Of a thumbnail, pixels."""

NUM_COMPARED: Final = 1 << 16
"""Pairs that are compared at once."""

Hashes = NDArray[np.uint64]
Thumbnails = NDArray[np.uint8]
Pairs = NDArray[np.int64]


def looks(picture: Picture) -> tuple[int, Thumbnails]:
    """Return the hash, 64 bits, of a picture (H, W, C), and its thumbnail (16, 16)."""
    channels = picture.shape[2]
    image = Image.fromarray(picture[..., 0] if channels == 1 else picture).convert("L")
    grey = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC), np.float64)
    lowest = dctn(grey, norm="ortho")[:8, :8].ravel()
    bits = np.packbits(lowest > np.median(lowest[1:]))  # the first is the mean level
    thumbnail = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return int.from_bytes(bits.tobytes(), "big"), thumbnail


def near_pairs(hashes: Hashes, thumbnails: Thumbnails) -> Pairs:
    """Find the pairs of pictures that look alike.

    Args:
        hashes: uint64 (N,).
        thumbnails: uint8 (N, 16, 16).

    Returns:
        int64 (M, 2), each pair once, the lower index first, in ascending order.
    """
    contrast = thumbnails.reshape(len(thumbnails), SIDE * SIDE).std(1)
    kept = np.flatnonzero(contrast >= MIN_CONTRAST)
    found = [np.empty((0, 2), np.int64)]
    for number in range(MAX_BITS + 1):
        pieces = _piece(hashes[kept], number)
        order = np.argsort(pieces, kind="stable")
        found.extend(_compared(kept[order], pieces[order], hashes, thumbnails))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _piece(hashes: Hashes, number: int) -> Hashes:
    """Gather every (`MAX_BITS` + 1)-th bit: each piece has bits from the whole picture."""
    piece = np.zeros_like(hashes)
    for place, bit in enumerate(range(number, 64, MAX_BITS + 1)):
        piece |= ((hashes >> np.uint64(bit)) & np.uint64(1)) << np.uint64(place)
    return piece


def _compared(
    order: NDArray[np.int64], pieces: Hashes, hashes: Hashes, thumbnails: Thumbnails
) -> list[Pairs]:
    """Compare those with equal pieces, which follow each other in `order`."""
    found = []
    first = np.arange(len(order))
    for step in range(1, len(order)):
        first = first[first + step < len(order)]
        first = first[pieces[first] == pieces[first + step]]
        if not first.size:
            break
        for begin in range(0, first.size, NUM_COMPARED):
            some = first[begin : begin + NUM_COMPARED]
            pairs = np.stack([order[some], order[some + step]], 1)
            apart = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
            pairs = pairs[apart <= MAX_BITS]
            found.append(pairs[_correlations(thumbnails, pairs) >= MIN_CORRELATION])
    return found


def _correlations(thumbnails: Thumbnails, pairs: Pairs) -> NDArray[np.float32]:
    """Return the correlation (M,) of the thumbnails of each pair (M, 2)."""
    one, other = (thumbnails[pairs[:, k]].reshape(len(pairs), SIDE * SIDE) for k in (0, 1))
    found: NDArray[np.float32] = np.einsum("md,md->m", _standardised(one), _standardised(other))
    return found


def _standardised(flat: Thumbnails) -> NDArray[np.float32]:
    centred = flat - flat.mean(1, keepdims=True, dtype=np.float32)
    scaled: NDArray[np.float32] = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return scaled
