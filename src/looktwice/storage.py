"""Writing to disk so that a reader, or the next start, sees all of a file or none of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from looktwice.errors import RunError


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
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_folder_atomic(path: Path, files: dict[str, bytes]) -> None:
    """Write a new folder of files that appears under its name only when it is whole.

    A folder of that name is replaced. Raises as `write_atomic`.
    """
    with _plainly(path):
        temporary = _beside(path)
        try:
            temporary.mkdir()
            for name, data in files.items():
                _write_synced(temporary / name, data)
            _sync_folder(temporary)
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that appears under its name only when the block ends; else nothing is left.

    Yields:
        Where to write: a hidden folder beside it.

    Raises:
        RunError: something is at `path` already, or the folder cannot be written.
    """
    temporary = _beside(path)
    with _plainly(path):
        if os.path.lexists(path):
            raise RunError(f"{path} exists already and is left as it is; choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
            yield temporary
            os.sync()
            temporary.rename(path)  # fails where a file, or a folder that holds something, came
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(path.parent)


def _beside(path: Path) -> Path:
    """Return a hidden name in the same folder that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def append_line(path: Path, line: str) -> None:
    """Append one line in a single write. Raises as `write_atomic`."""
    with _plainly(path), path.open("ab") as file:
        file.write(line.encode("utf-8", "surrogateescape") + b"\n")


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"cannot write {path}: {reason}; free space or choose another --out"
        ) from error
