"""Folders of pictures: what lies in them, and what their layout says about classes and splits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Final

import numpy as np

from looktwice.data.sources import FolderSource, Labels, Source, printable, probe_channels
from looktwice.errors import DataError

EXTENSIONS: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Files taken for pictures, whatever the case; their content decides how they are decoded."""

SPLIT_FOLDERS: Final = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""Sub-folder (any case) to the official split it holds."""


def open_folder(root: Path) -> dict[str, Source]:
    """Open the official splits of a folder; without sub-folders named as splits all of it is "train".

    Pictures are labelled when each lies in one of at least two class folders, directly.

    Raises:
        DataError: no pictures, an unreadable folder, or splits that do not fit together.
    """
    files = list_pictures(root)
    folders = _split_folders(root, files)
    if "train" not in folders:
        return {"train": _open_split(root, files, printable(str(root)), None, None)}
    parts = {
        split: [str(PurePath(*PurePath(file).parts[1:])) for file in files if _top(file) == folder]
        for split, folder in folders.items()
    }
    classes = _class_names(parts["train"])
    channels = probe_channels(root / folders["train"], parts["train"])
    return {
        split: _open_split(
            root / folders[split], part, printable(f"{root}/{folders[split]}"), classes, channels
        )
        for split, part in parts.items()
    }


def list_pictures(root: Path) -> list[str]:
    """List all pictures under a folder as paths relative to it, in a stable order.

    Hidden files and folders are left out; links are followed, each folder entered once.

    Raises:
        DataError: none found, or a folder that cannot be read.
    """
    pictures: list[str] = []
    others: Counter[str] = Counter()
    for path in _walk(root, "", set()):
        extension = PurePath(path).suffix.lower()
        if extension in EXTENSIONS:
            pictures.append(path)
        else:
            others[printable(extension) or "without extension"] += 1
    if not pictures:
        found = ", ".join(f"{count} {kind}" for kind, count in others.most_common(4))
        raise DataError(
            f"0 pictures in {str(root)!r}; found {found or 'no files at all'}: convert them to "
            "JPEG, PNG or WebP, or give another folder"
        )
    return pictures


def _walk(root: Path, folder: str, entered: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the files under a folder, relative to root, by the bytes of their names."""
    here = root / folder
    try:
        status = here.stat()
        if (status.st_dev, status.st_ino) in entered:
            return
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(here) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
            shown.sort(key=lambda entry: os.fsencode(entry.name))
            is_folder = {entry.name: entry.is_dir() for entry in shown}
    except OSError as error:
        raise DataError(
            f"folder {str(here)!r} cannot be read ({error.strerror}): change its permissions, or "
            "give another folder"
        ) from error
    for name, inside in is_folder.items():
        path = f"{folder}/{name}" if folder else name
        if inside:
            yield from _walk(root, path, entered)
        else:
            yield path


def _split_folders(root: Path, files: list[str]) -> dict[str, str]:
    """Map split to sub-folder when every picture lies in a sub-folder named as one, else nothing."""
    tops = {_top(file) for file in files}
    if not all(top.lower() in SPLIT_FOLDERS for top in tops):
        return {}
    folders: dict[str, str] = {}
    for top in sorted(tops):
        split = SPLIT_FOLDERS[top.lower()]
        if split in folders:
            raise DataError(
                f"{str(root)!r} has two folders for the {split} split, {folders[split]!r} and "
                f"{top!r}: join them or rename one"
            )
        folders[split] = top
    return folders


def _top(file: str) -> str:
    parts = PurePath(file).parts
    return parts[0] if len(parts) > 1 else ""


def _class_names(files: list[str]) -> tuple[str, ...] | None:
    """Return the class folders, sorted, when every file lies directly in one of at least two; else None."""
    if any(len(PurePath(file).parts) != 2 for file in files):
        return None
    classes = sorted({_top(file) for file in files}, key=os.fsencode)
    return tuple(classes) if len(classes) > 1 else None


def _open_split(
    root: Path, files: list[str], name: str, classes: tuple[str, ...] | None, channels: int | None
) -> Source:
    """Open one split; `classes` and `channels` are those of the train split, None if this is it."""
    is_train = channels is None
    classes = _class_names(files) if is_train else classes
    labels = None
    if classes is not None and all(len(PurePath(file).parts) == 2 for file in files):
        labels = _labels(root, files, classes)
    return FolderSource(
        root,
        files,
        name=name,
        channels=probe_channels(root, files) if channels is None else channels,
        labels=labels,
        class_names=None if labels is None else tuple(printable(name) for name in classes or ()),
    )


def _labels(root: Path, files: list[str], classes: tuple[str, ...]) -> Labels:
    number = {name: label for label, name in enumerate(classes)}
    unknown = sorted({_top(file) for file in files} - number.keys())
    if unknown:
        raise DataError(
            f"class folder {unknown[0]!r} in {str(root)!r} is not one of the {len(classes)} in the "
            "train split: rename it, or add pictures of that class to train"
        )
    return np.array([number[_top(file)] for file in files], np.int64)
