"""Philox 4x32-10, a generator without state: random numbers are a function of key and counter.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); constants
from the Random123 distribution, whose known answers the tests check.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from looktwice.augment.compiling import inlined

_MASK: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_MULTIPLIER_0: Final = np.uint64(0xD2511F53)
_MULTIPLIER_1: Final = np.uint64(0xCD9E8D57)
_WEYL_0: Final = np.uint64(0x9E3779B9)
_WEYL_1: Final = np.uint64(0xBB67AE85)

Words = tuple[np.uint64, np.uint64, np.uint64, np.uint64]


@inlined
def philox(counter: Words, key: tuple[np.uint64, np.uint64]) -> Words:
    """Return four 32-bit words for a counter of four words and a key of two, each in a uint64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product_0 = _MULTIPLIER_0 * c0
        product_1 = _MULTIPLIER_1 * c2
        c0 = (product_1 >> _HALF) ^ c1 ^ k0
        c1 = product_1 & _MASK
        c2 = (product_0 >> _HALF) ^ c3 ^ k1
        c3 = product_0 & _MASK
        k0 = (k0 + _WEYL_0) & _MASK
        k1 = (k1 + _WEYL_1) & _MASK
    return c0, c1, c2, c3


@inlined
def uniforms(
    stream: tuple[np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64], block: int
) -> tuple[float, float, float, float]:
    """Return four numbers in [0, 1), multiples of 2^-32: block 0-65535 of a stream.

    A stream is (key 0, key 1, counter 0, ..., counter 3) with the low 16 bits of counter 3 free.
    """
    k0, k1, c0, c1, c2, c3 = stream
    a, b, c, d = philox((c0, c1, c2, c3 | np.uint64(block)), (k0, k1))
    unit = 1.0 / 4294967296.0
    return a * unit, b * unit, c * unit, d * unit
