"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747): the shipped part, and all of it."""

from __future__ import annotations

import gzip
import importlib.resources
import math
import os
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.sources import ArraySource, Source
from looktwice.errors import DataError

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
_FILES: Final = {"train": ("train", 60_000), "test": ("t10k", 10_000)}

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


def open_official(root: Path | None) -> dict[str, Source]:
    """Open all 60,000 train and 10,000 test pictures, read from the IDX files (gzipped or not).

    Raises:
        DataError: the files are nowhere to be found, or damaged.
    """
    folder = find_folder(root)
    return {split: _source("fashion-mnist", split, *read_pair(folder, split)) for split in _FILES}


def find_folder(root: Path | None) -> Path:
    """Find the first folder with all four IDX files: under root, `$LOOKTWICE_DATA`, or Debian's.

    Raises:
        DataError: there is none, or root is not a folder.
    """
    if root is not None and not root.is_dir():
        raise DataError(f"the data root {str(root)!r} is not a folder: create it, or leave it out")
    given = os.environ.get("LOOKTWICE_DATA")
    bases = [root, Path(given).expanduser() if given else None]
    places = [base / sub for base in bases if base is not None for sub in _SUB_FOLDERS]
    for folder in (*places, Path(DEBIAN_FOLDER)):
        if all(_idx_path(folder, split, kind) for split in _FILES for kind in _KINDS):
            return folder
    raise DataError(
        "fashion-mnist is not on this machine, and nothing is downloaded silently: put its four "
        "train-… and t10k-…-ubyte.gz files under --data-root, or under $LOOKTWICE_DATA, or install "
        "Debian's package dataset-fashion-mnist; fashion-mnist-10k needs none of them"
    )


def read_pair(folder: Path, split: str) -> tuple[_Bytes, _Bytes]:
    """Read images (N, 28, 28) and labels (N,), uint8, of the official "train" or "test" files.

    Raises:
        DataError: a file is missing or damaged.
    """
    length = _FILES[split][1]
    arrays = []
    for kind, shape in (("images", (length, 28, 28)), ("labels", (length,))):
        path = _idx_path(folder, split, kind)
        if path is None:
            raise DataError(f"no {split} {kind} of fashion-mnist in {str(folder)!r}")
        arrays.append(read_idx(path, shape))
    images, labels = arrays
    if labels.max() >= len(CLASS_NAMES):
        raise DataError(f"label {labels.max()} in {str(path)!r}; the labels are 0 to 9: {_MEND}")
    return images, labels


def read_idx(path: Path, shape: tuple[int, ...]) -> _Bytes:
    """Read the unsigned bytes of an IDX file (http://yann.lecun.com/exdb/mnist, "file format").

    Args:
        path: the file; gzipped when its name ends in .gz.
        shape: the only shape that will do, so that a false header cannot ask for memory.

    Raises:
        DataError: unreadable, another shape than expected, shorter or longer than it says.
    """
    header = bytes([0, 0, 8, len(shape)]) + b"".join(side.to_bytes(4, "big") for side in shape)
    size = len(header) + math.prod(shape)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read ({error}): {_MEND}") from error
    if data[: len(header)] != header:
        raise DataError(f"{str(path)!r} does not begin as an IDX file of shape {shape}: {_MEND}")
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data):,}"
        raise DataError(f"{str(path)!r} should hold {size:,} bytes, found {found}: {_MEND}")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


def rank_in_class(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count the earlier labels equal to each (N,): int64 (N,)."""
    ranks = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = np.arange(len(members))
    return ranks


_KINDS: Final = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}
_MEND: Final = "put the original file back"


def _idx_path(folder: Path, split: str, kind: str) -> Path | None:
    stem = f"{_FILES[split][0]}-{_KINDS[kind]}"
    candidates = (folder / f"{stem}.gz", folder / stem)
    return next((path for path in candidates if path.is_file()), None)


def _source(name: str, split: str, images: _Bytes, labels: _Bytes) -> Source:
    return ArraySource(images, labels, name=f"{name}/{split}", class_names=CLASS_NAMES)
