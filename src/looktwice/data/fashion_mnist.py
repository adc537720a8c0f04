"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747): the shipped part, and all of it."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.idx import idx_path, read_idx
from looktwice.data.places import find
from looktwice.data.sources import ArraySource, Source
from looktwice.errors import DataError
from looktwice.foreign import MEND

CLASS_NAMES: Final = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

NUM_PER_CLASS: Final = 1000
"""Pictures a class in the shipped part: the first of the official training file."""

NUM_TRAIN_PER_CLASS: Final = 800
"""The first of those are train, the others test."""

DEBIAN_FOLDER: Final = "/usr/share/datasets/fashion-mnist"
"""Where Debian's package dataset-fashion-mnist puts the IDX files."""

_SUB_FOLDERS: Final = ("", "fashion-mnist", "FashionMNIST/raw")
_LENGTHS: Final = {"train": 60_000, "test": 10_000}

_Bytes = NDArray[np.uint8]


def open_shipped() -> dict[str, Source]:
    """Open the 8,000 train and 2,000 test pictures in the package, 28×28, one channel."""
    resource = importlib.resources.files("looktwice.data") / "shipped" / "fashion-mnist-10k.npz"
    with resource.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    is_train = rank_in_class(labels) < NUM_TRAIN_PER_CLASS
    return {
        split: _source("fashion-mnist-10k", split, images[chosen], labels[chosen])
        for split, chosen in (("train", is_train), ("test", ~is_train))
    }


def open_official(folder: Path) -> dict[str, Source]:
    """Open all 60,000 train and 10,000 test pictures, read from the IDX files (gzipped or not).

    Raises:
        DataError: a file is missing or damaged.
    """
    return {split: _source("fashion-mnist", split, *read_pair(folder, split)) for split in _LENGTHS}


def find_official(root: Path | None) -> Path | None:
    """Find the first folder with all four IDX files: where `places.find` looks, or Debian's.

    Raises:
        DataError: root is not a folder.
    """
    debian = Path(DEBIAN_FOLDER)
    return find(root, _SUB_FOLDERS, _holds) or (debian if _holds(debian) else None)


def _holds(folder: Path) -> bool:
    return all(idx_path(folder, split, kind) for split in _LENGTHS for kind in ("images", "labels"))


def read_pair(folder: Path, split: str) -> tuple[_Bytes, _Bytes]:
    """Read images (N, 28, 28) and labels (N,), uint8, of the official "train" or "test" files.

    Raises:
        DataError: a file is missing or damaged.
    """
    length = _LENGTHS[split]
    images = _read(folder, split, "images", (length, 28, 28))
    labels = _read(folder, split, "labels", (length,))
    if labels.max() >= len(CLASS_NAMES):
        raise DataError(
            f"label {labels.max()} of the {split} pictures in {str(folder)!r}; the labels are 0 "
            f"to 9: {MEND}"
        )
    return images, labels


def _read(folder: Path, split: str, kind: str, shape: tuple[int, ...]) -> _Bytes:
    path = idx_path(folder, split, kind)
    if path is None:
        raise DataError(f"no {split} {kind} of fashion-mnist in {str(folder)!r}")
    array = read_idx(path, len(shape))
    if array.shape != shape:
        raise DataError(f"{str(path)!r} holds {array.shape}, not {shape}: {MEND}")
    return array


def rank_in_class(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count the earlier labels equal to each (N,): int64 (N,)."""
    ranks = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = np.arange(len(members))
    return ranks


def _source(name: str, split: str, images: _Bytes, labels: _Bytes) -> Source:
    return ArraySource(images, labels, name=f"{name}/{split}", class_names=CLASS_NAMES)
