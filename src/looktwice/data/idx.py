"""IDX files (http://yann.lecun.com/exdb/mnist, "file format"), and folders of them as MNIST's."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.array_files import array_splits
from looktwice.data.sources import Source
from looktwice.errors import DataError
from looktwice.foreign import MEND, check_fits_memory

_Bytes = NDArray[np.uint8]

_STEMS: Final = {"train": ("train",), "test": ("t10k", "test")}
_KINDS: Final = {"images": ("images", 3), "labels": ("labels", 1)}
_CHUNK: Final = 1 << 24


def holds_idx(folder: Path) -> bool:
    """Tell whether a folder has IDX pictures to train on."""
    return idx_path(folder, "train", "images") is not None


def open_idx(folder: Path) -> dict[str, Source]:
    """Open train and, where there is one, t10k or test; labelled where labels lie beside train.

    The labels' numbers are the class names: IDX files have no others.

    Raises:
        DataError: a file is damaged, or labels do not fit.
    """
    images: dict[str, _Bytes] = {}
    labels: dict[str, _Bytes | None] = {}
    for split in _STEMS:
        pictures = idx_path(folder, split, "images")
        if pictures is not None:
            images[split] = read_idx(pictures, 3)
            numbers = idx_path(folder, split, "labels")
            labels[split] = None if numbers is None else read_idx(numbers, 1)
    return array_splits(images, labels, folder)


def idx_path(folder: Path, split: str, kind: str) -> Path | None:
    """Find the file of a split ("train", "test") and kind ("images", "labels"), gzipped or not."""
    word, dimensions = _KINDS[kind]
    candidates = (
        folder / f"{stem}-{word}{separator}idx{dimensions}-ubyte{suffix}"
        for stem in _STEMS[split]
        for separator in "-."
        for suffix in (".gz", "")
    )
    return next((path for path in candidates if path.is_file()), None)


def read_idx(path: Path, num_dimensions: int) -> _Bytes:
    """Read an IDX file of unsigned bytes.

    Args:
        path: the file; gzipped when its name ends in .gz.
        num_dimensions: 1 for labels (N,), 3 for pictures (N, H, W).

    Raises:
        DataError: unreadable, of another kind, shorter or longer than it says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * num_dimensions)
            if len(head) < 4 + 4 * num_dimensions or head[:4] != bytes([0, 0, 8, num_dimensions]):
                raise DataError(
                    f"{str(path)!r} does not begin as an IDX file of bytes in {num_dimensions} "
                    f"dimensions: {MEND}"
                )
            shape = tuple(int(side) for side in np.frombuffer(head, ">u4", offset=4))
            size = math.prod(shape)
            check_fits_memory(path, size)
            data = _read_up_to(file, size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read ({error}): {MEND}") from error
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data):,}"
        raise DataError(
            f"{str(path)!r} should hold {size:,} bytes after its header, found {found}: {MEND}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_up_to(file: IO[bytes] | gzip.GzipFile, size: int) -> bytearray:
    """Read piece by piece: a false header takes no more memory than there are bytes."""
    data = bytearray()
    while len(data) < size and (piece := file.read(min(_CHUNK, size - len(data)))):
        data += piece
    return data
