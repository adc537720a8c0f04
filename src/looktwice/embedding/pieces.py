"""An embedding under way: pieces on the disk, so that a kill loses one of them at most.

Pieces follow each other without gap or overlap: each says where in its split the next begins. A
piece appears under its name when it is whole, and is never touched again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from looktwice.embedding.about import EMBEDDING, About, from_json
from looktwice.errors import RunError
from looktwice.storage import write_atomic


@dataclass(frozen=True)
class Piece:
    """What became of the pictures ``first`` to ``end`` - 1 of a split.

    Attributes:
        split: train, validation or test.
        first: a place in the split.
        end: where the next piece begins.
        unreadable: name and reason of each picture without a row.
        indices: int64 (n,): places in the split of those with a row, ascending.
        features: by layer, (n, D).
    """

    split: str
    first: int
    end: int
    unreadable: list[tuple[str, str]]
    indices: NDArray[np.int64]
    features: dict[str, NDArray[Any]]


@final
class Pieces:
    """The pieces of one embedding in a folder.

    Args:
        folder: held by this process alone.
        about: what is being made.

    Raises:
        RunError: the folder holds pieces of something else, or is damaged.
    """

    def __init__(self, folder: Path, about: About) -> None:
        self._folder = folder
        self._paths = sorted(folder.glob("piece-*.safetensors"))
        self._check(about)
        self._ends: dict[str, int] = {}
        self.rows = self.unreadable = 0
        for number, path in enumerate(self._paths):
            said, count = _header(path)
            if path != self._path(number) or said["first"] != self.end(said["split"]):
                raise RunError(f"a piece before {path} is missing: remove {folder}, and begin anew")
            self._count(said, count)

    def _check(self, about: About) -> None:
        path = self._folder / "about.json"
        if not path.exists() and self._paths:
            raise RunError(
                f"{path}, which says what the pieces beside it are of, is missing: remove "
                f"{self._folder}, and begin anew"
            )
        if not path.exists():
            write_atomic(path, about.to_json(EMBEDDING))
        elif said := from_json(path.read_bytes(), EMBEDDING, path).difference(about):
            raise RunError(
                f"{self._folder} holds an unfinished embedding, and this command asks for {said}: "
                "repeat the command that began it, remove that folder, or choose another --out"
            )

    def end(self, split: str) -> int:
        """Return how many pictures of a split, from its first, are in pieces."""
        return self._ends.get(split, 0)

    def add(self, piece: Piece) -> None:
        """Write the next piece (RunError: the disk is full)."""
        said = {key: getattr(piece, key) for key in ("split", "first", "end", "unreadable")}
        content = safetensors.numpy.save(
            {"indices": piece.indices, **piece.features}, {"looktwice": json.dumps(said)}
        )
        path = self._path(len(self._paths))
        write_atomic(path, content)
        self._paths.append(path)
        self._count(said, len(piece.indices))

    def _path(self, number: int) -> Path:
        return self._folder / f"piece-{number:08d}.safetensors"

    def _count(self, said: dict[str, Any], count: int) -> None:
        self._ends[said["split"]] = said["end"]
        self.rows += count
        self.unreadable += len(said["unreadable"])

    def __iter__(self) -> Iterator[Piece]:
        """Read the pieces in their order, one at a time."""
        for path in self._paths:
            said, _ = _header(path)
            features = safetensors.numpy.load_file(path)
            yield Piece(**said, indices=features.pop("indices"), features=features)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Return what a piece says of itself, and its number of rows."""
    try:
        with safetensors.safe_open(path, "np") as file:
            said: dict[str, Any] = json.loads(file.metadata()["looktwice"])
            return said, file.get_slice("indices").get_shape()[0]
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: remove {path.parent}, and begin anew") from error
