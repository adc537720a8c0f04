"""Ctrl-C, SIGTERM and SIGUSR1 as a request, obeyed where training can be left without a trace."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final, final

from looktwice import distributed
from looktwice.errors import PeerError, Stopped

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@final
class StopRequest:
    """Which signals came; all processes that train together leave at the same place."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._at_once = False

    def asked(self) -> bool:
        """Tell whether this process was asked to stop."""
        return bool(self._received)

    def obey(self, leaving: bool = False) -> None:
        """Leave if any process was asked to stop, or is `leaving`; each must come here.

        Raises:
            Stopped: so it is.
        """
        if distributed.any_process(leaving or self.asked()):
            raise Stopped(self._number())

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Leave at any moment, for what is long and changes nothing, in one process.

        Raises:
            Stopped: this process is asked to stop.
        """
        self._at_once = True
        try:
            if self.asked():
                raise Stopped(self._number())
            yield
        finally:
            self._at_once = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal: a handler.

        Alone, a second Ctrl-C interrupts at once; of several processes none leaves before the
        others.
        """
        again = number == signal.SIGINT and number in self._received
        if again and distributed.world_size() == 1:
            signal.default_int_handler(number, frame)
        self._received.append(number)
        if self._at_once:
            raise Stopped(number)

    def _number(self) -> int:
        return self._received[0] if self._received else signal.SIGTERM  # another process's


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Yield what takes note of Ctrl-C, SIGTERM and SIGUSR1, in the main thread."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, stop.receive) for number in SIGNALS}
    late = False
    try:
        yield stop
    except PeerError:
        late = True
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if late and stop.asked():  # torchrun asked because another process ended: do end
            signal.raise_signal(stop._number())
