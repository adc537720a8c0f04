"""How far a long look at many files has come: one line on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, final

from looktwice import launched

EVERY: Final = 0.2
"""Seconds between two lines."""


@final
class ProgressLine:
    """A count on standard error, wiped at the end; a context manager.

    Args:
        text: what is done, such as ``scanning pictures``.
        total: what the count will be, where that is known.
    """

    def __init__(self, text: str, total: int | None = None) -> None:
        self._text = text
        self._of = f" of {total:,}" if total else ""
        self._last = time.monotonic()
        self._shown = sys.stderr.isatty() and launched.rank() == 0
        self._written = False

    def at(self, count: int) -> None:
        """Show how many are done."""
        now = time.monotonic()
        if self._shown and now - self._last > EVERY:
            self._last, self._written = now, True
            print(f"\r\x1b[K{self._text}: {count:,}{self._of}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._written:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
