"""Threads that stay, and the memory each keeps: a batch after the first allocates nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Final, final

import numpy as np
import numpy.typing as npt

from looktwice.augment import resample

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float64]

MAX_THREADS: Final = 1024
_ALIGNMENT: Final = 64


@final
class Scratch(threading.local):
    """What one thread works in; it only ever grows."""

    def __init__(self) -> None:
        self._rows = np.empty(0, np.float64)
        self._room = np.empty(0, np.uint8)
        self._planes: dict[tuple[int, int], Bytes] = {}
        self._tables: dict[tuple[int, int], tuple[int, int, resample.Scratch]] = {}

    def rows(self, count: int, views: int, width: int) -> Rows:
        """Return rows (count, views, width), not cleared."""
        needed = count * views * width
        if self._rows.size < needed:
            self._rows = np.empty(needed, np.float64)
        return self._rows[:needed].reshape(count, views, width)

    def room(self, needed: int) -> Bytes:
        """Return at least `needed` bytes, aligned to 64."""
        if self._room.size < needed:
            raw = np.empty(needed + _ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % _ALIGNMENT
            self._room = raw[start : start + needed]
        return self._room

    def planes(self, size: int, channels: int) -> Bytes:
        """Return planes (C, S, S)."""
        key = size, channels
        if key not in self._planes:
            self._planes[key] = np.empty((channels, size, size), np.uint8)
        return self._planes[key]

    def tables(self, size: int, channels: int, tallest: int, widest: int) -> resample.Scratch:
        """Return what resampling needs for pictures up to `tallest` x `widest` pixels."""
        key = size, channels
        height, width, made = self._tables.get(key, (0, 0, None))
        if made is None or tallest > height or widest > width:
            height, width = max(height, tallest), max(width, widest)
            made = resample.scratch(size, channels, height, width)
            self._tables[key] = height, width, made
        return made


scratch: Final = Scratch()
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def in_slices(run: Callable[[slice], None], count: int, slices: int) -> None:
    """Call `run` on contiguous slices of `count` pictures, the first one in this thread."""
    bounds = [count * i // slices for i in range(slices + 1)]
    parts = [slice(a, b) for a, b in pairwise(bounds) if a < b]
    others = [_threads().submit(run, part) for part in parts[1:]]
    try:
        for part in parts[:1]:
            run(part)
    finally:
        # Also when this thread's slice failed: nobody may go on writing after the call.
        for other in others:
            other.exception()
    for other in others:
        other.result()


def _threads() -> ThreadPoolExecutor:
    """Return threads that are started as they are needed, and stay."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="looktwice-augment")
        return _pool


def _forget() -> None:
    """Leave the parent's threads to the parent: a forked process has none of them."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
