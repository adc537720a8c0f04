"""From what a user names to pictures: data sets, folders, arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.fashion_mnist import open_official, open_shipped
from looktwice.data.folders import open_folder
from looktwice.data.sources import ArraySource, Source
from looktwice.data.splits import Splits, carve
from looktwice.errors import DataError, UsageError, did_you_mean

Array = NDArray[Any]
Data = str | os.PathLike[str] | Array | tuple[Array, Array] | Source

DATA_SETS: Final[Mapping[str, Callable[[Path | None], dict[str, Source]]]] = {
    "fashion-mnist-10k": lambda _: open_shipped(),
    "fashion-mnist": open_official,
}
"""Name to what opens it; a folder of the same name is reached as ``./name``."""


def open_source(data: Data, *, split: str = "train", root: str | Path | None = None) -> Source:
    """Open one official split, as it is distributed; nothing is carved.

    Args:
        data: name of a data set, folder, uint8 array (N, H, W[, C]), pair (images, labels), or
            a source, which is its own train split.
        split: "train", "validation" or "test".
        root: folder under which named data sets are looked for first.

    Raises:
        DataError: nothing there, or not usable.
        UsageError: no such split.
    """
    official = _official(data, root)
    if split not in official:
        raise UsageError(
            f"{official['train'].name!r} has no official split {split!r}."
            f"{did_you_mean(split, official)}"
        )
    return official[split]


def open_splits(
    data: Data,
    *,
    root: str | Path | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Open train, validation and test; those not given officially are carved from train.

    Args:
        data: as for `open_source`.
        root: as for `open_source`.
        validation_fraction: share of train (what is left of it after test) for validation.
        test_fraction: share of a labelled train split for test.
        seed: 0 to 2^64 - 1; the same seed always chooses the same pictures.

    Raises:
        DataError: nothing there, not usable, or too little to carve.
        UsageError: a fraction or the seed out of range.
    """
    return carve(
        _official(data, root),
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )


def _official(data: Data, root: str | Path | None) -> dict[str, Source]:
    """Open official splits by name; "train" is always among them."""
    if isinstance(data, Source):
        return {"train": data}
    if isinstance(data, np.ndarray):
        return {"train": ArraySource(data)}
    if isinstance(data, tuple):
        if len(data) != 2:
            raise DataError(f"give arrays as (images, labels); found a tuple of {len(data)}")
        return {"train": ArraySource(data[0], data[1])}
    name = os.fspath(data)
    if name in DATA_SETS:
        return DATA_SETS[name](None if root is None else Path(root).expanduser())
    return open_folder(_existing_folder(name))


def _existing_folder(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"{name!r} is a file: give the folder that holds the pictures")
    if len(path.parts) > 1:
        raise DataError(f"there is no folder {name!r}: check the path")
    raise DataError(f"there is no folder or data set {name!r}.{did_you_mean(name, DATA_SETS)}")
