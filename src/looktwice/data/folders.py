"""Folders of pictures: what lies in them, and what their layout says about classes and splits."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import numpy as np

from looktwice.data.class_names import read_names
from looktwice.data.files import FolderFiles, Paths, printable, probe_channels
from looktwice.data.scan import list_pictures
from looktwice.data.sources import FileSource, Labels, Source
from looktwice.errors import DataError

SPLIT_FOLDERS: Final = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""Sub-folder (any case) to the official split it holds."""


CLASS_LISTS: Final = ("class.txt", "classes.txt")
"""Files beside class or split folders that give the class folders' order, one a line."""

_WORDS: Final = re.compile(r"[-_./]")
_WORDNET: Final = re.compile(r"n\d{8}")
"""A class folder of ImageNet."""


def open_folder(root: Path, chosen: tuple[str, ...] | None = None) -> dict[str, Source]:
    """Open the official splits of a folder; without folders named as splits all is "train".

    Pictures are labelled when each lies in one of at least two class folders, directly. ImageNet's
    val/, on which results are published, is its test split.

    Args:
        root: the folder.
        chosen: class folders to take alone, in the order of their labels.

    Raises:
        DataError: no pictures, an unreadable folder, splits that do not fit together, or class
            folders that do not fit `chosen` or the folder's own list.
    """
    files = list_pictures(root)
    parts = {
        split: (root / folder, _within(files, folder))
        for split, folder in _split_folders(root, files).items()
    } or {"train": (root, files)}
    if chosen is not None:
        parts = {
            split: (folder, _of_classes(folder, part, chosen))
            for split, (folder, part) in parts.items()
        }
    classes = chosen or _listed(root, parts["train"][1]) or _class_names(parts["train"][1])
    channels = probe_channels(FolderFiles(*parts["train"]))
    splits: dict[str, Source] = {}
    for split, (folder, part) in parts.items():
        labels = None if classes is None else _labels(folder, part, classes)
        splits[split] = FileSource(
            FolderFiles(folder, part),
            name=printable(str(folder)),
            channels=channels,
            labels=labels,
            class_names=None if labels is None else tuple(map(printable, classes or ())),
        )
    if (
        classes
        and all(map(_WORDNET.fullmatch, classes))
        and splits.keys() == {"train", "validation"}
    ):
        splits["test"] = splits.pop("validation")
    return splits


def split_of(name: str) -> str:
    """Return the split that a file's name says, as ``x-val-003.tar`` does; else "train"."""
    words = _WORDS.split(name.lower())
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), "train")


def holds_imagenet(folder: Path) -> bool:
    """Tell whether a folder has ``train/`` with class folders named as ImageNet's."""
    train = folder / "train"
    return train.is_dir() and any(_WORDNET.fullmatch(path.name) for path in train.iterdir())


def _within(files: Paths, folder: str) -> Paths:
    """Return the files under a folder, relative to it."""
    inside = np.array([_top(inner) == folder for inner in files.folders])
    return files.take(
        inside[files.folder_of], [inner[len(folder) + 1 :] for inner in files.folders]
    )


def _used(files: Paths) -> list[str]:
    """Return the folders that files lie in, directly."""
    counts = np.bincount(files.folder_of, minlength=len(files.folders))
    return [files.folders[k] for k in np.flatnonzero(counts)]


def _split_folders(root: Path, files: Paths) -> dict[str, str]:
    """Map split to sub-folder when all pictures lie in folders named as splits, else nothing.

    Raises:
        DataError: two folders for one split, no train, or pictures beside train and another one.
    """
    tops = {_top(folder) for folder in _used(files)}
    named = {SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in SPLIT_FOLDERS}
    beside = np.array([_top(folder).lower() not in SPLIT_FOLDERS for folder in files.folders])
    strays = np.flatnonzero(beside[files.folder_of])
    if "train" in named and len(named) > 1 and strays.size:
        raise DataError(
            f"{str(root)!r} has folders for {' and '.join(sorted(named))}, and {strays.size} "
            f"pictures beside them, such as {printable(files[int(strays[0])])!r}: move those away, "
            "or into one"
        )
    folders: dict[str, str] = {}
    for top in sorted(tops):
        split = SPLIT_FOLDERS.get(top.lower())
        if split is None:
            return {}
        if split in folders:
            raise DataError(
                f"{str(root)!r} has two folders for the {split} split, {folders[split]!r} and "
                f"{top!r}: join them or rename one"
            )
        folders[split] = top
    if "train" not in folders:
        raise DataError(
            f"{str(root)!r} has {' and '.join(map(repr, folders.values()))}, but no 'train' with "
            "pictures: add it, or give one of those folders itself"
        )
    return folders


def _top(folder: str) -> str:
    """Return the first part of a folder's path, nothing for the root."""
    return folder.split("/", 1)[0]


def _in_classes(files: Paths) -> bool:
    """Tell whether every file lies in a folder of the root, directly."""
    return all(folder and "/" not in folder for folder in _used(files))


def _class_names(files: Paths) -> tuple[str, ...] | None:
    """List the class folders, sorted, when every file lies directly in one of at least two."""
    classes = _used(files)
    if len(classes) < 2 or not _in_classes(files):
        return None
    return tuple(sorted(classes, key=os.fsencode))


def _listed(root: Path, files: Paths) -> tuple[str, ...] | None:
    """Read the class list of a folder, if it has one; it must name the class folders of train."""
    path = next((root / name for name in CLASS_LISTS if (root / name).is_file()), None)
    if path is None:
        return None
    listed = read_names(path)
    if not _in_classes(files):
        raise DataError(
            f"{str(path)!r} names classes, but {printable(_astray(files))!r} lies in no class "
            "folder: move such pictures into class folders, or the list away"
        )
    folders = set(_used(files))
    for names, others, what in (
        (listed, folders, "is named, but has no folder with training pictures"),
        (sorted(folders, key=os.fsencode), set(listed), "has a folder, but is not named"),
    ):
        odd = [name for name in names if name not in others]
        if odd:
            raise DataError(
                f"{str(path)!r} does not match the {len(folders)} class folders: "
                f"{printable(odd[0])!r} {what}: mend the list or the folders"
            )
    return listed


def _of_classes(root: Path, files: Paths, chosen: tuple[str, ...]) -> Paths:
    """Keep the files of the chosen class folders, each of which must be there."""
    if not _in_classes(files):
        raise DataError(
            f"classes are chosen, but {printable(_astray(files))!r} in {str(root)!r} lies in no "
            "class folder: sort the pictures into one folder a class"
        )
    there = set(_used(files))
    missing = [name for name in chosen if name not in there]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(chosen)} chosen classes have no pictures in "
            f"{str(root)!r}, such as {printable(missing[0])!r}: add them, or mend the list"
        )
    kept = np.array([folder in set(chosen) for folder in files.folders])
    return files.take(kept[files.folder_of])


def _astray(files: Paths) -> str:
    """Return the first file that does not lie in a class folder, directly."""
    odd = np.array([not folder or "/" in folder for folder in files.folders])
    found: str = files[int(np.flatnonzero(odd[files.folder_of])[0])]
    return found


def _labels(root: Path, files: Paths, classes: tuple[str, ...]) -> Labels | None:
    """Give each file the number of its class folder, or None when they are not laid out so."""
    if not _in_classes(files):
        return None
    number = {name: label for label, name in enumerate(classes)}
    unknown = sorted(set(_used(files)) - number.keys())
    if unknown:
        raise DataError(
            f"class folder {unknown[0]!r} in {str(root)!r} is not one of the {len(classes)} in the "
            "train split: rename it, or add pictures of that class to train"
        )
    numbers = np.array([number.get(folder, -1) for folder in files.folders], np.int64)
    return numbers[files.folder_of]
