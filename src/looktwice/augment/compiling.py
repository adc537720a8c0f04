"""How this package's kernels are compiled: without the GIL, cached where a cache can be kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numba

inlined: Final[Callable[..., Any]] = numba.njit(nogil=True, error_model="numpy")


def _digest() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel that Python calls.

    Numba's cache notices a change of the function's own file only, not of what it calls
    elsewhere; the name of the cache file therefore carries a digest of the package's sources.
    """
    function.__qualname__ = f"{function.__qualname__}_{_digest()}"
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to cache in: neither __pycache__ nor the user's own
        return numba.njit(**options)(function)  # type: ignore[no-any-return]
