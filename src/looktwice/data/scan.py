"""What lies under a folder, scanned once and kept until a folder in it changes."""

from __future__ import annotations

import os
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from looktwice.data import indexes
from looktwice.data.files import Paths, printable
from looktwice.data.progress import ProgressLine
from looktwice.errors import DataError

EXTENSIONS: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Files taken for pictures, whatever the case; their content decides how they are decoded."""

MIN_KEPT: Final = 10_000
"""Files from which on an index is kept; fewer are scanned in a moment."""

SETTLED: Final = 2_000_000_000
"""Nanoseconds after its last change before a folder's listing is trusted: clocks are coarse."""

_ENDINGS: Final = tuple(ending.encode() for ending in EXTENSIONS)
_RUN: Final = {b"config.toml", b"environment.json"}

_Status = tuple[int, int, int]


@dataclass(frozen=True)
class Glance:
    """What lies directly in a folder and is not hidden, in the order of the bytes of names.

    Attributes:
        folders: names; links to folders are some.
        files: names of those that are no pictures.
        pictures: whether there are any.
    """

    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    pictures: bool = False


def glance(folder: Path) -> Glance:
    """Look into a folder, not below it; in one that cannot be read is nothing.

    It is told about where the folder is scanned.
    """
    folders, files, pictures = [], [], False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False) or (
                    entry.is_symlink() and os.path.isdir(entry.path)  # noqa: PTH112
                ):
                    folders.append(entry.name)
                elif entry.name.lower().endswith(EXTENSIONS):
                    pictures = True
                else:
                    files.append(entry.name)
    except OSError:
        return Glance()
    return Glance(
        tuple(sorted(folders, key=os.fsencode)), tuple(sorted(files, key=os.fsencode)), pictures
    )


def list_pictures(root: Path) -> Paths:
    """List all pictures under a folder as paths relative to it, in a stable order.

    Hidden files and folders are left out, and folders of looktwice's runs; links are followed,
    each folder entered and each file listed once. The list is kept in the user's cache, and used
    while every folder is the one it was and has not changed since (device, inode, time of change);
    where links lead to files it is not kept, since what they lead to may change unseen.

    Raises:
        DataError: none found, or a folder that cannot be read.
    """
    key = f"folder\0{os.path.realpath(root)}"
    kept = indexes.load(key)
    if kept is not None and _is_current(root, kept):
        return _paths(kept)
    began = time.time_ns()
    scan = _Scan(root)
    if not scan.lengths:
        found = ", ".join(f"{count} {kind}" for kind, count in scan.others.most_common(4))
        raise DataError(
            f"0 pictures in {str(root)!r}; found {found or 'no files at all'}: convert them to "
            "JPEG, PNG or WebP, or give another folder"
        )
    arrays = scan.arrays()
    settled = max(changed for *_, changed in scan.visited.values()) < began - SETTLED
    if len(scan.lengths) >= MIN_KEPT and settled and not scan.links:
        indexes.store(key, arrays)
    paths = _paths(arrays)
    return paths.take(_once_each(root, paths, scan)) if scan.links else paths


@final
class _Scan:
    """A walk through a folder, in the order of the bytes of names.

    Attributes:
        names: of the pictures, one behind the other.
        lengths: bytes of each.
        folder_of: number of each one's folder among `folders`.
        folders: those with pictures.
        links: numbers of the pictures that are links.
        visited: every folder that was met, with its device, inode and time of change.
        listed: device and inode of those whose files were listed.
        others: files that are no pictures, by ending.
    """

    def __init__(self, root: Path) -> None:
        self.names = bytearray()
        self.lengths = array("i")
        self.folder_of = array("i")
        self.folders: list[str] = []
        self.links: list[int] = []
        self.visited: dict[str, _Status] = {}
        self.listed: set[tuple[int, int]] = set()
        self.others: Counter[str] = Counter()
        self._root = root
        self._entered: set[tuple[int, int]] = set()
        with ProgressLine(f"scanning {root}") as line:
            self._walk(line)

    def _walk(self, line: ProgressLine) -> None:
        waiting = [self._enter("")]
        while waiting:
            inner = next(waiting[-1], None)
            if inner is None:
                waiting.pop()
                line.at(len(self.lengths))
            else:
                waiting.append(self._enter(inner))

    def _enter(self, folder: str) -> Iterator[str]:
        """Take the files of a folder; yield each folder in it when its turn comes."""
        here = self._root / folder
        try:
            status = here.stat()
            self.visited[folder] = status.st_dev, status.st_ino, status.st_ctime_ns
            if (status.st_dev, status.st_ino) in self._entered:
                return
            self._entered.add((status.st_dev, status.st_ino))
            names, inner, links = _listing(here)
        except OSError as error:
            raise DataError(
                f"folder {str(here)!r} cannot be read ({error.strerror}): change its permissions, "
                "or give another folder"
            ) from error
        if _RUN.issubset(names):
            return  # its figures are not pictures to learn from
        self.listed.add((status.st_dev, status.st_ino))
        number = -1
        for name in names:
            if name in inner:
                yield f"{folder}/{os.fsdecode(name)}" if folder else os.fsdecode(name)
            elif name.lower().endswith(_ENDINGS):
                if number < 0:
                    number = len(self.folders)
                    self.folders.append(folder)
                if name in links:
                    self.links.append(len(self.lengths))
                self.names += name
                self.lengths.append(len(name))
                self.folder_of.append(number)
            else:
                ending = printable(os.fsdecode(os.path.splitext(name)[1].lower()))  # noqa: PTH122
                self.others[ending or "without extension"] += 1

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return all but the links as arrays."""
        return {
            "names": np.frombuffer(self.names, np.uint8),
            "lengths": np.array(self.lengths, np.int32),
            "folder_of": np.array(self.folder_of, np.int32),
            "folders": indexes.packed(self.folders),
            "visited": indexes.packed([*self.visited]),
            "status": np.array([*self.visited.values()], np.uint64),
            "counts": np.array([len(self.folders), len(self.visited)], np.int64),
        }


def _listing(folder: Path) -> tuple[list[bytes], set[bytes], set[bytes]]:
    """Return what is in a folder and not hidden: all names sorted, the folders, links to others."""
    names: list[bytes] = []
    inner: set[bytes] = set()
    links: set[bytes] = set()
    with os.scandir(os.fsencode(folder)) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(b"."):
                continue
            names.append(name)
            if entry.is_dir(follow_symlinks=False):
                inner.add(name)
            elif entry.is_symlink():
                # Of a link to itself `entry.is_dir` raises.
                (inner if os.path.isdir(entry.path) else links).add(name)  # noqa: PTH112
    names.sort()
    return names, inner, links


def _paths(arrays: indexes.Arrays) -> Paths:
    lengths = arrays["lengths"]
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    folders = indexes.unpacked(arrays["folders"], int(arrays["counts"][0]))
    return Paths(folders, arrays["folder_of"], arrays["names"].tobytes(), starts, lengths)


def _is_current(root: Path, arrays: indexes.Arrays) -> bool:
    """Tell whether every folder is what it was, so that the names in it are."""
    base = os.fspath(root)
    folders = indexes.unpacked(arrays["visited"], int(arrays["counts"][1]))
    try:
        for folder, then in zip(folders, arrays["status"].tolist(), strict=True):
            now = os.stat(f"{base}/{folder}")  # noqa: PTH116
            if [now.st_dev, now.st_ino, now.st_ctime_ns] != then:
                return False
    except OSError:
        return False
    return True


def _once_each(root: Path, paths: Paths, scan: _Scan) -> NDArray[np.bool_]:
    """Tell which to keep: all but links to what is listed, under its own name or another link's."""
    kept = np.ones(len(paths), bool)
    seen: set[str] = set()
    for i in scan.links:
        target = os.path.realpath(root / paths[i])
        parent, name = os.path.split(target)
        shown = name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        kept[i] = target not in seen and not (shown and _is_listed(target, parent, scan))
        seen.add(target)
    return kept


def _is_listed(target: str, parent: str, scan: _Scan) -> bool:
    try:
        status = os.stat(parent)  # noqa: PTH116
    except OSError:
        return False
    return (status.st_dev, status.st_ino) in scan.listed and os.path.exists(target)  # noqa: PTH110
