"""Folders of pictures: what lies in them, and what their layout says about classes and splits."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Final

import numpy as np

from looktwice.data.class_names import read_names
from looktwice.data.files import FolderFiles, printable, probe_channels
from looktwice.data.sources import FileSource, Labels, Source
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


CLASS_LISTS: Final = ("class.txt", "classes.txt")
"""Files beside class or split folders that give the class folders' order, one a line."""

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
        split: (root / folder, [file[len(folder) + 1 :] for file in files if _top(file) == folder])
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


def holds_imagenet(folder: Path) -> bool:
    """Tell whether a folder has ``train/`` with class folders named as ImageNet's."""
    train = folder / "train"
    return train.is_dir() and any(_WORDNET.fullmatch(path.name) for path in train.iterdir())


def list_pictures(root: Path) -> list[str]:
    """List all pictures under a folder as paths relative to it, in a stable order.

    Hidden files and folders are left out, and folders of looktwice's runs; links are followed,
    each folder entered and each file listed once.

    Raises:
        DataError: none found, or a folder that cannot be read.
    """
    pictures: list[str] = []
    others: Counter[str] = Counter()
    for path in _once_each(root, list(_walk(root, "", set()))):
        if path.lower().endswith(EXTENSIONS):
            pictures.append(path)
        else:
            others[printable(PurePath(path).suffix.lower()) or "without extension"] += 1
    if not pictures:
        found = ", ".join(f"{count} {kind}" for kind, count in others.most_common(4))
        raise DataError(
            f"0 pictures in {str(root)!r}; found {found or 'no files at all'}: convert them to "
            "JPEG, PNG or WebP, or give another folder"
        )
    return pictures


def _once_each(root: Path, found: list[tuple[str, bool]]) -> Iterator[str]:
    """Yield the files, without links to one that is there already."""
    seen: set[str] = set()
    if any(linked for _, linked in found):
        real = os.path.realpath(root)
        seen = {os.path.join(real, path) for path, linked in found if not linked}  # noqa: PTH118
    for path, linked in found:
        target = os.path.realpath(root / path) if linked else ""
        if target not in seen:
            yield path
        if linked:
            seen.add(target)


def _walk(
    root: Path, folder: str, entered: set[tuple[int, int]], linked: bool = False
) -> Iterator[tuple[str, bool]]:
    """Yield the files under a folder, relative to root, by the bytes of their names.

    With each comes whether a link leads to it.
    """
    here = root / folder
    try:
        status = here.stat()
        if (status.st_dev, status.st_ino) in entered:
            return
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(here) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
            shown.sort(key=lambda entry: os.fsencode(entry.name))
            if {"config.toml", "environment.json"} <= {entry.name for entry in shown}:
                return  # a run: its figures are not pictures to learn from
            kinds = {entry.name: (_is_folder(entry), entry.is_symlink()) for entry in shown}
    except OSError as error:
        raise DataError(
            f"folder {str(here)!r} cannot be read ({error.strerror}): change its permissions, or "
            "give another folder"
        ) from error
    for name, (is_folder, is_link) in kinds.items():
        path = f"{folder}/{name}" if folder else name
        if is_folder:
            yield from _walk(root, path, entered, linked or is_link)
        else:
            yield path, linked or is_link


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell a folder; a link to itself, at which `entry.is_dir` raises, is none."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry).is_dir())


def _split_folders(root: Path, files: list[str]) -> dict[str, str]:
    """Map split to sub-folder when all pictures lie in folders named as splits, else nothing.

    Raises:
        DataError: two folders for one split, no train, or pictures beside train and another one.
    """
    tops = {_top(file) for file in files}
    named = {SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in SPLIT_FOLDERS}
    strays = [file for file in files if _top(file).lower() not in SPLIT_FOLDERS]
    if "train" in named and len(named) > 1 and strays:
        raise DataError(
            f"{str(root)!r} has folders for {' and '.join(sorted(named))}, and {len(strays)} "
            f"pictures beside them, such as {printable(strays[0])!r}: move those away, or into one"
        )
    folders: dict[str, str] = {}
    for top in sorted({_top(file) for file in files}):
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


def _top(file: str) -> str:
    """Return the first folder of a path, or nothing for a file in the root."""
    return file[: max(0, file.find("/"))]


def _class_names(files: list[str]) -> tuple[str, ...] | None:
    """List the class folders, sorted, when every file lies directly in one of at least two."""
    classes = {_top(file) for file in files}
    if len(classes) < 2 or any(file.count("/") != 1 for file in files):
        return None
    return tuple(sorted(classes, key=os.fsencode))


def _listed(root: Path, files: list[str]) -> tuple[str, ...] | None:
    """Read the class list of a folder, if it has one; it must name the class folders of train."""
    path = next((root / name for name in CLASS_LISTS if (root / name).is_file()), None)
    if path is None:
        return None
    listed = read_names(path)
    if any(file.count("/") != 1 for file in files):
        raise DataError(
            f"{str(path)!r} names classes, but {printable(_astray(files))!r} lies in no class "
            "folder: move such pictures into class folders, or the list away"
        )
    folders = {_top(file) for file in files}
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


def _of_classes(root: Path, files: list[str], chosen: tuple[str, ...]) -> list[str]:
    """Keep the files of the chosen class folders, each of which must be there."""
    if any(file.count("/") != 1 for file in files):
        raise DataError(
            f"classes are chosen, but {printable(_astray(files))!r} in {str(root)!r} lies in no "
            "class folder: sort the pictures into one folder a class"
        )
    there = {_top(file) for file in files}
    missing = [name for name in chosen if name not in there]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(chosen)} chosen classes have no pictures in "
            f"{str(root)!r}, such as {printable(missing[0])!r}: add them, or mend the list"
        )
    kept = set(chosen)
    return [file for file in files if _top(file) in kept]


def _astray(files: list[str]) -> str:
    """Return the first file that does not lie in a class folder, directly."""
    return next(file for file in files if file.count("/") != 1)


def _labels(root: Path, files: list[str], classes: tuple[str, ...]) -> Labels | None:
    """Give each file the number of its class folder, or None when they are not laid out so."""
    if any(file.count("/") != 1 for file in files):
        return None
    number = {name: label for label, name in enumerate(classes)}
    unknown = sorted({_top(file) for file in files} - number.keys())
    if unknown:
        raise DataError(
            f"class folder {unknown[0]!r} in {str(root)!r} is not one of the {len(classes)} in the "
            "train split: rename it, or add pictures of that class to train"
        )
    return np.array([number[_top(file)] for file in files], np.int64)
