"""Indexes of folders and shards, kept in the user's cache so that the next start is instant.

They are arrays in safetensors files, which hold no code, with a checksum. A damaged one is made
again; one that cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from looktwice.data.places import CACHE
from looktwice.errors import RunError
from looktwice.storage import write_atomic

VERSION: Final = "1"
"""Of what is in an index; others are not read."""

DAYS_KEPT: Final = 90
"""After which an index goes that nobody used."""

Arrays = Mapping[str, NDArray[Any]]


def cache_folder() -> Path:
    """Return where indexes are kept: `$LOOKTWICE_CACHE`, else `places.CACHE`; under indexes/."""
    return Path(os.environ.get("LOOKTWICE_CACHE") or CACHE).expanduser() / "indexes"


def load(key: str) -> dict[str, NDArray[Any]] | None:
    """Return the arrays that were stored under a key, None where there are none."""
    path = _path(key)
    # Whatever reading damage raises, the remedy is the same: to scan again.
    with contextlib.suppress(Exception):
        with safetensors.safe_open(path, framework="np") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if file.metadata() != _metadata(key, found):
                return None
        with contextlib.suppress(OSError):  # another user's cache
            os.utime(path)
        return found
    return None


def store(key: str, arrays: Arrays) -> None:
    """Keep arrays under a key; where the cache cannot be written nothing is kept."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with contextlib.suppress(RunError):
        write_atomic(_path(key), safetensors.numpy.save(plain, metadata=_metadata(key, plain)))
        _prune(cache_folder())


def packed(texts: list[str]) -> NDArray[np.uint8]:
    """Turn strings without NUL, undecodable bytes included, into uint8 (bytes,)."""
    return np.frombuffer(os.fsencode("\0".join(texts)), np.uint8)


def unpacked(data: NDArray[np.uint8], count: int) -> list[str]:
    """Turn `packed` strings back."""
    texts = os.fsdecode(data.tobytes()).split("\0") if count else []
    if len(texts) != count:
        raise ValueError(f"{len(texts)} strings where {count} were kept")
    return texts


def _metadata(key: str, arrays: Arrays) -> dict[str, str]:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\0".encode())
        digest.update(array.tobytes())
    return {"key": f"{VERSION} {key}", "sha256": digest.hexdigest()}


def _path(key: str) -> Path:
    name = hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    return cache_folder() / f"{name}.safetensors"


@functools.cache
def _prune(folder: Path) -> None:
    """Remove what was not used for long; once a process, since a data set has many shards."""
    oldest = time.time() - DAYS_KEPT * 86_400
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # another process may have pruned it
                if entry.stat().st_mtime < oldest:
                    os.unlink(entry.path)  # noqa: PTH108
