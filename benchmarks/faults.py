"""Disks that fail: every call by which files are written and removed can be counted and broken.

Used by the tests of saving and by `survival.py`; nothing in the package knows of it.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from typing import Any, final

CHANGES = ("open", "write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
CALLS = (*CHANGES, "close", "stat", "listdir", "scandir", "truncate")
KINDS = ("kill", "kill after", "ENOSPC", "EIO", "short write", "short write, then ENOSPC")
SIGNALS = {"signal": 1, "two signals": 2}
"""SIGTERM before the call, so often."""


@final
class Shim:
    """Within it, calls of `os` are counted, and the one of a number ends as it is told.

    Args:
        at: number of the call, from 0; none by default.
        kind: one of `KINDS` or `SIGNALS`.

    Attributes:
        log: (call, what it was about) of each call so far.
        asked: when the signal came, by the monotonic clock; 0 for never.
    """

    def __init__(self, at: int = -1, kind: str = "kill") -> None:
        self.log: list[tuple[str, str]] = []
        self.asked = 0.0
        self._at, self._kind = at, kind
        self._plain: dict[str, Callable[..., Any]] = {}
        self._handles: dict[int, str] = {}
        self._full = False

    def __enter__(self) -> Shim:
        self._plain = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, self._wrapped(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, plain in self._plain.items():
            setattr(os, name, plain)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        def call(target: Any, *others: Any, **named: Any) -> Any:
            about = self._handles.get(target, "") if isinstance(target, int) else str(target)
            number = len(self.log)
            self.log.append((name, about))
            if self._full and name == "write":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), about)
            if number == self._at:
                others = self._break(name, target, others)
            try:
                result = self._plain[name](target, *others, **named)
            finally:  # what is not there, too, has been asked for
                if number == self._at and self._kind == "kill after":
                    os.kill(os.getpid(), signal.SIGKILL)
            if name == "open":
                self._handles[result] = about
            return result

        return call

    def _break(self, name: str, target: Any, others: tuple[Any, ...]) -> tuple[Any, ...]:
        """Do what was told; return the other arguments with which the call goes on."""
        if self._kind in ("ENOSPC", "EIO"):
            number = getattr(errno, self._kind)
            raise OSError(number, os.strerror(number), str(target))
        if self._kind in SIGNALS:
            self.asked = time.monotonic()
            for _ in range(SIGNALS[self._kind]):
                os.kill(os.getpid(), signal.SIGTERM)
        elif name == "write":
            half = others[0][: len(others[0]) // 2]
            self._full = self._kind.endswith("then ENOSPC")
            if self._kind == "kill":
                self._plain["write"](target, half)
            else:
                others = (half,)
        if self._kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return others
