"""Encoded pictures as bytes by number: what every source of files is made of."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from looktwice.data.decoding import FORMATS, GREY_MODES
from looktwice.errors import DataError

MAX_BYTES: Final = 1 << 29
"""Of one file; the largest picture that is decoded has about as many, decoded."""

NUM_PROBED: Final = 64
"""Pictures looked at to tell whether a source is grey."""

_Indices = NDArray[np.int64]


class Files(ABC):
    """Files in a fixed order, read when asked for, from several threads at once."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of files."""

    @abstractmethod
    def read(self, i: int) -> bytes:
        """Return the bytes of file i.

        Raises:
            OSError: it cannot be read, or is no file of at most `MAX_BYTES`.
            DataError: the place where all of them lie cannot be reached.
        """

    @abstractmethod
    def identifier(self, i: int) -> str:
        """Return what to call file i: stable, unique, always UTF-8."""

    @abstractmethod
    def digest(self) -> bytes:
        """Return bytes that tell other files: of their identifiers and sizes."""


@final
class Paths(Sequence[str]):
    """Paths in one block of bytes: 16 bytes each beside the names, where a list takes 80.

    Args:
        folders: distinct folders, relative, "" for the root.
        folder_of: int32 (N,), index of each path's folder.
        names: the block of the names.
        starts: int64 (N,), where each begins in it.
        lengths: int32 (N,), bytes of each.
    """

    def __init__(
        self,
        folders: Sequence[str],
        folder_of: NDArray[np.int32],
        names: bytes,
        starts: _Indices,
        lengths: NDArray[np.int32],
    ) -> None:
        self.folders = tuple(folders)
        self.folder_of = folder_of
        self.names = names
        self.starts = starts
        self.lengths = lengths

    @classmethod
    def of(cls, folders: Sequence[str], folder_of: Any, names: Iterable[bytes]) -> Paths:
        """Pack names as bytes, each in one of the folders; arguments as of the class."""
        kept = list(names)
        lengths = np.fromiter(map(len, kept), np.int32, len(kept))
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        return cls(folders, np.asarray(folder_of, np.int32), b"".join(kept), starts, lengths)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[n] for n in range(*i.indices(len(self)))]
        start = int(self.starts[i])
        name = os.fsdecode(self.names[start : start + int(self.lengths[i])])
        folder = self.folders[self.folder_of[i]]
        return f"{folder}/{name}" if folder else name

    def take(self, which: NDArray[Any], folders: Sequence[str] | None = None) -> Paths:
        """Return some of the paths (indices or a mask), and give the folders other names."""
        return Paths(
            folders or self.folders,
            self.folder_of[which],
            self.names,
            self.starts[which],
            self.lengths[which],
        )


@final
class FolderFiles(Files):
    """Files under one folder.

    Args:
        root: the folder.
        paths: relative to it, in the order of the source.
    """

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._root = str(root)
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, i: int) -> bytes:
        """See `Files.read`."""
        return read_regular(self._path(i))

    def identifier(self, i: int) -> str:
        """See `Files.identifier`."""
        return printable(self._paths[i])

    def digest(self) -> bytes:
        """See `Files.digest`; a file that is not there has size -1."""
        digest, count = hashlib.sha256(), len(self)
        sizes = np.fromiter((_size(self._path(i)) for i in range(count)), np.int64, count)
        for begin in range(0, count, 1 << 16):
            digest.update(os.fsencode("\0".join(self._paths[begin : begin + (1 << 16)])))
        digest.update(sizes.astype("<i8").tobytes())
        return digest.digest()

    def _path(self, i: int) -> str:
        return f"{self._root}/{self._paths[i]}"


def read_regular(path: str, start: int = 0, size: int | None = None) -> bytes:
    """Read a regular file, or `size` bytes from `start`; a pipe or a device is never waited for.

    Raises:
        OSError: it is none, is over `MAX_BYTES`, or ends early.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - of 10^6 files Path costs seconds
        raise OSError("not a regular file")
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb", buffering=0) as file:  # noqa: PTH123
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        wanted = status.st_size if size is None else size
        if wanted > MAX_BYTES:
            raise OSError(f"{wanted:,} bytes are over the limit of {MAX_BYTES:,}")
        file.seek(start)
        data = file.read() if size is None else os.pread(handle, size, start)
    if size is not None and len(data) < size:
        raise OSError(f"it ends after {len(data):,} of {size:,} bytes")
    return data


def printable(text: str) -> str:
    """Escape the undecodable bytes of a file name, so that any UTF-8 file or terminal takes it."""
    return text.encode("utf-8", "backslashreplace").decode()


def probe_channels(files: Files) -> int:
    """Return 1 when `NUM_PROBED` pictures, evenly spread, are all grey and opaque, else 3.

    Raises:
        DataError: the place where they lie cannot be reached.
    """
    quieten_pillow()
    modes: list[str] = []
    for i in range(0, len(files), -(-len(files) // NUM_PROBED) or 1):
        try:
            with Image.open(io.BytesIO(files.read(i)), formats=FORMATS) as image:
                modes.append("alpha" if image.has_transparency_data else image.mode)
        except DataError:
            raise
        except Exception:  # a bad picture says nothing about colour; decoding reports it
            continue
        if len(modes) == NUM_PROBED or modes[-1] not in GREY_MODES:
            break
    return 1 if modes and set(modes) <= set(GREY_MODES) else 3


def quieten_pillow() -> None:
    """Ignore Pillow's warnings about odd files, for good.

    `warnings.catch_warnings` around each call would not be safe in threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _size(path: str) -> int:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1
