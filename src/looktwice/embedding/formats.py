"""The files of an embedding: Parquet, NumPy, CSV. docs/embed.md lists what is in each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from looktwice.embedding.about import EMBEDDING, About, from_json
from looktwice.embedding.extras import need
from looktwice.embedding.rows import Rows
from looktwice.errors import DataError, RunError, UsageError
from looktwice.foreign import load_npy

AT_ONCE: Final = 1024  # rows read together
COLUMNS: Final = ("split", "index", "name", "label")
ENDINGS: Final = (".json", ".rows.csv", ".bad_files.jsonl", ".npy")  # of side files
DIGITS: Final = {"float32": 9, "float16": 5}  # decimal digits that give every number back


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        check: raises UsageError where a library that it needs is missing.
        write: writes all files into a folder, given the main one's path, what they say of
            themselves, and the rows; OSError when it cannot.
        about: reads what a file says of itself.
        rows: reads the rows, some at a time.
    """

    check: Callable[[], object]
    write: Callable[[Path, About, Iterable[Rows]], None]
    about: Callable[[Path], About]
    rows: Callable[[Path, About], Iterator[Rows]]


def format_of(path: Path) -> Format:
    """Return the kind of a file by the end of its name (UsageError: none of `FORMATS`)."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def read_about(path: Path) -> About:
    """Read what an embedding says of itself.

    Raises:
        UsageError: the end of the name is none of `FORMATS`, or a library is missing.
        RunError: the file is missing, half-written, damaged, or no embedding of this version.
    """
    kind = format_of(path)
    kind.check()
    if not path.is_file():
        raise RunError(f"there is no embedding {path}")
    return kind.about(path)


def read_rows(path: Path) -> Iterator[Rows]:
    """Read the rows of an embedding, at most a few thousand at a time, in their order.

    Raises:
        RunError: as `read_about`, or the file ends early.
    """
    about = read_about(path)
    count = 0
    for rows in format_of(path).rows(path, about):
        count += len(rows)
        yield rows
    if count != about.rows:
        raise _half_written(path, f"{count} of its {about.rows} rows are there")


def side_file(path: Path, ending: str) -> Path:
    """Return the path of a file that belongs to an embedding."""
    return path.with_name(f"{path.name}.{ending}")


def _half_written(path: Path, what: str) -> RunError:
    return RunError(f"{path} is half-written or damaged ({what}): remove it, and make it anew")


# --- Parquet ------------------------------------------------------------------------------------


def _pyarrow() -> tuple[Any, Any]:
    return need("pyarrow", "parquet"), need("pyarrow.parquet", "parquet")


def _write_parquet(path: Path, about: About, rows: Iterable[Rows]) -> None:
    arrow, parquet = _pyarrow()
    number = arrow.float32() if about.dtype == "float32" else arrow.float16()
    text = arrow.string()
    kinds = zip(COLUMNS, (text, arrow.int64(), text, text), strict=True)
    lists = ((layer, arrow.list_(number, width)) for layer, width in about.layers.items())
    schema = arrow.schema([*kinds, *lists], {"looktwice": about.to_json(EMBEDDING)})
    # A dictionary of features would be as large as they are, and is never shorter.
    dictionaries = ["split", "label"]
    with (
        path.open("xb") as file,
        parquet.ParquetWriter(file, schema, use_dictionary=dictionaries) as writer,
    ):
        for some in rows:
            arrays = [some.splits, some.indices, some.names, some.labels]
            lists = (
                arrow.FixedSizeListArray.from_arrays(arrow.array(layer.reshape(-1)), layer.shape[1])
                for layer in some.features.values()
            )
            columns = [
                arrow.array(array, kind)
                for array, kind in zip(arrays, schema.types[: len(arrays)], strict=True)
            ]
            writer.write_table(arrow.table([*columns, *lists], schema))


def _open_parquet(path: Path) -> Any:
    arrow, parquet = _pyarrow()
    try:
        return parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        raise _half_written(path, "Parquet cannot read it") from error


def _about_parquet(path: Path) -> About:
    with _open_parquet(path) as file:
        said = (file.schema_arrow.metadata or {}).get(b"looktwice")
    if said is None:
        raise RunError(f"{path} is no embedding of looktwice")
    return from_json(said, EMBEDDING, path)


def _rows_parquet(path: Path, about: About) -> Iterator[Rows]:
    arrow, _ = _pyarrow()
    with _open_parquet(path) as file:
        try:
            for batch in file.iter_batches(AT_ONCE):
                yield Rows(
                    batch["split"].to_pylist(),
                    batch["index"].to_numpy(),
                    batch["name"].to_pylist(),
                    batch["label"].to_pylist(),
                    {
                        layer: batch[layer].flatten().to_numpy().reshape(-1, width)
                        for layer, width in about.layers.items()
                    },
                )
        except (arrow.ArrowException, OSError) as error:
            raise _half_written(path, "Parquet cannot read it") from error


# --- What NumPy and CSV have in common -----------------------------------------------------------


def _write_about(path: Path, about: About, files: Iterable[Path]) -> None:
    sizes = {file.name: file.stat().st_size for file in files}
    said = About(**{**vars(about), "files": sizes})
    side_file(path, "json").write_text(said.to_json(EMBEDDING), "utf-8")


def _about_beside(path: Path) -> About:
    said = side_file(path, "json")
    try:
        about = from_json(said.read_bytes(), EMBEDDING, said)
    except FileNotFoundError:
        raise RunError(f"{path} is no embedding of looktwice: {said.name} is not there") from None
    for name, size in about.files.items():
        file = path.with_name(name)
        found = file.stat().st_size if file.is_file() else 0
        if found != size:
            raise _half_written(file, f"{found:,} of its {size:,} bytes are there")
    return about


def _cells(rows: Rows) -> Iterator[tuple[str, int, str, str]]:
    labels = ("" if label is None else label for label in rows.labels)
    return zip(rows.splits, rows.indices.tolist(), rows.names, labels, strict=True)


def _read_cells(lines: Iterable[list[str]]) -> Iterator[tuple[list[list[str]], Rows]]:
    """Read lines of cells, some at a time; without features."""
    waiting = iter(lines)
    while some := list(islice(waiting, AT_ONCE)):
        splits, indices, names, labels = zip(*(line[: len(COLUMNS)] for line in some), strict=True)
        yield (
            some,
            Rows(
                list(splits),
                np.array(indices, np.int64),
                list(names),
                [label or None for label in labels],
                {},
            ),
        )


# --- NumPy --------------------------------------------------------------------------------------


def _arrays(path: Path, layers: Iterable[str]) -> dict[str, Path]:
    """Return the file of each layer: the first is the main one."""
    return {
        layer: side_file(path, f"{layer}.npy") if number else path
        for number, layer in enumerate(layers)
    }


def _write_npy(path: Path, about: About, rows: Iterable[Rows]) -> None:
    # Written in order and not through a map: a full disk is then an error, and not a SIGBUS.
    files = _arrays(path, about.layers)
    with ExitStack() as stack:
        names = stack.enter_context(
            side_file(path, "rows.csv").open("x", newline="", encoding="utf-8")
        )
        table = csv.writer(names)
        table.writerow(COLUMNS)
        opened = {layer: stack.enter_context(file.open("xb")) for layer, file in files.items()}
        for layer, file in opened.items():
            shape = (about.rows, about.layers[layer])
            descr = np.lib.format.dtype_to_descr(np.dtype(about.dtype))
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        for some in rows:
            table.writerows(_cells(some))
            for layer, file in opened.items():
                file.write(np.ascontiguousarray(some.features[layer]).data)
    _write_about(path, about, [*files.values(), side_file(path, "rows.csv")])


def _rows_npy(path: Path, about: About) -> Iterator[Rows]:
    try:
        arrays = {layer: load_npy(file) for layer, file in _arrays(path, about.layers).items()}
    except DataError as error:
        raise _half_written(path, "NumPy cannot read it") from error
    with side_file(path, "rows.csv").open(newline="", encoding="utf-8") as names:
        table = csv.reader(names)
        next(table)
        start = 0
        for some, rows in _read_cells(table):
            part = slice(start, start + len(some))
            features = {layer: np.asarray(array[part]) for layer, array in arrays.items()}
            yield Rows(**{**vars(rows), "features": features})
            start = part.stop


# --- CSV ----------------------------------------------------------------------------------------


def _write_csv(path: Path, about: About, rows: Iterable[Rows]) -> None:
    number = f"%.{DIGITS[about.dtype]}g"
    with path.open("x", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        places = (f"{layer}.{i}" for layer, width in about.layers.items() for i in range(width))
        table.writerow([*COLUMNS, *places])
        for some in rows:
            features = np.concatenate(list(some.features.values()), axis=1).tolist()
            for cells, numbers in zip(_cells(some), features, strict=True):
                table.writerow([*cells, *(number % one for one in numbers)])
    _write_about(path, about, [path])


def _rows_csv(path: Path, about: About) -> Iterator[Rows]:
    widths = list(about.layers.values())
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.reader(file)
        next(table)
        for some, rows in _read_cells(table):
            numbers = np.array([line[len(COLUMNS) :] for line in some]).astype(about.dtype)
            parts = np.split(numbers, np.cumsum(widths)[:-1], axis=1)
            yield Rows(**{**vars(rows), "features": dict(zip(about.layers, parts, strict=True))})


FORMATS: Final[Mapping[str, Format]] = {
    ".parquet": Format(_pyarrow, _write_parquet, _about_parquet, _rows_parquet),
    ".npy": Format(lambda: None, _write_npy, _about_beside, _rows_npy),
    ".csv": Format(lambda: None, _write_csv, _about_beside, _rows_csv),
}
"""Kinds of files, by the end of the name."""


def bad_lines(unreadable: Iterable[tuple[str, str]]) -> str:
    """Return the unreadable pictures, one JSON object a line, as a run's ``bad_files.jsonl``."""
    text = io.StringIO()
    for name, reason in unreadable:
        text.write(json.dumps({"path": name, "reason": reason}) + "\n")
    return text.getvalue()
