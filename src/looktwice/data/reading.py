"""Every picture of a source once, decoded in threads a little ahead of whoever asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from looktwice.data.decoding import Picture
from looktwice.data.sources import Source
from looktwice.errors import BadPictureError
from looktwice.launched import usable_cores

AHEAD: Final = 4
"""Pictures a thread that wait to be taken."""

_Made = TypeVar("_Made")


def in_threads(
    source: Source, make: Callable[[int, Picture], _Made]
) -> Generator[_Made | BadPictureError]:
    """Yield what `make` returns for each picture, in order; for a bad one its error.

    One thread a core of this process; what is held does not grow with the source.
    """

    def one(i: int) -> _Made | BadPictureError:
        try:
            return make(i, source.image(i))
        except BadPictureError as error:
            return error

    threads = usable_cores()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="looktwice-reading")
    waiting: deque[Future[_Made | BadPictureError]] = deque()
    try:
        for i in range(len(source)):
            waiting.append(pool.submit(one, i))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
