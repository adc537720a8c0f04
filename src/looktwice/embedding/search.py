"""Which pictures are most alike to a given one."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from numpy.typing import NDArray

from looktwice.data import Data, FileSource, Source
from looktwice.data.files import FolderFiles
from looktwice.embedding.about import About
from looktwice.embedding.embed import embed
from looktwice.embedding.extras import need
from looktwice.embedding.formats import FORMATS, read_about
from looktwice.embedding.index import ABOUT, Index, build_index, open_index
from looktwice.embedding.subject import Eye, open_eye, open_parts
from looktwice.errors import DataError, RunError, UsageError
from looktwice.run import Run, open_run
from looktwice.storage import plainly


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Attributes:
        split: where it is: train, validation or test.
        index: its place there, from 0.
        name: what it is called there.
        label: the name of its class; None where it has none.
        similarity: cosine, -1 to 1.
    """

    split: str
    index: int
    name: str
    label: str | None
    similarity: float


@dataclass(frozen=True)
class Answer:
    """A query with what was found, the nearest first; the picture is uint8 (H, W, C)."""

    query: str
    picture: NDArray[np.uint8]
    hits: tuple[Hit, ...]


def search_target(
    target: str | Path,
    queries: Sequence[Path],
    *,
    encoder: str | None = None,
    weights: Path | None = None,
    data: Data | None = None,
    k: int = 10,
    device: str = "auto",
    file: TextIO | None = None,
) -> tuple[Index, list[Answer]]:
    """Search the pictures most alike to each query.

    What is missing is made first and kept: of a run the embedding ``RUN/embeddings/NAME.npy``, of
    an embedding the index beside it.

    Args:
        target: an index, an embedding, or a run.
        queries: picture files, one or more.
        encoder: a run, a file or a foreign encoder; None takes the one that the index names.
        weights: file of a foreign encoder's weights; None takes the one that the index names.
        data: of a run, other pictures to search in than its own; not in memory.
        k: how many to find of each; all where there are fewer.
        device: where the encoder computes; ``auto`` is the best there is.
        file: where progress is told; standard output by default.

    Raises:
        UsageError: arguments that do not fit, or a library that is not installed.
        RunError: a missing or damaged index, or one that another encoder made.
        DataError: a query or the pictures cannot be read.
    """
    _check_queries(queries, k)
    need("faiss", "search")
    path = Path(target)
    if run := _run_at(path):
        if encoder is not None or weights is not None:
            raise UsageError(
                f"--encoder, --weights: the run {path} has its own; give an index or embedding"
            )
        out = _embeddings(run, data)
        eye = open_eye(path, device=device)
        index = _of_run(eye, out, data, file)
    else:
        index = _of_path(path, file)
        eye = _open_eye(index, encoder, weights, device)
    pictures = [_query(query, eye, index.about) for query in queries]
    return index, [_answer(index, eye, *picture, k) for picture in pictures]


def _check_queries(queries: Sequence[Path], k: int) -> None:
    if not queries:
        raise UsageError("name one picture or more to search for")
    if k < 1:
        raise UsageError(f"-k is {k}; it must be 1 or more")
    for query in queries:
        if not query.is_file():
            raise DataError(f"there is no picture {query}")


def _run_at(path: Path) -> Run | None:
    return open_run(path) if (path / "config.toml").is_file() else None


def _embeddings(run: Run, data: Data | None) -> Path:
    """Return where features of a run are kept, by the name of the pictures."""
    if data is not None and not isinstance(data, str | os.PathLike):
        raise UsageError(
            "data in memory has no name to keep its features by: embed it (embed_target), and "
            "search that"
        )
    # Of `.` and `..`, too, the name of the folder.
    name = "pictures" if data is None else Path(os.path.abspath(data)).name  # noqa: PTH100
    return run.path / "embeddings" / f"{name}.npy"


def _of_run(eye: Eye, out: Path, data: Data | None, file: TextIO | None) -> Index:
    with plainly(
        out, "cannot write {}: {}; write it elsewhere by looktwice embed, and search that"
    ):
        out.parent.mkdir(exist_ok=True)
    try:
        embed(eye, out, data=data, file=file)
    except RunError as error:
        if not out.exists():
            raise
        raise RunError(
            f"{error}; or remove {shlex.quote(str(out))}* and search again, or search what is "
            f"there: looktwice search {shlex.quote(str(out))}"
        ) from error
    return _of_path(out, file)


def _of_path(path: Path, file: TextIO | None) -> Index:
    """Open an index, or that of an embedding, which is built where it is missing."""
    if path.suffix.lower() not in FORMATS:
        if not (path / ABOUT).is_file():
            raise UsageError(
                f"{path} is no index, embedding or run: give the folder of an index or a run, or a "
                f"file of {', '.join(FORMATS)}"
            )
        return open_index(path)
    about = read_about(path)
    folder = path.with_name(f"{path.name}.index")
    if not folder.exists():
        print(f"building the index {folder}", file=file or sys.stdout)
        return build_index(path, folder)
    index = open_index(folder)
    said = index.about.difference(about)
    if said:
        raise RunError(f"{path} has {said} than its index {folder}: remove the index")
    return index


def _open_eye(index: Index, encoder: str | None, weights: Path | None, device: str) -> Eye:
    """Open the encoder of an index, or check that the given one is the same."""
    made_by = index.about.encoder
    if weights is None and encoder is None and made_by["weights"] is not None:
        weights = Path(made_by["weights"])
    target, size = encoder or made_by["target"], made_by["spec"]["image_size"]
    try:
        eye = open_eye(target, weights=weights, image_size=size, device=device)
    except UsageError as error:
        if encoder:
            raise
        raise RunError(
            f"{index.path} was made by {target}, which cannot be opened ({error}): name the same "
            f"{'file with --weights' if weights else 'encoder with --encoder'}"
        ) from error
    said = eye.about()
    if any(said[key] != made_by[key] for key in ("weights_sha256", "spec")):
        own, others = (one["weights_sha256"][:12] for one in (made_by, said))
        raise RunError(
            f"{index.path} was made by another encoder, {made_by['target']} of weights {own}, than "
            f"{eye.target} of weights {others}"
        )
    return eye


def _query(path: Path, eye: Eye, about: About) -> tuple[str, NDArray[np.uint8]]:
    """Read a query as the pictures of the index were read."""
    source = FileSource(
        FolderFiles(path.parent, [path.name]),
        name=str(path),
        channels=eye.encoder.spec.channels,
        ground=about.pictures["alpha"],
    )
    return str(path), source.image(0)


def _answer(index: Index, eye: Eye, query: str, picture: NDArray[np.uint8], k: int) -> Answer:
    prepared = eye.encoder.prepare(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])
    features = eye.features(prepared)["h"].numpy()
    similarity, rows = index.search(features, min(k, len(index)))
    hits = (
        Hit(*index.row(int(row)), similarity=float(cosine))
        for cosine, row in zip(similarity[0], rows[0], strict=True)
    )
    return Answer(query, picture, tuple(hits))


def open_pictures(
    about: About, data: Data | None = None, *, searched_by: str | Path | None = None
) -> dict[str, Source]:
    """Open the pictures of an index, by split.

    Args:
        about: of the index.
        data: where they are now; None: where they were.
        searched_by: a run's folder is taken for where the index's run is now.

    Raises:
        UsageError: it was made from arrays in memory, and no `data` is given.
        RunError: its run is gone, which alone knows how they were split or where they are.
        DataError: they cannot be opened.
    """
    said = about.pictures
    run = None if searched_by is None else _run_at(Path(searched_by))
    if run is None and said["run"] and (said["of_run"] or data is None):
        run = open_run(Path(said["run"]))
    if said["of_run"]:
        return open_parts(run, None, moved_to=data)
    if data is None and said["data"] is None:
        raise UsageError("the index was made from pictures in memory: give --data")
    parts = open_parts(run, said["data"] if data is None else data)
    return {split: source.over(said["alpha"]) for split, source in parts.items()}
