"""Pictures written anew: as tar shards, as one array, or as a folder of classes.

No name from the source becomes a path, except classes' names that are plain ones; what cannot be
decoded is left out, and told.
"""

from __future__ import annotations

import io
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, final

import numpy as np
from PIL import Image

from looktwice.data.array_files import ARRAY_ENDING, LABELS_ENDING, NAMES_ENDING
from looktwice.data.decoding import Picture
from looktwice.data.folders import CLASS_LISTS, SPLIT_FOLDERS
from looktwice.data.progress import ProgressLine
from looktwice.data.reading import in_threads
from looktwice.data.sources import Source
from looktwice.errors import BadPictureError, DataError, UsageError
from looktwice.storage import new_folder

Form = Literal["shards", "array", "folder"]

SHARD_BYTES: Final = 256 << 20
"""Of pictures in a shard, before the next one is begun."""

MAX_NAME: Final = 255
"""Bytes of a folder's name."""

LONGEST: Final = 8
"""Times its short side, how much of a picture's length is resized (as `models.central_square`)."""

_MAGIC: Final = {
    b"\xff\xd8": "jpg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"BM": "bmp",
    b"GIF8": "gif",
    b"II": "tif",
    b"MM": "tif",
}
"""First bytes of a picture that has been decoded to its ending."""


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        folder: where.
        counts: pictures by split.
        bad: what was left out: name to reason.
    """

    folder: Path
    counts: Mapping[str, int]
    bad: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Item:
    """One picture: its name in the source, pixels, label, and file where it is one."""

    name: str
    picture: Picture
    label: int | None
    file: bytes | None

    def encoded(self) -> tuple[bytes, str]:
        """Return a file of it and the ending: its own, or a PNG."""
        if self.file is not None:
            found = (end for magic, end in _MAGIC.items() if self.file.startswith(magic))
            return self.file, next(found, "png")
        made = io.BytesIO()
        grey = self.picture.shape[2] == 1
        Image.fromarray(self.picture[..., 0] if grey else self.picture).save(made, "PNG")
        return made.getvalue(), "png"


class _Writer(ABC):
    """Writes one split below a folder."""

    @abstractmethod
    def add(self, item: _Item) -> None:
        """Write the next picture."""

    @abstractmethod
    def close(self) -> None:
        """Write what comes after the last."""


def pack(
    official: Mapping[str, Source],
    out: Path,
    *,
    form: Form = "shards",
    size: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Packed:
    """Write the official splits of a data set into a new folder, which `open_source` reads.

    Args:
        official: as of `open_official`; train, validation and test are written.
        out: a folder that is not there.
        form: tar shards and one folder a class keep the files as they are (arrays as PNG); an
            array has pictures of one size.
        size: side of an array's pictures, pixels: the shorter side is brought to it (bicubic),
            and what is over of the other cut off on both ends. None: all have one size already.
        shard_bytes: of pictures in a shard.

    Raises:
        UsageError: a size without an array, or below 1.
        DataError: pictures of different sizes, no good ones, or classes that cannot be written.
        RunError: something is there already, or the disk is full; nothing is left behind.
    """
    _check(form, size, shard_bytes)
    parts = {split: official[split] for split in dict.fromkeys(SPLIT_FOLDERS.values())
             if split in official}  # fmt: skip
    listed = parts["train"].class_names
    class_names = None if listed is None else _class_list(listed, form)
    counts: dict[str, int] = {}
    bad: dict[str, str] = {}
    with new_folder(out) as folder:
        if class_names is not None:
            (folder / CLASS_LISTS[0]).write_text("".join(f"{n}\n" for n in class_names), "utf-8")
        for split, source in parts.items():
            bad |= source.skipped
            with ExitStack() as stack:
                writer = _writer(form, folder, split, source, class_names, size, shard_bytes)
                stack.callback(writer.close)
                counts[split] = _write(source, writer, bad, f"packing {split}")
            if not counts[split]:
                raise DataError(f"no picture of the {split} split of {source.name!r} can be read")
    return Packed(out, counts, bad)


def _write(source: Source, writer: _Writer, bad: dict[str, str], text: str) -> int:
    def item(i: int, picture: Picture) -> _Item:
        label = None if source.labels is None else int(source.labels[i])
        return _Item(source.identifier(i), picture, label, source.file(i))

    count = 0
    with ProgressLine(text, len(source)) as line:
        for done, made in enumerate(in_threads(source, item), start=1):
            line.at(done)
            if isinstance(made, BadPictureError):
                bad[made.identifier] = made.reason
            else:
                writer.add(made)
                count += 1
    return count


def _writer(
    form: Form,
    folder: Path,
    split: str,
    source: Source,
    class_names: tuple[str, ...] | None,
    size: int | None,
    shard_bytes: int,
) -> _Writer:
    if form == "shards":
        return _Shards(folder, split, shard_bytes)
    if form == "folder":
        return _Folder(folder / split, None if source.labels is None else class_names)
    return _Array(folder, split, source, size)


@final
class _Shards(_Writer):
    """``SPLIT-000000.tar`` and so on; keys are numbers, labels those of the class list."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder, self._split, self._limit = folder, split, shard_bytes
        self._tar: tarfile.TarFile | None = None
        self._shard = self._number = self._bytes = 0

    def add(self, item: _Item) -> None:
        """See `_Writer.add`."""
        data, ending = item.encoded()
        if self._tar is not None and self._bytes + len(data) > self._limit:
            self._tar.close()
            self._tar = None
        if self._tar is None:
            path = self._folder / f"{self._split}-{self._shard:06}.tar"
            self._tar = tarfile.open(path, "x", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._shard, self._bytes = self._shard + 1, 0
        self._member(self._tar, ending, data)
        if item.label is not None:
            self._member(self._tar, "cls", str(item.label).encode())
        self._bytes += len(data)
        self._number += 1

    def _member(self, tar: tarfile.TarFile, ending: str, data: bytes) -> None:
        info = tarfile.TarInfo(f"{self._number:09}.{ending}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))

    def close(self) -> None:
        """See `_Writer.close`."""
        if self._tar is not None:
            self._tar.close()


@final
class _Folder(_Writer):
    """``SPLIT/CLASS/000000000.jpg`` and so on."""

    def __init__(self, folder: Path, class_names: tuple[str, ...] | None) -> None:
        self._folder, self._class_names = folder, class_names
        self._number = 0
        for name in class_names or ("",):
            (folder / name).mkdir(parents=True)

    def add(self, item: _Item) -> None:
        """See `_Writer.add`."""
        data, ending = item.encoded()
        name = self._class_names[item.label or 0] if self._class_names else ""
        with (self._folder / name / f"{self._number:09}.{ending}").open("xb") as file:
            file.write(data)
        self._number += 1

    def close(self) -> None:
        """See `_Writer.close`."""


@final
class _Array(_Writer):
    """``SPLIT.npy``, ``SPLIT.labels.npy`` and ``SPLIT.names.txt``."""

    HEADER: Final = 128
    """Bytes before the numbers; rewritten when their count is known."""

    def __init__(self, folder: Path, split: str, source: Source, size: int | None) -> None:
        self._pixels: BinaryIO = (folder / f"{split}{ARRAY_ENDING}").open("xb")
        self._names: BinaryIO = (folder / f"{split}{NAMES_ENDING}").open("xb")
        self._labels_file = folder / f"{split}{LABELS_ENDING}"
        self._size = size
        self._shape: tuple[int, ...] = ()
        self._labels: list[int] | None = None if source.labels is None else []
        self._count = 0
        self._pixels.write(bytes(self.HEADER))

    def add(self, item: _Item) -> None:
        """See `_Writer.add`."""
        picture = item.picture if self._size is None else _sized(item.picture, self._size)
        self._shape = self._shape or picture.shape
        if picture.shape != self._shape:
            raise DataError(
                f"{item.name!r} has {picture.shape[0]} x {picture.shape[1]} pixels, those before "
                f"it {self._shape[0]} x {self._shape[1]}: give --size to bring all to one"
            )
        self._pixels.write(picture.tobytes())
        self._names.write(one_line(item.name).encode() + b"\n")
        if self._labels is not None and item.label is not None:
            self._labels.append(item.label)
        self._count += 1

    def close(self) -> None:
        """See `_Writer.close`."""
        about = {"descr": "|u1", "fortran_order": False, "shape": (self._count, *self._shape)}
        text = repr(about).encode().ljust(self.HEADER - 11) + b"\n"
        self._pixels.seek(0)
        self._pixels.write(b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text)
        self._pixels.close()
        self._names.close()
        if self._labels is not None:
            np.save(self._labels_file, np.array(self._labels, np.int64), allow_pickle=False)


def one_line(name: str) -> str:
    """Escape what would end a line."""
    return "".join(f"\\x{ord(c):02x}" if c in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029" else c
                   for c in name)  # fmt: skip


def _sized(picture: Picture, side: int) -> Picture:
    """Bring the shorter side of (H, W, C) to `side`, and cut the middle out: (side, side, C)."""
    height, width, _ = picture.shape
    top, left = (max(0, (n - LONGEST * min(height, width)) // 2) for n in (height, width))
    picture = picture[top : height - top, left : width - left]  # all of it could fill any memory
    height, width, channels = picture.shape
    scale = side / min(height, width)
    new = [max(side, round(length * scale)) for length in (width, height)]
    image = Image.fromarray(picture[..., 0] if channels == 1 else picture)
    scaled = np.asarray(image.resize((new[0], new[1]), Image.Resampling.BICUBIC))
    left, top = (new[0] - side) // 2, (new[1] - side) // 2
    return scaled[top : top + side, left : left + side].reshape(side, side, channels)


def _class_list(names: tuple[str, ...], form: Form) -> tuple[str, ...]:
    """Return names of classes that can be lines of a list, and of folders where they are to be."""
    if form == "folder":
        names = tuple(map(_folder_name, names))
    for name in names:
        if not name or name != name.strip() or name != one_line(name) or names.count(name) > 1:
            raise DataError(f"the class {name!r} cannot be listed: rename it in the source")
    return names


def _folder_name(name: str) -> str:
    """Return a name that stays in its folder, is no hidden one, and is short enough."""
    name = name.replace("/", "_").replace("\0", "_")
    name = f"_{name[1:]}" if name.startswith(".") else name
    if len(name.encode()) > MAX_NAME:
        raise DataError(f"the class {name[:40]!r}… is too long for a folder: pack as shards")
    return name


def _check(form: Form, size: int | None, shard_bytes: int) -> None:
    if size is not None and (form != "array" or size < 1):
        raise UsageError(
            f"--size {size} is for --as array, 1 or more: files are packed as they are"
        )
    if shard_bytes < 1:
        raise UsageError(f"a shard of {shard_bytes} bytes holds nothing: give 1 or more")
