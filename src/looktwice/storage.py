"""Writing to disk so that a reader, or the next start, sees all of a file or none of it.

Whatever a kill interrupts leaves at most hidden names beside the whole ones (`remove_leftovers`).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from looktwice.errors import RunError

FORMER: Final = ".former"
"""Ends the name of a folder that another one replaces, until that one is in its place."""

_LEFTOVER: Final = re.compile(r"\..+\.\d+-[0-9a-f]{8}")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file whole: temporary file in the same folder, fsync, rename, fsync of the folder.

    Raises:
        RunError: the disk is full, or the folder cannot be written; an older file stays.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with _plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            _write_synced(temporary, data)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_folder_atomic(path: Path, files: dict[str, bytes]) -> None:
    """Write a folder of files that appears under its name only when it is whole.

    A folder of that name is replaced: until the new one is in its place it is kept, at the end
    as ``<name>.former``. Raises as `write_atomic`.
    """
    former = path.with_name(path.name + FORMER)
    with _plainly(path):
        if not path.parent.is_dir():
            path.parent.mkdir()
            _sync_folder(path.parent.parent)
        temporary = _beside(path)
        try:
            temporary.mkdir()
            for name, data in files.items():
                _write_synced(temporary / name, data)
            _sync_folder(temporary)
            if path.exists():
                _remove(former)
                path.rename(former)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(path.parent)
        _remove(former)


def remove_folder(path: Path) -> None:
    """Remove a folder, of which nobody sees a part; one that is not there is no mistake.

    Raises:
        RunError: it cannot be removed.
    """
    with _plainly(path, "cannot remove {}: {}; remove it yourself"):
        _remove(path)


def remove_leftovers(folder: Path) -> None:
    """Remove what writes and removals that a kill interrupted left in a folder.

    Nobody else may be writing there. Raises as `remove_folder`.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if _LEFTOVER.fullmatch(path.name):
            with _plainly(path, "cannot remove {}: {}; remove it yourself"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def append_line(path: Path, line: str) -> None:
    """Append one line, and see it on disk. Raises as `write_atomic`."""
    with _plainly(path):
        _write(path, line.encode("utf-8", "surrogateescape") + b"\n", os.O_APPEND)


def _remove(path: Path) -> None:
    if path.exists():
        hidden = _beside(path)
        path.rename(hidden)
        shutil.rmtree(hidden)


def _beside(path: Path) -> Path:
    """Return a hidden name in the same folder that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


def _write_synced(path: Path, data: bytes) -> None:
    _write(path, data, os.O_EXCL)


def _write(path: Path, data: bytes, how: int) -> None:
    """Write all of it, however little the system takes at once, and see it on disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _plainly(
    path: Path, words: str = "cannot write {}: {}; free space or choose another --out"
) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(words.format(path, error.strerror or str(error))) from error
