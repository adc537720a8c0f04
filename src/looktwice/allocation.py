"""The C library's allocator, told what a training step does with memory."""

from __future__ import annotations

import ctypes
import functools
import platform
from typing import Final

# <malloc.h> of glibc; mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_THRESHOLD: Final = 32 << 20  # DEFAULT_MMAP_THRESHOLD_MAX: glibc takes no more
_NEVER: Final = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next allocations; does nothing without glibc.

    By default glibc gives large blocks back to the system and gets fresh ones, whose pages the
    system clears and maps one fault at a time. Every step frees and allocates the same activations:
    that costs a CPU a tenth of its time and more (docs/measured.md). Blocks above 32 MiB still go
    back at once, so that a peak does not stay.
    """
    if _is_glibc():
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def give_back_freed_memory() -> None:
    """Give what this process freed and kept back to the system; does nothing without glibc."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
