"""Tables that list pictures: CSV or JSON lines with ``file_name``, and ``label`` and ``split``.

The layout is Hugging Face's ImageFolder with metadata
(https://huggingface.co/docs/datasets/image_dataset): ``metadata.csv`` or ``metadata.jsonl`` beside
the pictures, or in each split's folder.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.class_names import number_labels
from looktwice.data.files import FolderFiles, Paths, printable, probe_channels
from looktwice.data.folders import SPLIT_FOLDERS
from looktwice.data.scan import Glance, glance
from looktwice.data.sources import FileSource, Source
from looktwice.errors import DataError, did_you_mean

METADATA: Final = ("metadata.csv", "metadata.jsonl")

_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})")

_Label = str | int


@dataclass(frozen=True, slots=True)
class _Row:
    """One picture: its path below the root, its label if there is one, its split."""

    file: str
    label: _Label | None
    split: str


def find_tables(folder: Path, inside: Glance) -> list[Path]:
    """Return the metadata of a folder, or that of its split folders; those with ``file_name``.

    Raises:
        DataError: one of the split folders has some, and another has only pictures.
    """
    found = _metadata(folder)
    if found:
        return found
    inner = [folder / name for name in inside.folders if name.lower() in SPLIT_FOLDERS]
    by_folder = {path: _metadata(path) for path in inner}
    found = [path for paths in by_folder.values() for path in paths]
    for path, paths in by_folder.items():
        if found and not paths and glance(path) != Glance():
            raise DataError(
                f"{str(path)!r} has no {METADATA[0]}, but {str(found[0])!r} is there: list the "
                "pictures of each split, or of none"
            )
    return found


def _metadata(folder: Path) -> list[Path]:
    paths = [folder / name for name in METADATA]
    return [path for path in paths if path.is_file() and _lists_files(path)]


def open_table(path: Path) -> dict[str, Source]:
    """Open the pictures that one table lists; paths are relative to its folder.

    Raises:
        DataError: a line that is wrong, or a file that is not there.
    """
    return _open(path.parent, list(_rows(path, "", "train")), path)


def open_tables(folder: Path, paths: list[Path]) -> dict[str, Source]:
    """Open the pictures that the metadata of a folder lists, found by `find_tables`.

    Raises:
        DataError: as `open_table`; or two tables in one place.
    """
    if len({path.parent for path in paths}) < len(paths):
        raise DataError(f"{str(folder)!r} has both {' and '.join(METADATA)}: remove one of them")
    rows: list[_Row] = []
    for path in paths:
        inner = path.parent.relative_to(folder).as_posix().lstrip(".")
        split = SPLIT_FOLDERS[inner.lower()] if inner else "train"
        rows += _rows(path, f"{inner}/" if inner else "", split)
    return _open(folder, rows, folder)


def _open(root: Path, rows: list[_Row], named: Path) -> dict[str, Source]:
    name = printable(str(named))
    _check_files(root, rows, name)
    splits = [split for split in dict.fromkeys(SPLIT_FOLDERS.values()) if _in(rows, split)]
    if "train" not in splits:
        raise DataError(f"{name!r} has no pictures in the train split: add some")
    parts = {split: _in(rows, split) for split in splits}
    files = {split: FolderFiles(root, _paths(part)) for split, part in parts.items()}
    channels = probe_channels(files["train"])
    numeric = all(_INTEGER.fullmatch(str(row.label)) for row in rows if row.label is not None)
    values = {split: _values(part, split, name, numeric) for split, part in parts.items()}
    labels, class_names = number_labels(values, name)
    return {
        split: FileSource(
            files[split],
            name=name,
            channels=channels,
            labels=labels[split],
            class_names=None if labels[split] is None else class_names,
        )
        for split in parts
    }


def _paths(rows: list[_Row]) -> Paths:
    numbers: dict[str, int] = {}
    split = [os.path.split(row.file) for row in rows]
    folder_of = [numbers.setdefault(folder, len(numbers)) for folder, _ in split]
    return Paths.of(tuple(numbers), folder_of, (os.fsencode(name) for _, name in split))


def _in(rows: list[_Row], split: str) -> list[_Row]:
    return [row for row in rows if row.split == split]


def _check_files(root: Path, rows: list[_Row], name: str) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.file in seen:
            raise DataError(f"{name!r} lists {printable(row.file)!r} twice: remove one")
        seen.add(row.file)
        # Path.is_file raises for names that are too long, or cannot be a name at all.
        if not os.path.isfile(root / row.file):  # noqa: PTH113
            raise DataError(
                f"{name!r} lists {printable(row.file)!r}, which is not in {str(root)!r}: mend the "
                "path, which is relative to the table, or add the picture"
            )


def _values(rows: list[_Row], split: str, name: str, numeric: bool) -> NDArray[Any] | None:
    """Return the labels (N,) of a split's rows, integers or strings; None where there are none."""
    labels = [row.label for row in rows if row.label is not None]
    if not labels:
        return None
    if len(labels) < len(rows):
        file = next(row.file for row in rows if row.label is None)
        raise DataError(
            f"{name!r} has no label for {len(rows) - len(labels)} pictures of the {split} split, "
            f"such as {printable(file)!r}: label all, or none"
        )
    if numeric:
        return np.array([int(label) for label in labels], np.int64)
    return np.array([printable(str(label)) for label in labels])


def _rows(path: Path, inside: str, default_split: str) -> Iterator[_Row]:
    """Read a table; `inside` is put before each path."""
    for line, record in _records(path):
        where = f"line {line} of {str(path)!r}"
        if "file_name" not in record:
            hint = did_you_mean("file_name", map(str, record))
            raise DataError(f"{where} has no file_name: name that column so.{hint}")
        file = _checked_path(record["file_name"], where)
        split = record.get("split") or default_split
        known = SPLIT_FOLDERS.get(str(split).lower())
        if known is None:
            hint = did_you_mean(str(split), SPLIT_FOLDERS)
            raise DataError(f"{where}: split {split!r} is unknown.{hint}")
        label = record.get("label")
        if label is not None and type(label) not in (str, int):
            raise DataError(f"{where}: label {label!r} is neither a string nor an integer")
        yield _Row(inside + file, None if label == "" else label, known)


def _checked_path(file: object, where: str) -> str:
    """Return a relative path that stays inside its folder, in its shortest form."""
    if not isinstance(file, str) or not file or "\0" in file:
        raise DataError(f"{where}: file_name {file!r} is no path")
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"{where}: {printable(file)!r} leads out of the table's folder: give a path inside it"
        )
    return str(path)


def _records(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Yield (line number, record) of a CSV file with a header, or of JSON lines."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise DataError(f"{str(path)!r} cannot be read ({reason})") from error
    parse = _json_lines if path.suffix.lower() == ".jsonl" else _csv_lines
    count = 0
    for line, record in parse(text, path):
        count += 1
        yield line, record
    if not count:
        raise DataError(f"{str(path)!r} lists no pictures: write one a line, below file_name,label")


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {line} of {str(path)!r} is no JSON: mend it") from error
        if not isinstance(record, dict):
            raise DataError(f"line {line} of {str(path)!r} is no JSON object with file_name")
        yield line, record


def _csv_lines(text: str, path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        for record in reader:
            if None in record or None in record.values():
                raise DataError(
                    f"line {reader.line_num} of {str(path)!r} has other columns than the header: "
                    "put quotes around values with commas"
                )
            yield reader.line_num, record
    except csv.Error as error:
        raise DataError(
            f"{str(path)!r} is no CSV after line {reader.line_num} ({error}): mend its quotes"
        ) from error


def _lists_files(path: Path) -> bool:
    """Tell whether metadata names files: other tables may have the same name."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return "file_name" in file.readline(1 << 16)
    except OSError:
        return False
