"""Members of a tar, read header by header: nothing is unpacked, and no name is taken for a path.

`tarfile` parses each header. Walking from one to the next is done here, since `tarfile` takes the
sizes of extended headers on trust, keeps every member in memory, and may loop or fail on damage
where this returns all that comes before.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from looktwice.data.files import MAX_BYTES

BLOCK: Final = 512

MAX_EXTENSION: Final = 1 << 20
"""Bytes of an extended header that are read; longest names have some thousands."""

Read = Callable[[int, int], bytes]
"""``read(offset, size)`` gives as many of those bytes as there are."""

_SKIPPED: Final = {
    tarfile.LNKTYPE: "it is a link",
    tarfile.SYMTYPE: "it is a link",
    tarfile.CHRTYPE: "it is a device",
    tarfile.BLKTYPE: "it is a device",
    tarfile.FIFOTYPE: "it is a pipe",
    tarfile.GNUTYPE_SPARSE: "it is a sparse file",
}
_CUT: Final = "the tar is cut off here: what followed is lost"
_EXTENSIONS: Final = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)
_PAX_RECORD: Final = re.compile(rb"(\d{1,7}) ([^=\n]+)=")


@dataclass(frozen=True, slots=True)
class Member:
    """One member, or what is wrong at one place.

    Attributes:
        name: as the tar gives it; "" for damage that has none.
        offset: where its bytes begin, or the damage.
        size: its bytes.
        problem: why they cannot be used; "" where they can.
    """

    name: str
    offset: int
    size: int
    problem: str = ""


@dataclass(slots=True)
class _Extended:
    """What extended headers say about the member that follows."""

    name: str | None = None
    size: int | None = None
    problem: str = ""


def members(read: Read, length: int) -> Iterator[Member]:
    """Yield the files in a tar of `length` bytes, and what is wrong; folders are left out.

    A cut or damaged header ends the walk with one member that says so.
    """
    offset, extended = 0, _Extended()
    while True:
        head = read(offset, BLOCK) if offset < length else b""
        if head == bytes(BLOCK):
            return
        info = _parsed(head)
        if info is None:
            yield Member("", offset, 0, _damage(head, offset))
            return
        start = offset + BLOCK
        if info.type == tarfile.GNUTYPE_SPARSE:
            start = _after_sparse_map(read, head, start, length)
        size = extended.size if extended.size is not None and info.isreg() else info.size
        # As in tarfile: only links, devices, pipes and folders have no bytes, whatever they say.
        has_bytes = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        has_bytes |= info.type in (*_EXTENSIONS, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)
        offset = start + (-(-size // BLOCK) * BLOCK if has_bytes else 0)
        if info.type in _EXTENSIONS:
            _extend(extended, info.type, read, start, size)
        elif info.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            if not info.isdir():
                name = extended.name or info.name
                problem = _problem(info, start, size, length) or extended.problem
                yield Member(name, start, size, problem)
            extended = _Extended()
            if has_bytes and start + size > length:
                return


def _parsed(head: bytes) -> tarfile.TarInfo | None:
    try:
        info = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return info if info.size >= 0 else None


def _damage(head: bytes, offset: int) -> str:
    if offset == 0 and head[:2] == b"\x1f\x8b":
        return "it is compressed: unpack it with gunzip"
    if len(head) == BLOCK:
        return "damaged header: what followed is lost"
    return _CUT if head else "the tar has no end mark: it may be cut off here"


def _problem(info: tarfile.TarInfo, start: int, size: int, length: int) -> str:
    if info.type in _SKIPPED:
        return _SKIPPED[info.type]
    if not info.isreg():
        return f"it is of the unknown type {info.type!r}"
    if size > MAX_BYTES:
        return f"{size:,} bytes are over the limit of {MAX_BYTES:,}"
    there = max(0, length - start)
    return f"the tar is cut off in it, after {there:,} of {size:,} bytes" if there < size else ""


def _after_sparse_map(read: Read, head: bytes, start: int, length: int) -> int:
    """Return where the bytes of a sparse file begin; its map may go on in blocks of its own.

    The byte that says so is the 482nd of the header and the 504th of such a block
    (GNU tar's manual, "Storing Sparse Files").
    """
    goes_on = head[482]
    while goes_on and start < length:
        goes_on = read(start + 504, 1)[:1] not in (b"", b"\0")
        start += BLOCK
    return start


def _extend(extended: _Extended, kind: bytes, read: Read, start: int, size: int) -> None:
    """Take from an extended header the name and size of the member that follows."""
    if size > MAX_EXTENSION:
        extended.problem = f"its extended header has {size:,} bytes"
        return
    data = read(start, size)
    if kind == tarfile.GNUTYPE_LONGNAME:
        extended.name = _text(data.split(b"\0", 1)[0])
        return
    place = 0
    while record := _PAX_RECORD.match(data, place):
        end = place + int(record[1])
        key, value = record[2], data[record.end() : end - 1]
        if end <= record.end():
            break
        if key == b"path":
            extended.name = _text(value.split(b"\0", 1)[0])
        elif key == b"size" and value.isdigit() and len(value) < 20:
            extended.size = int(value)
        elif key.startswith(b"GNU.sparse."):
            extended.problem = _SKIPPED[tarfile.GNUTYPE_SPARSE]
        place = end


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
