"""Hugging Face's data sets: tables of pictures in Parquet or Arrow files, local or from the hub.

pyarrow alone reads them (with huggingface_hub to find or fetch those of the hub): the package
`datasets` would bring pandas, pickled caches and Python code of data sets' authors. Pictures are
bytes, which our own decoding takes. Parquet is compressed by groups of rows, of which one picture
would cost a hundred; so a Parquet file is written once as an Arrow file into the cache, from which
pictures are mapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.class_names import number_labels
from looktwice.data.files import MAX_BYTES, Files, printable, probe_channels
from looktwice.data.folders import split_of
from looktwice.data.indexes import cache_folder
from looktwice.data.scan import Glance, glance
from looktwice.data.sources import FileSource, Source
from looktwice.errors import DataError
from looktwice.storage import in_turn, move_new

PREFIX: Final = "hf:"
ENDINGS: Final = (".parquet", ".arrow")
IMAGE_NAMES: Final = ("image", "img", "picture")
LABEL_NAMES: Final = ("label", "labels", "fine_label", "class")
"""Columns that are taken where the file's own metadata names none."""

_Column = list[tuple[Any, int]]


def is_hub(name: str) -> bool:
    """Tell ``hf:NAME``."""
    return name.startswith(PREFIX)


def holds_tables(folder: Path, inside: Glance) -> bool:
    """Tell whether a folder without pictures has Parquet or Arrow files, itself or one below."""
    return bool(_table_files(folder, inside))


def open_hub(name: str, *, may_download: bool) -> dict[str, Source]:
    """Open a data set of the hub, ``hf:OWNER/NAME``, from its local cache.

    Args:
        name: with the prefix.
        may_download: whether its Parquet files may be fetched.

    Raises:
        DataError: it is not there, or has no Parquet files; or as `open_table_files`.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise _missing(name, error) from error
    repository = name.removeprefix(PREFIX)
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            repo_type="dataset",
            allow_patterns=["*.parquet"],
            local_files_only=not may_download,
        )
    # It raises errors of its own for names, the network and the cache, and those of its transport.
    except Exception as error:
        reason = (
            " ".join(str(error).split())[:200] if may_download else "nothing is downloaded silently"
        )
        raise DataError(
            f"{name} is not in Hugging Face's cache on this machine ({reason}): "
            + (
                "check the name and the connection"
                if may_download
                else "add --download to fetch it"
            )
        ) from error
    files = _table_files(Path(folder), glance(Path(folder)))
    if not files:
        raise DataError(
            f"{name} has no Parquet files: fetch it by hand, and give a folder of pictures"
        )
    return open_table_files(Path(folder), files, name)


def open_table_files(
    folder: Path, files: Sequence[Path] | None = None, name: str = ""
) -> dict[str, Source]:
    """Open Parquet or Arrow files; splits are told by words in their paths, others are train.

    Args:
        folder: that names are relative to.
        files: which; all in the folder by default.
        name: what to call the data set.

    Raises:
        DataError: no pyarrow, a damaged file, no column of pictures, or labels that do not fit.
    """
    where = name or printable(str(folder))
    parts: dict[str, list[Path]] = {}
    for path in files or _table_files(folder, glance(folder)):
        split = "train" if files and len(files) == 1 else split_of(str(path.relative_to(folder)))
        parts.setdefault(split, []).append(path)
    if "train" not in parts:
        raise DataError(f"{where!r} has tables for {' and '.join(parts)}, but none for train")
    tables = {split: [_opened(path) for path in paths] for split, paths in parts.items()}
    schema = tables["train"][0].schema
    image, label, names = _columns(schema, where)
    channels = 3
    labels: dict[str, NDArray[Any] | None] = dict.fromkeys(parts)
    read = {}
    for split, paths in parts.items():
        shown = [printable(str(path.relative_to(folder))) for path in paths]
        read[split] = TableFiles(tables[split], image, shown, where)
        if label is not None:
            labels[split] = _labels(tables[split], label, where)
    channels = probe_channels(read["train"])
    numbers, class_names = _numbered(labels, names, where)
    return {
        split: FileSource(
            found,
            name=where if len(parts) == 1 else f"{where}/{split}",
            channels=channels,
            labels=numbers[split],
            class_names=class_names if numbers[split] is not None else None,
        )
        for split, found in read.items()
    }


@final
class TableFiles(Files):
    """The pictures in one column of mapped tables.

    Args:
        tables: pyarrow's.
        column: of binary, or of structures with binary ``bytes``.
        names: of the tables' files.
        where: the data set, for errors.

    Raises:
        DataError: the column is missing, or of another kind.
    """

    def __init__(
        self, tables: Sequence[Any], column: str, names: Sequence[str], where: str
    ) -> None:
        import pyarrow as pa

        self._chunks: list[Any] = []
        self._of: list[tuple[str, int]] = []
        for table, name in zip(tables, names, strict=True):
            row = 0
            if column not in table.column_names:
                raise DataError(
                    f"{name!r} of {where!r} has no column {column!r}, as others have: mend it, or "
                    "take it away"
                )
            for chunk in table.column(column).chunks:
                within = pa.types.is_struct(chunk.type) and chunk.type.get_field_index("bytes") >= 0
                data = chunk.field("bytes") if within else chunk
                if not (pa.types.is_binary(data.type) or pa.types.is_large_binary(data.type)):
                    raise DataError(
                        f"column {column!r} of {where!r} holds {data.type}, no pictures"
                    )
                self._chunks.append(data)
                self._of.append((name, row))
                row += len(chunk)
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks], dtype=np.int64)
        if not len(self):
            raise DataError(f"{where!r} has no rows in the column {column!r}")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _at(self, i: int) -> tuple[int, int]:
        chunk = int(np.searchsorted(self._ends, i, "right"))
        return chunk, i - (int(self._ends[chunk - 1]) if chunk else 0)

    def read(self, i: int) -> bytes:
        """See `Files.read`."""
        chunk, row = self._at(i)
        found = self._chunks[chunk][row]
        if not found.is_valid:
            raise OSError("there are no bytes in its row")
        buffer = found.as_buffer()
        if buffer.size > MAX_BYTES:
            raise OSError(f"{buffer.size:,} bytes are over the limit of {MAX_BYTES:,}")
        data: bytes = buffer.to_pybytes()
        return data

    def identifier(self, i: int) -> str:
        """See `Files.identifier`; file and row."""
        chunk, row = self._at(i)
        name, first = self._of[chunk]
        return f"{name}[{first + row}]"

    def digest(self) -> bytes:
        """See `Files.digest`."""
        import pyarrow.compute as pc

        digest = hashlib.sha256(repr([name for name, _ in self._of]).encode())
        for chunk in self._chunks:
            sizes = pc.fill_null(pc.binary_length(chunk), -1)
            digest.update(sizes.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        return digest.digest()


def _opened(path: Path) -> Any:
    """Map a table; a Parquet file by its Arrow copy in the cache.

    Raises:
        DataError: no pyarrow, or a damaged file.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise _missing(str(path), error) from error
    if path.suffix.lower() != ".parquet":
        return _mapped(path, pa)
    status = path.stat()
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    name = hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    copy = cache_folder().with_name("arrow") / f"{name}.arrow"
    with contextlib.suppress(DataError):
        return _mapped(copy, pa)
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with in_turn(copy.with_suffix(".lock")):
            with contextlib.suppress(DataError):  # another process has made it
                return _mapped(copy, pa)
            _write_arrow(path, copy, pa, pq)
    except (pa.ArrowException, OSError, ValueError) as error:
        # Of a damaged file Arrow raises OSError, too, but without a number.
        if isinstance(error, OSError) and error.errno:
            raise DataError(
                f"{str(path)!r} cannot be copied into {str(copy.parent)!r} ({error.strerror}): "
                "free space, or set LOOKTWICE_CACHE to another folder"
            ) from error
        raise _not_whole(path, error) from error
    return _mapped(copy, pa)


def _write_arrow(path: Path, copy: Path, pa: Any, pq: Any) -> None:
    part = copy.with_suffix(".part")
    with (
        pq.ParquetFile(path) as file,
        pa.OSFile(str(part), "wb") as sink,
        pa.ipc.new_file(sink, file.schema_arrow) as writer,
    ):
        for batch in file.iter_batches(256):
            writer.write_batch(batch)
    copy.unlink(missing_ok=True)  # damaged
    move_new(part, copy)


def _mapped(path: Path, pa: Any) -> Any:
    """Map an Arrow file. Raises DataError: it is not there, or not whole."""
    try:
        mapped = pa.memory_map(str(path))
        try:
            table = pa.ipc.open_file(mapped).read_all()
        except pa.ArrowInvalid:  # as `datasets` keeps them, without an index
            mapped.seek(0)
            table = pa.ipc.open_stream(mapped).read_all()
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200]
    return DataError(f"{str(path)!r} is no whole table ({reason}): put the original back")


def _columns(schema: Any, where: str) -> tuple[str, str | None, tuple[str, ...] | None]:
    """Return the columns of pictures and labels, and the names of classes, where there are any."""
    features: dict[str, Any] = {}
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        features = {}
    features = features if isinstance(features, dict) else {}
    kinds = {name: kind.get("_type") for name, kind in features.items() if isinstance(kind, dict)}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    images += [name for name in IMAGE_NAMES if name in schema.names]
    if not images or images[0] not in schema.names:
        raise DataError(
            f"{where!r} has the columns {', '.join(schema.names)}, none of pictures: call it image"
        )
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel" and name in schema.names]
    labels += [name for name in LABEL_NAMES if name in schema.names]
    if not labels:
        return images[0], None, None
    names = features.get(labels[0], {}).get("names") if kinds.get(labels[0]) else None
    listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return images[0], labels[0], tuple(map(printable, names)) if listed and names else None


def _labels(tables: Sequence[Any], column: str, where: str) -> NDArray[Any] | None:
    values: list[Any] = []
    for table in tables:
        known = column in table.column_names
        values += table.column(column).to_pylist() if known else [None] * table.num_rows
    missing = sum(value is None or value == -1 for value in values)
    if missing == len(values):
        return None  # as test splits without labels have
    if missing or not all(type(value) in (int, str) for value in values):
        raise DataError(
            f"column {column!r} of {where!r} has rows without a label: label all, or none"
        )
    return np.array([printable(v) if isinstance(v, str) else v for v in values])


def _numbered(
    labels: dict[str, NDArray[Any] | None], names: tuple[str, ...] | None, where: str
) -> tuple[dict[str, NDArray[np.int64] | None], tuple[str, ...] | None]:
    if names is None or labels["train"] is None:
        return number_labels(labels, where)
    for values in labels.values():
        if values is not None and (
            values.dtype.kind != "i" or values.min() < 0 or values.max() >= len(names)
        ):
            raise DataError(f"a label of {where!r} is none of its {len(names)} classes")
    return {s: None if v is None else v.astype(np.int64) for s, v in labels.items()}, names


def _table_files(folder: Path, inside: Glance) -> list[Path]:
    """Return the tables in a folder and its ``data/``; where there are none, in all folders in it.

    Those are configurations or splits, as data sets of the hub have. Where there are pictures,
    they are what is meant.
    """
    found = _tables_in(folder, inside)
    if "data" in inside.folders:
        found += _tables_in(folder / "data", glance(folder / "data"))
    for name in () if found or inside.pictures else inside.folders:
        inner = glance(folder / name)
        if inner.pictures:
            return []
        found += _tables_in(folder / name, inner)
    return sorted(found)


def _tables_in(folder: Path, inside: Glance) -> list[Path]:
    names = () if inside.pictures else inside.files
    return [folder / name for name in names if name.lower().endswith(ENDINGS)]


def _missing(what: str, error: ImportError) -> DataError:
    return DataError(f"{what!r} needs {error.name}: pip install 'looktwice[hf]'")
