"""Pictures in .npz and .npy files, and in folders of arrays as `pack` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.class_names import number_labels, read_names
from looktwice.data.files import Paths, printable
from looktwice.data.folders import CLASS_LISTS, SPLIT_FOLDERS
from looktwice.data.sources import ArraySource, Source
from looktwice.errors import DataError
from looktwice.foreign import load_npy, load_npz

NAMES: Final = {
    "train": (("images", "labels"), ("x_train", "y_train"), ("train_images", "train_labels")),
    "validation": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
"""Names of pictures and labels in an .npz file: ours, Keras's, MedMNIST's."""

ARRAY_ENDING: Final = ".npy"
LABELS_ENDING: Final = ".labels.npy"
NAMES_ENDING: Final = ".names.txt"
"""Behind a split's name: its pictures, labels, and names, one a line."""


def holds_arrays(folder: Path) -> bool:
    """Tell whether a folder has the array of a train split and its names."""
    return all((folder / f"train{end}").is_file() for end in (ARRAY_ENDING, NAMES_ENDING))


def open_arrays(folder: Path) -> dict[str, Source]:
    """Open a folder of arrays: pictures memory-mapped, labels numbered as ``class.txt`` lists them.

    Raises:
        DataError: a file is damaged, or they do not fit together.
    """
    listed = [folder / name for name in CLASS_LISTS if (folder / name).is_file()]
    splits: dict[str, Source] = {}
    for split in dict.fromkeys(SPLIT_FOLDERS.values()):
        path, labels = folder / f"{split}{ARRAY_ENDING}", folder / f"{split}{LABELS_ENDING}"
        if not path.is_file():
            continue
        try:
            splits[split] = ArraySource(
                load_npy(path),
                load_npy(labels) if labels.is_file() else None,
                name=printable(f"{folder}/{split}"),
                class_names=read_names(listed[0]) if listed and labels.is_file() else None,
                names=_lines(folder / f"{split}{NAMES_ENDING}"),
            )
        except DataError as error:
            raise DataError(f"{printable(str(path))!r}: {error}") from error
    return splits


def _lines(path: Path) -> Paths:
    """Read names, one a line, without an object for each."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror})") from error
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
    lengths = (ends - starts).astype(np.int32)
    return Paths(("",), np.zeros(ends.size, np.int32), data, starts, lengths)


def open_npy(path: Path) -> dict[str, Source]:
    """Open uint8 pictures (N, H, W[, C]), memory-mapped and unlabelled.

    Raises:
        DataError: damaged, or other pictures than those.
    """
    return array_splits({"train": load_npy(path)}, {"train": None}, path)


def open_npz(path: Path) -> dict[str, Source]:
    """Open the splits of an .npz file; `NAMES` are the arrays that are looked for.

    Raises:
        DataError: damaged, no such arrays, or arrays that do not fit together.
    """
    arrays = load_npz(path)
    images: dict[str, NDArray[Any]] = {}
    labels: dict[str, NDArray[Any] | None] = {}
    for split, pairs in NAMES.items():
        for pictures, numbers in pairs:
            if pictures in arrays:
                images[split] = arrays[pictures]
                labels[split] = _flat(arrays[numbers]) if numbers in arrays else None
                break
    if "train" not in images:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(
            f"{str(path)!r} holds {found}: name the pictures images, x_train or train_images, and "
            "their labels labels, y_train or train_labels"
        )
    return array_splits(images, labels, path)


def array_splits(
    images: Mapping[str, NDArray[Any]], labels: Mapping[str, NDArray[Any] | None], path: Path
) -> dict[str, Source]:
    """Make sources of arrays that come from one file or folder; train's labels are the classes.

    Args:
        images: by split, as `ArraySource` takes them; "train" is among them.
        labels: by split, (N,) integers or strings, or None.
        path: where they come from, for names and errors.

    Raises:
        DataError: arrays that do not fit together.
    """
    where = printable(str(path))
    numbered, class_names = number_labels(labels, where)
    splits: dict[str, Source] = {}
    for split, pictures in images.items():
        try:
            splits[split] = ArraySource(
                pictures, numbered[split], name=f"{where}/{split}", class_names=class_names
            )
        except DataError as error:
            raise DataError(f"{where!r}, {split} split: {error}") from error
    return splits


def _flat(labels: NDArray[Any]) -> NDArray[Any]:
    """Take labels of shape (N, 1), as Keras and MedMNIST store them, for (N,)."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
