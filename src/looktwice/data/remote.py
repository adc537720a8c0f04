"""Shards that lie elsewhere: over HTTP, in S3 or Google's storage, read by fsspec in ranges.

fsspec is imported only when an address asks for it (``pip install 'looktwice[remote]'``).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from looktwice.data.files import printable
from looktwice.data.shards import MAX_SHARDS, Shard, expand, open_shards
from looktwice.data.sources import Source
from looktwice.data.tar import BLOCK, Read
from looktwice.errors import DataError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SCHEMES: Final = ("http", "https", "s3", "gs", "memory")
"""Kinds of addresses; other file systems of fsspec, chains among them, are not opened."""

READ_AHEAD: Final = 4 << 20
"""Bytes that one request brings while a shard is indexed, which reads it once."""

ASKED_TOGETHER: Final = 16
"""Shards whose sizes are asked for at once."""

PAUSES: Final = (0.5, 2.0)
"""Seconds before each further try of a request that failed."""

PATIENCE: Final = 60.0
"""Seconds for one request, of a picture or of `READ_AHEAD` bytes, after which it has failed."""

_ADDRESS: Final = re.compile(r"(\w+)://[^:]")
_VERSIONS: Final = ("ETag", "etag", "Last-Modified", "LastModified", "updated", "mtime", "created")
_Made = TypeVar("_Made")


def is_remote(name: str) -> bool:
    """Tell an address from a path."""
    return "://" in name


def open_remote(address: str) -> dict[str, Source]:
    """Open the shards at an address, with braces or, where it can be listed, wild cards, as train.

    Raises:
        DataError: no such kind of address, nothing there, a server without ranges, no fsspec; or
            as `open_shards`.
    """
    scheme = _ADDRESS.match(address)
    if scheme is None or scheme[1] not in SCHEMES or "::" in address:
        known = ", ".join(f"{name}://" for name in SCHEMES[:-1])
        raise DataError(f"{address!r} is no address that is read: give one of {known}")
    system = _file_system(scheme[1], address)
    paths = [path for name in expand(address) for path in _matching(system, name)]
    base = paths[0].rfind("/") + 1
    if any(path[:base] != paths[0][:base] for path in paths):
        base = 0
    _check_ranges(system, paths[0])
    with ThreadPoolExecutor(ASKED_TOGETHER) as pool:
        shards = [*pool.map(lambda path: RemoteShard(system, path, printable(path[base:])), paths)]
    return open_shards({"train": shards}, printable(address), None)


@final
class RemoteShard(Shard):
    """A tar file that is read by fsspec.

    Raises:
        DataError: it is not there, or its size is not known.
    """

    def __init__(self, system: AbstractFileSystem, path: str, name: str) -> None:
        facts = _tried(lambda: _asked(system, "info", path), path)
        length = facts.get("size")
        if not length:
            raise DataError(f"{path!r} has no known size: is it a file that can be read in ranges?")
        versions = [str(facts[key]) for key in _VERSIONS if facts.get(key)]
        super().__init__(name, int(length), f"{path}\0{versions[:1]}")
        self._system = system
        self._path = path

    def read(self, offset: int, size: int) -> bytes:
        """See `Shard.read`."""
        data = self._range(offset, size)
        if len(data) != size:
            raise OSError(f"the server gave {len(data):,} of {size:,} bytes")
        return data

    @contextlib.contextmanager
    def opened(self) -> Iterator[Read]:
        """See `Shard.opened`."""
        first, block = 0, b""

        def read(offset: int, size: int) -> bytes:
            nonlocal first, block
            if not first <= offset <= offset + size <= first + len(block):
                wanted = min(max(size, READ_AHEAD), self.length - offset)
                first, block = offset, self._range(offset, wanted) if wanted > 0 else b""
            return block[offset - first : offset - first + size]

        yield read

    def _range(self, offset: int, size: int) -> bytes:
        def ask() -> bytes:
            return bytes(
                _asked(self._system, "cat_file", self._path, start=offset, end=offset + size)
            )

        return _tried(ask, self._path)


def _asked(system: AbstractFileSystem, name: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of a file system, for `PATIENCE` seconds at most if it works in a loop.

    Each has limits and repetitions of its own besides, which may take many minutes.

    Raises:
        TimeoutError: no answer in time.
    """
    if not system.async_impl:
        return getattr(system, name)(*arguments, **options)
    from fsspec.asyn import sync

    method = getattr(system, f"_{name}")
    return sync(system.loop, method, *arguments, timeout=PATIENCE, **options)


def _check_ranges(system: AbstractFileSystem, path: str) -> None:
    """Ask an HTTP server for a few bytes from the middle of a shard; S3 and Google's give parts.

    Raises:
        DataError: nothing there, or the server gives whole files alone.
    """
    size = _tried(lambda: _asked(system, "info", path), path).get("size")
    if not (size and path.startswith("http")):  # without a size `RemoteShard` refuses it
        return
    from fsspec.asyn import sync

    def part() -> bool:
        try:
            with system.open(path, "rb", size=size, block_size=BLOCK, cache_type="none") as file:
                sync(system.loop, file.async_fetch_range, BLOCK, 2 * BLOCK, timeout=PATIENCE)
        except ValueError:
            return False
        return True

    if not _tried(part, path):
        raise DataError(
            f"the server of {path!r} gives no parts of files: use one that answers range requests, "
            "or download the shards"
        )


def _tried(ask: Callable[[], _Made], path: str) -> _Made:
    """Ask up to three times.

    Raises:
        DataError: no answer; the run ends, since what cannot be reached is no bad picture.
    """
    for pause in (*PAUSES, None):
        try:
            return ask()
        except FileNotFoundError as error:
            raise DataError(f"there is no {path!r}: check the address") from error
        # Each storage has errors of its own for a connection that fails.
        except Exception as error:
            if pause is None:
                reason = " ".join(str(error).split()) or type(error).__name__
                if isinstance(error, TimeoutError):
                    reason = "no answer in time"
                raise DataError(
                    f"{path!r} cannot be read ({reason}): check the connection, then resume"
                ) from error
            time.sleep(pause)
    raise AssertionError


def _file_system(scheme: str, address: str) -> Any:
    try:
        import fsspec

        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise DataError(
            f"{address!r} needs {error.name or 'fsspec'}: pip install 'looktwice[remote]'"
        ) from error


def _matching(system: AbstractFileSystem, name: str) -> list[str]:
    if "*" not in name:
        return [str(system._strip_protocol(name))]
    if name.startswith("http"):
        raise DataError(f"{name!r}: a server cannot be searched; name the shards as {{000..010}}")
    found = _tried(lambda: sorted(_asked(system, "glob", name)), name)
    if not found or len(found) > MAX_SHARDS:
        raise DataError(f"{len(found):,} shards match {name!r}: check the pattern")
    return [str(path) for path in found]
