"""From what a user names to pictures: data sets, folders, files, arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.array_files import holds_arrays, open_arrays, open_npy, open_npz
from looktwice.data.cifar import FORMS, open_cifar
from looktwice.data.class_names import read_class_list
from looktwice.data.folders import open_folder
from looktwice.data.hub import holds_tables, is_hub, open_hub, open_table_files
from looktwice.data.idx import holds_idx, open_idx
from looktwice.data.named import DATA_SETS, open_named
from looktwice.data.remote import is_remote, open_remote
from looktwice.data.scan import glance
from looktwice.data.shards import (
    holds_shards,
    is_pattern,
    open_pattern,
    open_shard_folder,
    open_tar,
)
from looktwice.data.sources import ArraySource, Source
from looktwice.data.splits import Splits, carve
from looktwice.data.stl10 import holds_stl10, open_stl10
from looktwice.data.tables import find_tables, open_table, open_tables
from looktwice.errors import DataError, UsageError, did_you_mean

Array = NDArray[Any]
Data = str | os.PathLike[str] | Array | tuple[Array, Array] | Source

FILES: Final[Mapping[str, Callable[[Path], dict[str, Source]]]] = {
    ".npz": open_npz,
    ".npy": open_npy,
    ".csv": open_table,
    ".jsonl": open_table,
    ".tar": open_tar,
    ".parquet": lambda path: open_table_files(path.parent, [path]),
    ".arrow": lambda path: open_table_files(path.parent, [path]),
}
"""What opens a file, by the end of its name."""


def open_source(
    data: Data,
    *,
    split: str = "train",
    root: str | Path | None = None,
    classes: str = "",
    download: bool = False,
) -> Source:
    """Open one official split, as it is distributed; nothing is carved.

    Args:
        data: name of a data set, folder, file, pattern or address of tar shards, uint8 array
            (N, H, W[, C]), pair (images, labels), or a source, which is its own train split.
        split: "train", "validation" or "test"; "labelled" of stl10-unlabelled.
        root: folder under which named data sets are looked for first.
        classes: of a folder, a text file of the class folders to take, or a shipped list's name.
        download: whether a named data set that is not on this machine may be downloaded.

    Raises:
        DataError: nothing there, or not usable.
        UsageError: no such split, or classes of what is no folder.
    """
    official = open_official(data, root=root, classes=classes, download=download)
    if split not in official:
        raise UsageError(
            f"{official['train'].name!r} has no official split {split!r}."
            f"{did_you_mean(split, official)} looktwice.data.open_splits sets some aside."
        )
    return official[split]


def open_splits(
    data: Data,
    *,
    root: str | Path | None = None,
    classes: str = "",
    download: bool = False,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Open train, validation and test; those not given officially are carved from train.

    Args:
        data: as for `open_source`.
        root: as for `open_source`.
        classes: as for `open_source`.
        download: as for `open_source`.
        validation_fraction: share of train (what is left of it after test) for validation.
        test_fraction: share of a labelled train split for test.
        seed: 0 to 2^64 - 1; the same seed always chooses the same pictures.

    Raises:
        DataError: nothing there, not usable, or too little to carve.
        UsageError: a fraction or the seed out of range, or classes of what is no folder.
    """
    return carve(
        open_official(data, root=root, classes=classes, download=download),
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )


def open_official(
    data: Data, *, root: str | Path | None = None, classes: str = "", download: bool = False
) -> dict[str, Source]:
    """Open all official splits by name; "train" is always among them.

    Arguments and errors are those of `open_source`.
    """
    if isinstance(data, os.PathLike):  # never a name; `Path` drops the ./ that tells folders
        data = os.path.join(".", data)  # noqa: PTH118
    path = _path(data) if isinstance(data, str) else None
    chosen = read_class_list(classes) if classes else None
    named = DATA_SETS.get(data) if isinstance(data, str) else None
    if chosen and not (named.has_classes if named else isinstance(path, Path) and path.is_dir()):
        raise UsageError("data.classes chooses class folders, which the pictures named do not have")
    if isinstance(data, Source):
        return {"train": data}
    if isinstance(data, np.ndarray):
        return {"train": ArraySource(data)}
    if isinstance(data, tuple):
        if len(data) != 2:
            raise DataError(f"give arrays as (images, labels); found a tuple of {len(data)}")
        return {"train": ArraySource(data[0], data[1])}
    if isinstance(path, str):
        if is_hub(path):
            return open_hub(path, may_download=download)
        return open_remote(path) if is_remote(path) else open_pattern(path)
    if path is None:
        place = None if root is None else Path(root).expanduser()
        return open_named(data, place, may_download=download, chosen=chosen)
    if path.is_file():
        return FILES[path.suffix.lower()](path)
    return open_folder(path, chosen) if chosen else _open_folder(path)


def _path(name: str) -> Path | str | None:
    """Return the folder or file that a name means; None for a named data set, a str for shards.

    Raises:
        DataError: there is none, or a file of no known kind.
    """
    if name in DATA_SETS:
        return None
    if is_remote(name) or is_hub(name):
        return name
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # a name too long; a user that is not known
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"there is no folder or file {name!r} ({reason}): check it") from error
    if is_pattern(name) and not path.exists():
        return str(path)
    if path.is_dir() or (path.is_file() and path.suffix.lower() in FILES):
        return path
    if path.exists():
        raise DataError(
            f"{name!r} is a file: give the folder that holds the pictures, or a file that ends in "
            f"{', '.join(FILES)}"
        )
    if len(path.parts) > 1:
        raise DataError(f"there is no folder or file {name!r}: check the path")
    raise DataError(f"there is no folder or data set {name!r}.{did_you_mean(name, DATA_SETS)}")


def _open_folder(folder: Path) -> dict[str, Source]:
    """Open a folder by what it holds."""
    for form in FORMS:
        if form.is_in(folder):
            return open_cifar(folder, form)
    if holds_stl10(folder):
        return open_stl10(folder)
    if holds_idx(folder):
        return open_idx(folder)
    if holds_arrays(folder):
        return open_arrays(folder)
    inside = glance(folder)
    if holds_tables(folder, inside):
        return open_table_files(folder)
    if holds_shards(folder, inside):
        return open_shard_folder(folder)
    tables = find_tables(folder, inside)
    return open_tables(folder, tables) if tables else open_folder(folder)
