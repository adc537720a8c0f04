"""Tar shards in WebDataset's layout: the files of a sample follow each other and share a key.

``key.jpg`` (or another ending of pictures) is the picture, ``key.cls`` its label, as is ``label``
or ``cls`` in ``key.json`` (https://github.com/webdataset/webdataset). An index, made once, says
where each picture lies, so that any of them is read at once and the order of an epoch is as free
as that of a folder.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from looktwice.data import indexes
from looktwice.data.class_names import number_labels, read_names
from looktwice.data.files import Files, Paths, printable, probe_channels, read_regular
from looktwice.data.folders import CLASS_LISTS, SPLIT_FOLDERS, split_of
from looktwice.data.progress import ProgressLine
from looktwice.data.scan import EXTENSIONS, Glance, glance
from looktwice.data.sources import FileSource, Labels, Source
from looktwice.data.tar import Member, Read, members
from looktwice.errors import DataError

MAX_LABEL: Final = 1 << 20
"""Bytes of a label's file."""

MAX_SHARDS: Final = 100_000
"""Shards that a pattern may name."""

_BRACES: Final = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_LOST: Final = "its label cannot be read"


class Shard(ABC):
    """One tar file.

    Attributes:
        name: what to call it, unique among its shards.
        length: bytes.
        version: changes when the file does.
    """

    def __init__(self, name: str, length: int, version: str) -> None:
        self.name = name
        self.length = length
        self.version = version

    @abstractmethod
    def read(self, offset: int, size: int) -> bytes:
        """Return exactly those bytes.

        Raises:
            OSError: they are not there.
            DataError: the place where the shard lies cannot be reached.
        """

    @abstractmethod
    def opened(self) -> contextlib.AbstractContextManager[Read]:
        """Open it to be read from its beginning to its end."""


@final
class LocalShard(Shard):
    """A tar file on this machine.

    Raises:
        DataError: it is no regular file, or is not there.
    """

    def __init__(self, path: str, name: str) -> None:
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            raise DataError(
                f"the shard {path!r} cannot be read ({error.strerror}): mend the pattern, or put "
                "the file back"
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"the shard {path!r} is no regular file: give .tar files")
        super().__init__(name, status.st_size, f"{os.path.realpath(path)}\0{status.st_mtime_ns}")
        self._path = path

    def read(self, offset: int, size: int) -> bytes:
        """See `Shard.read`."""
        return read_regular(self._path, offset, size)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Read]:
        """See `Shard.opened`."""
        with open(self._path, "rb", buffering=0) as file:  # noqa: PTH123
            yield lambda offset, size: os.pread(file.fileno(), size, offset)


@final
class ShardFiles(Files):
    """The pictures in shards, in their order.

    Args:
        shards: the shards.
        members: their pictures' names; `folder_of` is the shard.
        offsets: int64 (N,), where each picture begins in its shard.
        sizes: int64 (N,), its bytes.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        members: Paths,
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> None:
        self._shards = shards
        self._members = members
        self._offsets = offsets
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def read(self, i: int) -> bytes:
        """See `Files.read`."""
        shard = self._shards[int(self._members.folder_of[i])]
        return shard.read(int(self._offsets[i]), int(self._sizes[i]))

    def identifier(self, i: int) -> str:
        """See `Files.identifier`; shard and member."""
        shard = self._shards[int(self._members.folder_of[i])]
        return f"{shard.name}:{printable(str(self._members[i]))}"

    def digest(self) -> bytes:
        """See `Files.digest`."""
        digest = hashlib.sha256("\0".join(shard.name for shard in self._shards).encode())
        for array in (self._members.folder_of, self._members.lengths, self._sizes):
            digest.update(array.astype("<i8").tobytes())
        digest.update(self._members.names)
        return digest.digest()


def holds_shards(folder: Path, inside: Glance) -> bool:
    """Tell whether a folder, or each folder in it, named as splits, has .tar files alone."""
    return bool(_shard_files(folder, inside))


def open_shard_folder(folder: Path) -> dict[str, Source]:
    """Open the shards of a folder, in ``train/`` and other splits' folders, or named so.

    As ``train-000000.tar`` is; shards named as no split are train. ``class.txt`` in the folder
    gives the classes' names.

    Raises:
        DataError: no pictures, labels for some alone, or labels that do not fit.
    """
    parts = {
        split: [LocalShard(str(folder / file), printable(file)) for file in files]
        for split, files in _shard_files(folder, glance(folder)).items()
    }
    return open_shards(parts, printable(str(folder)), _listed(folder))


def open_pattern(pattern: str) -> dict[str, Source]:
    """Open the local shards of a pattern as train.

    Raises:
        DataError: none there, or as `open_shard_folder`.
    """
    return _open_files([path for name in expand(pattern) for path in _matching(name)], pattern)


def open_tar(path: Path) -> dict[str, Source]:
    """Open one local shard as train. Raises as `open_shard_folder`."""
    return _open_files([str(path)], str(path))


def _open_files(paths: Sequence[str], where: str) -> dict[str, Source]:
    parents = {str(Path(path).parent) for path in paths}
    base = os.path.commonpath(parents)
    shards = [LocalShard(path, printable(os.path.relpath(path, base))) for path in paths]
    return open_shards({"train": shards}, printable(where), _listed(Path(base)))


def _listed(folder: Path) -> tuple[str, ...] | None:
    lists = [folder / name for name in CLASS_LISTS if (folder / name).is_file()]
    return read_names(lists[0]) if lists else None


def is_pattern(name: str) -> bool:
    """Tell a name of shards: it ends in .tar, and has braces or wild cards."""
    return name.lower().endswith(".tar") and (glob.has_magic(name) or "{" in name)


def expand(pattern: str) -> list[str]:
    """Expand ``{000..010}`` and ``{a,b}``, as a shell does; no more than `MAX_SHARDS`.

    Raises:
        DataError: more.
    """
    names = list(islice(_expanded(pattern), MAX_SHARDS + 1))
    if len(names) > MAX_SHARDS:
        raise DataError(f"{pattern!r} names more than {MAX_SHARDS:,} shards: mend its braces")
    return names


def _expanded(pattern: str) -> Iterator[str]:
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    first, last, choices = found.groups()
    width = len(first or "")
    ends = (int(first), int(last)) if first else (1, 0)
    steps = range(ends[0], ends[1] + 1) or range(ends[0], ends[1] - 1, -1)
    for middle in (f"{n:0{width}}" for n in steps) if first else choices.split(","):
        yield from _expanded(f"{pattern[: found.start()]}{middle}{pattern[found.end() :]}")


def open_shards(
    parts: Mapping[str, Sequence[Shard]], where: str, listed: tuple[str, ...] | None
) -> dict[str, Source]:
    """Open shards by split, their indexes from the cache where they are in it.

    Args:
        parts: "train" is among them.
        where: what to call the data set.
        listed: names of the classes, in order, where there is a list.

    Raises:
        DataError: no train, no pictures, labels for some alone, or labels that do not fit.
    """
    if "train" not in parts:
        raise DataError(f"{where!r} has shards for {' and '.join(parts)}, but none for train")
    with ProgressLine(f"indexing {where}") as line:
        indexed = {split: _joined(shards, line) for split, shards in parts.items()}
    for split, part in indexed.items():
        _check_some(part, split, where)
    classes = {split: part.classes for split, part in indexed.items() if part.classes}
    numbers, class_names = _numbered(classes, where, listed)
    channels = probe_channels(indexed["train"].files)
    return {
        split: FileSource(
            part.files,
            name=where if len(parts) == 1 else f"{where}/{split}",
            channels=channels,
            labels=numbers[split][part.label_of] if split in numbers else None,
            class_names=class_names if split in numbers else None,
            skipped=part.skipped,
        )
        for split, part in indexed.items()
    }


@final
class _Part:
    """The indexes of a split's shards, joined."""

    def __init__(self, shards: Sequence[Shard], tables: Sequence[indexes.Arrays]) -> None:
        def column(name: str) -> NDArray[np.int64]:
            return np.concatenate([table[name] for table in tables]).astype(np.int64)

        counts = [len(table["sizes"]) for table in tables]
        lengths = column("lengths").astype(np.int32)
        names = Paths(
            ("",) * len(shards),
            np.repeat(np.arange(len(shards), dtype=np.int32), counts),
            b"".join(table["names"].tobytes() for table in tables),
            np.cumsum(lengths, dtype=np.int64) - lengths,
            lengths,
        )
        self.files = ShardFiles(shards, names, column("offsets"), column("sizes"))
        self.skipped: dict[str, str] = {}
        self.others: Counter[str] = Counter()
        numbers: dict[str, int] = {}
        own = []
        for shard, table in zip(shards, tables, strict=True):
            count = int(table["counts"][0])
            texts = [numbers.setdefault(t, len(numbers)) for t in _texts(table, "classes", count)]
            own.append(np.array([*texts, -1], np.int64)[table["label_of"]])
            count = int(table["counts"][1])
            notes = zip(_texts(table, "bad", count), _texts(table, "reasons", count), strict=True)
            self.skipped |= {f"{shard.name}:{printable(name)}": why for name, why in notes}
            self.others.update(_texts(table, "others", int(table["counts"][2])))
        self.label_of = np.concatenate(own)
        self.classes = tuple(numbers)


def _texts(table: indexes.Arrays, name: str, count: int) -> list[str]:
    return indexes.unpacked(table[name], count)


def _joined(shards: Sequence[Shard], line: ProgressLine) -> _Part:
    tables, done = [], 0
    for shard in shards:
        key = f"tar\0{shard.version}\0{shard.length}"
        table = indexes.load(key)
        if table is None:
            table = _index(shard)
            indexes.store(key, table)
        tables.append(table)
        done += len(table["sizes"])
        line.at(done)
    return _Part(shards, tables)


@final
class _Collected:
    """The samples of one shard as its members come."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.offsets: list[int] = []
        self.sizes: list[int] = []
        self.labels: list[str | None] = []
        self.bad: dict[str, str] = {}
        self.others: Counter[str] = Counter()
        self.damaged = False
        self._keys: set[str] = set()
        self._key = ""
        self._waiting: tuple[str, str | None] = ("", None)

    def add(self, member: Member, read: Read) -> None:
        """Take one member."""
        key, ending = _split(member.name)
        self.damaged |= not member.name or "cut off" in member.problem
        if not member.name:
            self.bad[f"byte {member.offset:,}"] = member.problem
        elif f".{ending}" in EXTENSIONS:
            self._add_picture(member, key)
        elif ending in ("cls", "json"):
            self._add_label(key, _label(member, ending, read), wins=ending == "cls")
        else:
            self.others[f".{ending}"] += 1

    def _add_picture(self, member: Member, key: str) -> None:
        twice = key in self._keys
        if member.problem or twice:
            name = member.name if not twice else f"{member.name} at byte {member.offset:,}"
            self.bad[name] = member.problem or f"{key!r} has a picture already"
            return
        self._keys.add(key)
        self._key = key
        self.names.append(member.name)
        self.offsets.append(member.offset)
        self.sizes.append(member.size)
        self.labels.append(self._waiting[1] if self._waiting[0] == key else None)

    def _add_label(self, key: str, label: str | None, *, wins: bool) -> None:
        if label is None:
            return
        if self.names and self._key == key:
            self.labels[-1] = label if wins else self.labels[-1] or label
        elif wins or self._waiting[0] != key:
            self._waiting = (key, label)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the index as arrays; samples whose label is lost go to the bad ones."""
        if self.damaged and any(self.labels) and self.labels[-1] is None:
            self.labels[-1] = _LOST
        kept = [n for n, label in enumerate(self.labels) if label != _LOST]
        for n in {*range(len(self.names))} - {*kept}:
            self.bad[self.names[n]] = _LOST
        names = [os.fsencode(self.names[n]) for n in kept]
        classes = sorted({self.labels[n] or "" for n in kept if self.labels[n] is not None})
        number = {name: n for n, name in enumerate(classes)}
        labels = [self.labels[n] for n in kept]
        others = [kind for kind, _ in self.others.most_common(4)]
        return {
            "names": np.frombuffer(b"".join(names), np.uint8),
            "lengths": np.array([len(name) for name in names], np.int32),
            "offsets": np.array([self.offsets[n] for n in kept], np.int64),
            "sizes": np.array([self.sizes[n] for n in kept], np.int64),
            "label_of": np.array([-1 if x is None else number[x] for x in labels], np.int32),
            "classes": indexes.packed(classes),
            "bad": indexes.packed([*self.bad]),
            "reasons": indexes.packed([*self.bad.values()]),
            "others": indexes.packed(others),
            "counts": np.array([len(classes), len(self.bad), len(others)], np.int64),
        }


def _index(shard: Shard) -> dict[str, NDArray[np.generic]]:
    collected = _Collected()
    with shard.opened() as read:
        for member in members(read, shard.length):
            collected.add(member, read)
    return collected.arrays()


def _split(name: str) -> tuple[str, str]:
    """Split a member's name into key and ending, at the first dot of its last part."""
    at = name.rfind("/") + 1
    dot = name.find(".", at + 1)
    if dot < 0 or name[at : at + 1] == ".":
        return name, ""
    return name[:dot], name[dot + 1 :].lower()


def _label(member: Member, ending: str, read: Read) -> str | None:
    """Read a label: of any text, or an integer's; None where JSON has none; `_LOST`."""
    if member.problem or member.size > MAX_LABEL:
        return _LOST
    data = read(member.offset, member.size)
    try:
        found: object = data.decode("utf-8").strip()
        if ending == "json":
            record = json.loads(data)
            found = record.get("label", record.get("cls")) if isinstance(record, dict) else None
    except (ValueError, RecursionError):
        return _LOST
    if found is None:
        return None
    plain = type(found) in (str, int) and found != ""
    return printable(str(found)).replace("\0", "") if plain else _LOST


def _check_some(part: _Part, split: str, where: str) -> None:
    if not len(part.files):
        found = ", ".join(kind for kind, _ in part.others.most_common(4))
        bad = next((f"{name} ({why})" for name, why in part.skipped.items()), "")
        raise DataError(
            f"0 pictures in the {split} shards of {where!r}; found {found or bad or 'no members'}: "
            "pack pictures as KEY.jpg, KEY.png or KEY.webp, one dot after the key"
        )
    missing = np.flatnonzero(part.label_of < 0)
    if part.classes and missing.size:
        raise DataError(
            f"{where!r} has no label for {missing.size:,} pictures of the {split} split, such as "
            f"{part.files.identifier(int(missing[0]))!r}: label all, or none"
        )


def _numbered(
    classes: Mapping[str, tuple[str, ...]], where: str, listed: tuple[str, ...] | None
) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    """Number the distinct labels of each split; return the classes' names, too."""
    if "train" not in classes:
        return {}, None
    numeric = all(_INTEGER.fullmatch(name) for names in classes.values() for name in names)
    if listed is not None:
        known = {str(n) if numeric else name: n for n, name in enumerate(map(printable, listed))}
        unknown = [name for names in classes.values() for name in names if name not in known]
        if unknown:
            raise DataError(
                f"label {unknown[0]!r} in {where!r} is none of the {len(listed)} in its class "
                "list: mend the list, or the labels"
            )
        numbers = {s: np.array([known[n] for n in names], np.int64) for s, names in classes.items()}
        return numbers, tuple(map(printable, listed))
    kind = np.int64 if numeric else np.str_
    found, names = number_labels({s: np.array(v, kind) for s, v in classes.items()}, where)
    return {s: v for s, v in found.items() if v is not None}, names


def _shard_files(folder: Path, inside: Glance) -> dict[str, list[str]]:
    """Return the shards of a folder by split, as paths in it; nothing where it holds others."""
    tars = _tars(inside)
    found: dict[str, list[str]] = {}
    if tars and not inside.folders:
        for file in tars:
            found.setdefault(split_of(file), []).append(file)
    elif inside.folders and all(name.lower() in SPLIT_FOLDERS for name in inside.folders):
        for name in inside.folders:
            inner = glance(folder / name)
            if not _tars(inner) or inner.folders:
                return {}
            split = SPLIT_FOLDERS[name.lower()]
            found.setdefault(split, []).extend(f"{name}/{file}" for file in _tars(inner))
    return found


def _tars(inside: Glance) -> list[str]:
    """Return the .tar files in a folder; none where there is a picture, too."""
    return [name for name in inside.files if name.lower().endswith(".tar") and not inside.pictures]


def _matching(name: str) -> list[str]:
    if not glob.has_magic(name) or Path(name).exists():
        return [name]
    found = sorted(glob.glob(name, recursive=True), key=os.fsencode)  # noqa: PTH207
    if not found:
        raise DataError(f"no shard matches {name!r}: check the pattern")
    return found
