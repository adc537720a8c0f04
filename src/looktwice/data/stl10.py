"""STL-10 in its binary form (https://cs.stanford.edu/~acoates/stl10).

A picture is 27,648 bytes: the red, green and blue planes, each column by column. Labels are 1-10.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.class_names import read_names
from looktwice.data.sources import ArraySource, Labels, Source, subset
from looktwice.errors import DataError
from looktwice.foreign import MEND

SIDE: Final = 96
NUM_CLASSES: Final = 10
NUM_FOLDS: Final = 10

_NUM_BYTES: Final = 3 * SIDE * SIDE


def holds_stl10(folder: Path) -> bool:
    """Tell whether a folder has the labelled part."""
    return (folder / "train_X.bin").is_file()


def holds_unlabelled(folder: Path) -> bool:
    """Tell whether a folder has the unlabelled part."""
    return (folder / "unlabeled_X.bin").is_file()


def open_stl10(folder: Path, *, fold: int | None = None) -> dict[str, Source]:
    """Open the labelled train and test pictures, memory-mapped.

    Args:
        folder: holds the files.
        fold: 0 to 9 takes the train pictures of that official fold alone.

    Raises:
        DataError: a file is missing or damaged.
    """
    train, test = _labelled(folder, "train"), _labelled(folder, "test")
    if fold is not None:
        train = subset(train, _fold(folder / "fold_indices.txt", fold, len(train)))
    return {"train": train, "test": test}


def open_unlabelled(folder: Path) -> dict[str, Source]:
    """Open the unlabelled pictures as "train", memory-mapped; "labelled" and "test" beside them.

    Raises:
        DataError: a file is missing or damaged.
    """
    pictures = _pictures(folder / "unlabeled_X.bin")
    return {
        "train": ArraySource(pictures, name="stl10-unlabelled/train"),
        "labelled": _labelled(folder, "train"),
        "test": _labelled(folder, "test"),
    }


def _labelled(folder: Path, split: str) -> Source:
    images = _pictures(folder / f"{split}_X.bin")
    labels = _labels(folder / f"{split}_y.bin", len(images))
    path = folder / "class_names.txt"
    names = read_names(path) if path.is_file() else tuple(map(str, range(1, NUM_CLASSES + 1)))
    if len(names) != NUM_CLASSES:
        raise DataError(f"{str(path)!r} has {len(names)} class names, not {NUM_CLASSES}: {MEND}")
    return ArraySource(images, labels, name=f"stl10/{split}", class_names=names)


def _pictures(path: Path) -> NDArray[np.uint8]:
    """Map a file as (N, 96, 96, 3), without a copy: columns come before rows in it."""
    size = _size(path)
    if not size or size % _NUM_BYTES:
        raise DataError(
            f"{str(path)!r} has {size:,} bytes, no whole number of pictures of {_NUM_BYTES:,}: "
            f"{MEND}"
        )
    mapped = np.memmap(path, np.uint8, "r", shape=(size // _NUM_BYTES, 3, SIDE, SIDE))
    return mapped.transpose(0, 3, 2, 1)


def _labels(path: Path, length: int) -> Labels:
    if _size(path) != length:
        raise DataError(f"{str(path)!r} has {_size(path):,} labels for {length:,} pictures: {MEND}")
    labels = np.fromfile(path, np.uint8).astype(np.int64)
    wrong = labels[(labels < 1) | (labels > NUM_CLASSES)]
    if wrong.size:
        raise DataError(
            f"label {wrong[0]} in {str(path)!r}; the labels are 1 to {NUM_CLASSES}: {MEND}"
        )
    return labels - 1


def _size(path: Path) -> int:
    if not path.is_file():
        raise DataError(f"{str(path)!r} of stl10 is missing: {MEND}")
    return path.stat().st_size


def _fold(path: Path, fold: int, length: int) -> NDArray[np.int64]:
    """Read the indices, from 0, of one fold: a line of numbers."""
    _size(path)
    lines = path.read_text("ascii", "replace").splitlines()
    words = lines[fold].split() if fold < len(lines) else []
    indices = [int(word) for word in words if word.isdecimal()]
    if not words or len(indices) < len(words) or max(indices) >= length:
        raise DataError(
            f"line {fold + 1} of {str(path)!r} is no list of picture numbers, 0 to {length - 1}: "
            f"{MEND}"
        )
    if len(set(indices)) < len(indices):
        raise DataError(f"line {fold + 1} of {str(path)!r} has a picture twice: {MEND}")
    return np.array(indices, np.int64)
