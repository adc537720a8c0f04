"""An index to search: unit vectors in faiss's exact index, and beside it what each row is.

faiss computes every inner product, which of unit vectors is the cosine: nothing is approximate. The
vectors are mapped into memory, so that only what is searched is read, and nothing twice.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from looktwice.embedding.about import INDEX, About, from_json
from looktwice.embedding.extras import need
from looktwice.embedding.formats import read_about, read_rows
from looktwice.embedding.subject import HEADLESS
from looktwice.errors import DataError, RunError, UsageError
from looktwice.storage import move_new, plainly, remove_folder, unfinished

VECTORS: Final = "vectors.faiss"
ROWS: Final = "rows.jsonl"
PLACES: Final = "places.npy"
ABOUT: Final = "about.json"
AHEAD: Final = 1 << 17  # bytes asked for at once: of more, systems cut off what they find too much

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Index:
    """An open index.

    Attributes:
        path: its folder.
        about: what made the vectors.
        vectors: faiss's index of unit vectors.
        places: int64 (N,): where the line of each row begins in ``rows.jsonl``.
    """

    path: Path
    about: About
    vectors: Any
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Find the ``k`` rows of largest cosine similarity to each query, exactly.

        Args:
            queries: features float32 (Q, D), of any length but 0.
            k: 1 .. N.

        Returns:
            Similarities float32 (Q, k), largest first, and rows int64 (Q, k).

        Raises:
            UsageError: ``k`` is below 1 or above the size of the index.
        """
        if not 1 <= k <= len(self):
            raise UsageError(f"-k must lie in 1 .. {len(self)}, the size of the index; found {k}")
        similarity, rows = self.vectors.search(unit(queries), k)
        return similarity, rows

    def row(self, number: int) -> tuple[str, int, str, str | None]:
        """Return split, place in the split, name and label of a row (RunError: it is damaged)."""
        try:
            with (self.path / ROWS).open("rb") as file:
                file.seek(int(self.places[number]))
                split, place, name, label = json.loads(file.readline())
        except (OSError, ValueError) as error:
            raise _damaged(self.path) from error
        return split, place, name, label


def unit(features: NDArray[Any]) -> Vectors:
    """Return features (N, D) at unit length, float32; zeros stay zeros."""
    vectors = features.astype(np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(length, np.finfo(np.float32).tiny)
    return vectors


def build_index(embedding: Path, folder: Path) -> Index:
    """Build the index of an embedding's features h. It takes as much memory as these.

    Args:
        embedding: a file that `embed_target` wrote.
        folder: must not be there; of another process that is killed nothing is kept.

    Raises:
        UsageError: faiss is not installed, or the embedding has no layer h.
        RunError: the embedding is damaged or empty, or the folder is there or cannot be written.
        DataError: features that are no numbers.
    """
    need("faiss", "search")
    about = read_about(embedding)
    if HEADLESS not in about.layers:
        raise UsageError(f"{embedding} has no layer h, the features that search compares")
    if not about.rows:
        raise RunError(f"{embedding} has no rows to search")
    with unfinished(folder) as held:
        whole = held / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        with plainly(folder):
            whole.mkdir()
            _write(embedding, about, whole)
        move_new(whole, folder)
        remove_folder(held)
    return open_index(folder)


def _write(embedding: Path, about: About, folder: Path) -> None:
    faiss = need("faiss", "search")
    vectors = faiss.IndexFlatIP(about.layers[HEADLESS])
    places = np.empty(about.rows or 0, np.int64)
    row = 0
    with (folder / ROWS).open("xb") as lines:
        for rows in read_rows(embedding):
            features = unit(rows.features[HEADLESS])
            if not np.isfinite(features).all():
                raise DataError(f"{embedding} holds features that are not finite")
            vectors.add(features)
            for said in zip(
                rows.splits, rows.indices.tolist(), rows.names, rows.labels, strict=True
            ):
                places[row] = lines.tell()
                lines.write(json.dumps(said).encode() + b"\n")
                row += 1
    np.save(folder / PLACES, places)
    (folder / ABOUT).write_text(about.to_json(INDEX), "utf-8")
    try:
        faiss.write_index(vectors, str(folder / VECTORS))
    except RuntimeError as error:
        raise OSError(f"faiss could not write {VECTORS}") from error


def open_index(folder: Path) -> Index:
    """Open an index; its vectors stay on the disk until they are searched.

    Raises:
        UsageError: faiss is not installed.
        RunError: there is none, it is damaged, or of another version.
    """
    faiss = need("faiss", "search")
    path = folder / ABOUT
    try:
        about = from_json(path.read_bytes(), INDEX, path)
    except OSError as error:
        raise RunError(f"there is no index at {folder}: it has no {ABOUT}") from error
    try:
        _ask_for(folder / VECTORS)
        vectors = faiss.read_index(str(folder / VECTORS), faiss.IO_FLAG_MMAP_IFC)
        places = np.load(folder / PLACES, mmap_mode="r")
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        raise _damaged(folder) from error
    shape = (about.rows, about.layers.get(HEADLESS))
    if (vectors.ntotal, vectors.d) != shape or len(places) != about.rows:
        raise _damaged(folder)
    return Index(folder, about, vectors, places)


def _ask_for(path: Path) -> None:
    """Have the system read a file while other things are done.

    faiss tells it not to read ahead in what is mapped: half a gigabyte then comes 4 KB at a time,
    which took 20 s where this takes half a second.
    """
    if not hasattr(os, "posix_fadvise"):  # macOS
        return
    with path.open("rb") as file:
        for start in range(0, path.stat().st_size, AHEAD):
            os.posix_fadvise(file.fileno(), start, AHEAD, os.POSIX_FADV_WILLNEED)


def _damaged(folder: Path) -> RunError:
    return RunError(f"the index {folder} is damaged: remove it, and build it anew")
