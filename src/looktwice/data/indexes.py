"""Indexes of folders and shards, kept in the user's cache so that the next start is instant.

They are arrays in safetensors files, which hold no code. A damaged one is made again; one that
cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
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

MAX_KEPT: Final = 4096
"""Indexes; beyond that the ones used longest ago go."""

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
            if (file.metadata() or {}).get("key") != f"{VERSION} {key}":
                return None
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        os.utime(path)
        return found
    return None


def store(key: str, arrays: Arrays) -> None:
    """Keep arrays under a key; where the cache cannot be written nothing is kept."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with contextlib.suppress(RunError):
        write_atomic(
            _path(key), safetensors.numpy.save(plain, metadata={"key": f"{VERSION} {key}"})
        )
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


def _path(key: str) -> Path:
    name = hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    return cache_folder() / f"{name}.safetensors"


def _prune(folder: Path) -> None:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    if len(names) > MAX_KEPT:
        ages: dict[float, Path] = {}
        for name in names:
            with contextlib.suppress(OSError):  # another process may have pruned it
                ages[(folder / name).stat().st_mtime] = folder / name
        for age in sorted(ages)[: len(names) - MAX_KEPT]:
            ages[age].unlink(missing_ok=True)
