"""How this package's kernels are compiled: without the GIL, cached where a cache can be kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numba
from numba import extending

# Numba's own annotations describe neither intrinsics nor all options of njit.
_njit: Final[Any] = numba.njit
intrinsic: Final[Any] = extending.intrinsic

# What kernels call. Without the wrappers for calls from Python it compiles faster.
inlined: Final[Callable[..., Any]] = _njit(
    nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
)


def sources_digest() -> str:
    """Return a short digest of this package's sources."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def entry(function: Callable[..., None]) -> Any:
    """Compile a kernel that Python calls.

    Numba's cache notices a change of the function's own file only, not of what it calls
    elsewhere; the name of the cache file therefore carries a digest of the package's sources.
    """
    function.__qualname__ = f"{function.__qualname__}_{sources_digest()}"
    try:
        return _njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no folder to cache in: neither __pycache__ nor the user's own
        return _njit(nogil=True, error_model="numpy")(function)
