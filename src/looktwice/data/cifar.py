"""CIFAR-10 and CIFAR-100, python and binary version (https://www.cs.toronto.edu/~kriz/cifar.html).

Pictures are rows of 3,072 bytes: the red, green and blue planes, each row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.class_names import read_names
from looktwice.data.sources import ArraySource, Source
from looktwice.errors import DataError
from looktwice.foreign import MEND, load_pickle

SIDE: Final = 32
NUM_BYTES: Final = 3 * SIDE * SIDE

_Bytes = NDArray[np.uint8]
_Rows = tuple[_Bytes, NDArray[np.int64]]


@dataclass(frozen=True)
class Form:
    """One of the four forms that CIFAR comes in.

    Attributes:
        name: of the data set.
        folder: as it is distributed.
        train: file names, in order.
        test: file name.
        names: file with the class names.
        num_classes: labels are 0 to this less one.
        read_rows: reads pictures (N, 3072) and labels (N,).
        read_class_names: reads `names`.
    """

    name: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    num_classes: int
    read_rows: Callable[[Path], _Rows]
    read_class_names: Callable[[Path], tuple[str, ...]]

    def is_in(self, folder: Path) -> bool:
        """Tell whether a folder has it; whether it is whole, `open` finds out."""
        first = (folder / self.train[0], folder / self.test)
        return (folder / self.names).is_file() and any(path.is_file() for path in first)


def open_cifar(folder: Path, form: Form) -> dict[str, Source]:
    """Open the official train and test pictures, in memory.

    Raises:
        DataError: a file is missing or damaged.
    """
    class_names = form.read_class_names(folder / form.names)
    if len(class_names) != form.num_classes:
        raise DataError(
            f"{str(folder / form.names)!r} has {len(class_names)} class names, not "
            f"{form.num_classes}: {MEND}"
        )
    splits: dict[str, Source] = {}
    for split, files in (("train", form.train), ("test", (form.test,))):
        rows = [_checked(folder / file, form) for file in files]
        pictures = np.concatenate([images for images, _ in rows]).reshape(-1, 3, SIDE, SIDE)
        splits[split] = ArraySource(
            np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)),
            np.concatenate([labels for _, labels in rows]),
            name=f"{form.name}/{split}",
            class_names=class_names,
        )
    return splits


def _checked(path: Path, form: Form) -> _Rows:
    if not path.is_file():
        raise DataError(f"{str(path)!r} of {form.name} is missing: {MEND}")
    images, labels = form.read_rows(path)
    wrong = labels[(labels < 0) | (labels >= form.num_classes)]
    if wrong.size:
        raise DataError(
            f"label {wrong[0]} in {str(path)!r}; the labels are 0 to {form.num_classes - 1}: {MEND}"
        )
    return images, labels


def _binary_rows(num_labels: int) -> Callable[[Path], _Rows]:
    """Return a reader of records of label bytes, the last of which is the fine one, and pixels."""

    def read(path: Path) -> _Rows:
        data = np.fromfile(path, np.uint8)
        size = num_labels + NUM_BYTES
        if not data.size or data.size % size:
            raise DataError(
                f"{str(path)!r} has {data.size:,} bytes, no whole number of pictures of {size:,}: "
                f"{MEND}"
            )
        records = data.reshape(-1, size)
        return records[:, num_labels:], records[:, num_labels - 1].astype(np.int64)

    return read


def _pickled_rows(key: bytes) -> Callable[[Path], _Rows]:
    """Return a reader of pickled batches with ``data`` and the labels under `key`."""

    def read(path: Path) -> _Rows:
        batch = load_pickle(path)
        images, labels = _entry(path, batch, b"data"), _entry(path, batch, key)
        is_rows = isinstance(images, np.ndarray) and images.dtype == np.uint8
        if not is_rows or images.shape[1:] != (NUM_BYTES,) or not len(images):
            raise DataError(f"'data' in {str(path)!r} is no uint8 array (N, {NUM_BYTES}): {MEND}")
        if not (isinstance(labels, list) and all(type(label) is int for label in labels)):
            raise DataError(f"{key.decode()!r} in {str(path)!r} is no list of integers: {MEND}")
        if len(labels) != len(images):
            raise DataError(
                f"{str(path)!r} has {len(labels)} labels for {len(images)} pictures: {MEND}"
            )
        return images, np.array(labels, np.int64)

    return read


def _pickled_names(key: bytes) -> Callable[[Path], tuple[str, ...]]:
    def read(path: Path) -> tuple[str, ...]:
        names = _entry(path, load_pickle(path), key)
        if not (isinstance(names, list) and all(type(name) in (bytes, str) for name in names)):
            raise DataError(f"{key.decode()!r} in {str(path)!r} is no list of names: {MEND}")
        return tuple(_text(name) for name in names)

    return read


def _entry(path: Path, batch: object, key: bytes) -> Any:
    """Take one entry of an unpickled dict; its keys are bytes, as of Python 2, or str."""
    if isinstance(batch, dict):
        for known, value in batch.items():
            if known in (key, key.decode()):
                return value
    raise DataError(f"{str(path)!r} has no entry {key.decode()!r}: {MEND}")


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


_BATCHES: Final = tuple(f"data_batch_{number}" for number in range(1, 6))

FORMS: Final = (
    Form(
        "cifar10", "cifar-10-batches-py", _BATCHES, "test_batch", "batches.meta", 10,
        _pickled_rows(b"labels"), _pickled_names(b"label_names"),
    ),
    Form(
        "cifar10", "cifar-10-batches-bin", tuple(f"{batch}.bin" for batch in _BATCHES),
        "test_batch.bin", "batches.meta.txt", 10, _binary_rows(1), read_names,
    ),
    Form(
        "cifar100", "cifar-100-python", ("train",), "test", "meta", 100,
        _pickled_rows(b"fine_labels"), _pickled_names(b"fine_label_names"),
    ),
    Form(
        "cifar100", "cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", 100,
        _binary_rows(2), read_names,
    ),
)  # fmt: skip
"""Every form, by the description on the data sets' page."""
