"""Writing to disk so that a reader, or the next start, sees all of a file or none of it.

Whatever a kill interrupts leaves at most hidden names beside the whole ones (`remove_leftovers`).
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from looktwice.errors import RunError

FORMER: Final = ".former"
"""Ends the name of a folder that another one replaces, until that one is in its place."""

_UNIQUE: Final = r"\d+-[0-9a-f]{8}"
_LEFTOVER: Final = re.compile(rf"\..+\.{_UNIQUE}")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file whole: temporary file in the same folder, fsync, rename, fsync of the folder.

    Raises:
        RunError: the disk is full, or the folder cannot be written; an older file stays.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with plainly(path):
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
    with plainly(path):
        if not path.parent.is_dir():
            path.parent.mkdir()
            _sync_folder(path.parent.parent)
        temporary = _beside(path)
        try:
            temporary.mkdir(parents=True)
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


def write_new(path: Path, content: bytes | Mapping[str, bytes]) -> None:
    """Write a new file, or a folder of files by name, that appears under its name when it is whole.

    Raises:
        RunError: something has that name, also if it came meanwhile; or it cannot be written.
    """
    if not isinstance(content, bytes):
        with new_folder(path) as folder:
            for name, data in content.items():
                _write_synced(folder / name, data)
        return
    with plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            _write_synced(temporary, content)
            _name_new(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


def check_new(path: Path) -> None:
    """Raise RunError when something is at `path`, or nothing could be made there."""
    with plainly(path):
        if os.path.lexists(path):
            raise _there_already(path)
        check_writable(path)


def check_writable(path: Path) -> None:
    """Raise RunError when nothing could be made at `path`; folders above it may be missing."""
    parent = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise RunError(f"cannot make {path}: {parent} is not a folder; choose another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RunError(f"cannot make {path}: {parent} is not writable; choose another --out")


def remove_folder(path: Path) -> None:
    """Remove a folder, of which nobody sees a part; one that is not there is no mistake.

    Raises:
        RunError: it cannot be removed.
    """
    with plainly(path, "cannot remove {}: {}; remove it yourself"):
        _remove(path)


def remove_leftovers(folder: Path) -> None:
    """Remove what writes and removals that a kill interrupted left in a folder.

    Nobody else may be writing there. Raises as `remove_folder` and `listed`.
    """
    for path in listed(folder):
        if _LEFTOVER.fullmatch(path.name):
            with plainly(path, "cannot remove {}: {}; remove it yourself"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def listed(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing where there is none.

    Raises:
        RunError: it cannot be read.
    """
    with plainly(folder, "cannot list {}: {}; is its disk still there?"):
        return list(folder.iterdir()) if folder.is_dir() else []


def append_line(path: Path, line: str) -> None:
    """Append one line, and see it on disk, or nothing of it. Raises as `write_atomic`."""
    with plainly(path):
        before = path.stat().st_size if path.exists() else 0
        try:
            _write(path, line.encode("utf-8", "surrogateescape") + b"\n", os.O_APPEND)
        except OSError:  # what fits is written before a full disk is told
            with contextlib.suppress(OSError):
                os.truncate(path, before)
            raise


def _remove(path: Path) -> None:
    if path.exists():
        hidden = _beside(path)
        path.rename(hidden)
        shutil.rmtree(hidden)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that appears under its name only when the block ends; else nothing is left.

    What a kill leaves is removed by the next one of the same name.

    Yields:
        Where to write: a hidden folder beside it.

    Raises:
        RunError: something is at `path` already, or the folder cannot be written.
    """
    temporary = _beside(path)
    with plainly(path):
        if os.path.lexists(path):
            raise _there_already(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        try:
            temporary.mkdir()
            with alone(temporary, f"{temporary} is held by another process; try again"):
                yield temporary
                os.sync()
                temporary.rename(path)  # fails where a file, or a folder that holds something, came
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(path.parent)


def _remove_abandoned(path: Path) -> None:
    """Remove the hidden folders beside `path` that no process holds any more."""
    own = re.compile(rf"\.{re.escape(path.name)}\.{_UNIQUE}")
    for left in path.parent.iterdir():
        if own.fullmatch(left.name) and left.is_dir():
            with contextlib.suppress(RunError), alone(left, ""):
                shutil.rmtree(left)


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


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give the hidden folder beside `path` where work on it is kept until it is whole.

    It is there again for the next process after a kill, and is held by one process at a time.

    Raises:
        RunError: another process holds it, or it cannot be made.
    """
    folder = path.with_name(f".{path.name}-unfinished")
    with plainly(path):
        folder.mkdir(exist_ok=True)
    with alone(folder, f"{path} is being written by another process; wait for it"):
        with plainly(path):
            _remove_abandoned(folder)  # by `remove_folder`
        yield folder


@contextlib.contextmanager
def in_turn(lock: Path) -> Iterator[None]:
    """Wait until no other process is in a block with the same lock file, which is made.

    Raises:
        OSError: it cannot be made.
    """
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone(folder: Path, otherwise: str) -> Iterator[None]:
    """Hold a folder; RunError says `otherwise` where another process holds it."""
    with plainly(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(otherwise) from None
        yield
    finally:
        os.close(handle)


def move_new(source: Path, target: Path) -> None:
    """Bring a file or folder of files to the disk, then under its name in an existing folder.

    Raises:
        RunError: something else has that name, or the disk is full.
    """
    with plainly(target):
        files = list(source.iterdir()) if source.is_dir() else [source]
        for file in files:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        if source.is_dir():
            _sync_folder(source)
            if os.path.lexists(target):
                raise _there_already(target)
            source.rename(target)  # fails where a file, or a folder that holds something, came
        else:
            if not (target.is_file() and filecmp.cmp(source, target, False)):
                _name_new(source, target)
            source.unlink(missing_ok=True)
        _sync_folder(target.parent)


def _name_new(source: Path, target: Path) -> None:
    """Give a file a name that nothing has; its own it may keep."""
    try:
        os.link(source, target)  # a rename would replace what came a moment ago
    except OSError:
        if os.path.lexists(target):
            raise _there_already(target) from None
        source.rename(target)  # the file system has no links


def _there_already(path: Path) -> RunError:
    return RunError(f"{path} exists already and is left as it is; choose another --out")


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def plainly(
    path: Path, words: str = "cannot write {}: {}; free space or choose another --out"
) -> Iterator[None]:
    """Raise RunError, for people, for what the system says of writing `path` in this block."""
    try:
        yield
    except OSError as error:
        raise RunError(words.format(path, error.strerror or str(error))) from error
