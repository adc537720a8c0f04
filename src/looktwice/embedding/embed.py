"""Pictures to a file of features, piece by piece: what is killed goes on, and no row differs."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from looktwice.console import TrainingConsole
from looktwice.data import Data, Source
from looktwice.embedding.about import About
from looktwice.embedding.formats import ENDINGS, bad_lines, format_of, read_about, side_file
from looktwice.embedding.pieces import Piece, Pieces
from looktwice.embedding.rows import Rows
from looktwice.embedding.subject import HEADLESS, Eye, Subject, as_dtype, open_eye, open_subject
from looktwice.errors import BadPictureError, RunError, UsageError
from looktwice.features import Indices, stream
from looktwice.storage import move_new, plainly, remove_folder, unfinished

PIECE_BLOCKS = 4  # blocks of features in a piece: a kill costs a piece's time, a piece a file


@dataclass(frozen=True)
class Embedded:
    """An embedding.

    Attributes:
        path: its file; the main one, where it has several.
        about: what it says of itself.
        kept: whether it was there before.
    """

    path: Path
    about: About
    kept: bool

    @property
    def bad_files(self) -> Path | None:
        """The list of the pictures that could not be read, one JSON object a line."""
        return side_file(self.path, "bad_files.jsonl") if self.about.unreadable else None


def embed_target(
    target: str | Path,
    out: Path,
    *,
    data: Data | None = None,
    layers: Sequence[str] = (HEADLESS,),
    dtype: str = "float32",
    weights: Path | None = None,
    image_size: int | None = None,
    device: str = "auto",
    file: TextIO | None = None,
) -> Embedded:
    """Write the features of pictures, a row each, beside split, index, name and label.

    What was made of it is kept in a hidden folder beside `out`: after a kill the same call goes
    on, and ends with the same bytes.

    Args:
        target: a run, an encoder file, or a foreign encoder; see `open_encoder`.
        out: ends in one of `FORMATS`; it and the files beside it must not be there.
        data: pictures, in their official splits; None takes those of the run, in its splits.
        layers: any of h, hidden-1, …, z; all but h need a run with a projection head.
        dtype: float32 or float16.
        weights: file of a foreign encoder's weights.
        image_size: side in pixels at which pictures enter an encoder that is no run's.
        device: where it computes; ``auto`` is the best there is.
        file: where progress is told; standard output by default.

    Raises:
        UsageError: arguments that do not fit, or a library that is not installed.
        RunError: `out` holds something else, or cannot be written; the target is no encoder.
        DataError: the pictures cannot be opened, or none of a split can be read.
    """
    _check_place(out)
    if image_size is not None and Path(target).is_dir():
        raise UsageError(f"--image-size: the run {target} has its own; give its encoder file")
    eye = open_eye(target, weights=weights, image_size=image_size, layers=layers, device=device)
    return embed(eye, out, data=data, layers=layers, dtype=dtype, file=file)


def embed(
    eye: Eye,
    out: Path,
    *,
    data: Data | None = None,
    layers: Sequence[str] = (HEADLESS,),
    dtype: str = "float32",
    file: TextIO | None = None,
) -> Embedded:
    """Do what `embed_target` does, with an encoder that is open."""
    _check_place(out)
    subject = open_subject(eye, data=data, layers=layers, dtype=dtype)
    if out.exists():
        return _there_already(out, subject.about)
    with unfinished(out) as folder:
        if out.exists():  # another process has finished it meanwhile
            return _there_already(out, subject.about)
        pieces = Pieces(folder, subject.about)
        with TrainingConsole(file or sys.stdout, "embedding") as console:
            _fill(subject, pieces, console, out)
        about = replace(subject.about, rows=pieces.rows, unreadable=pieces.unreadable)
        _join(out, about, subject.parts, pieces, folder)
        remove_folder(folder)
    return Embedded(out, about, kept=False)


def _check_place(out: Path) -> None:
    format_of(out).check()
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK):
        raise RunError(f"cannot write {out}: no folder {out.parent} that can be written")
    if out.exists() or out.with_name(f".{out.name}-unfinished").exists():
        return
    for path in out.parent.iterdir():
        if path.name.startswith(f"{out.name}.") and path.name.endswith(ENDINGS):
            raise RunError(f"{path} is in the way of {out} and left as it is; choose another --out")


def _there_already(out: Path, about: About) -> Embedded:
    found = read_about(out)
    said = found.difference(about)
    if said:
        raise RunError(
            f"{out} is an embedding already, and this command asks for {said}: it is left as it "
            "is; choose another --out"
        )
    folder = out.with_name(f".{out.name}-unfinished")
    if folder.exists():  # killed between the last file's name and the end
        with unfinished(out) as held:
            remove_folder(held)
    return Embedded(out, found, kept=True)


def _fill(subject: Subject, pieces: Pieces, console: TrainingConsole, out: Path) -> None:
    """Make the pieces that are missing."""
    total = sum(map(len, subject.parts.values()))
    before = 0
    if done := sum(pieces.end(split) for split in subject.parts):
        console.say(f"going on after {done:,} of {total:,} pictures")
    try:
        for split, source in subject.parts.items():
            for piece in _pieces(subject, split, source, pieces.end(split)):
                pieces.add(piece)
                console.step(before + piece.end, total)
            before += len(source)
    except KeyboardInterrupt:
        done = sum(pieces.end(split) for split in subject.parts)
        console.say(
            f"stopped after {done:,} of {total:,} pictures, which are kept; the same command goes "
            f"on, or remove {shlex.quote(str(out.with_name(f'.{out.name}-unfinished')))}"
        )
        raise


def _pieces(subject: Subject, split: str, source: Source, first: int) -> Iterator[Piece]:
    """Yield the pieces of a split from the picture `first` on, where a piece ended or none is.

    A piece has whole blocks, since the last bits of a feature may depend on what is in its block.
    """
    if first == len(source):
        return
    eye = subject.eye
    reading = stream(source, [eye.encoder.prepare], threads=eye.threads, start=first)
    with closing(reading) as blocks:
        encoded = ((found, eye.features(pictures)) for found, (pictures,) in blocks)
        while some := list(islice(encoded, PIECE_BLOCKS)):
            features = {
                layer: as_dtype(
                    torch.cat([part[layer] for _, part in some]), subject.about.dtype, source.name
                )
                for layer in subject.about.layers
            }
            indices = np.concatenate([found for found, _ in some])
            end = int(indices[-1]) + 1
            yield Piece(split, first, end, _bad(source, first, end, indices), indices, features)
            first = end
    if first < len(source):  # no picture that is left can be read
        none = np.empty(0, np.int64)
        blank = {
            layer: np.empty((0, width), subject.about.dtype)
            for layer, width in subject.about.layers.items()
        }
        bad = _bad(source, first, len(source), none)
        yield Piece(split, first, len(source), bad, none, blank)


def _bad(source: Source, first: int, end: int, readable: Indices) -> list[tuple[str, str]]:
    """Return names and reasons of the pictures that were not read."""
    missing = sorted(set(range(first, end)) - set(readable.tolist()))
    return [(source.identifier(i), _reason(source, i)) for i in missing]


def _reason(source: Source, i: int) -> str:
    try:
        source.image(i)
    except BadPictureError as error:
        return error.reason
    return "it could not be read when its turn came; now it can"


def _join(out: Path, about: About, parts: dict[str, Source], pieces: Pieces, folder: Path) -> None:
    """Write the files whole in the hidden folder, then give them their names, `out` last."""
    whole = folder / "whole"
    with plainly(out):
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        if about.unreadable:
            bad = (entry for piece in pieces for entry in piece.unreadable)
            side_file(whole / out.name, "bad_files.jsonl").write_text(bad_lines(bad), "utf-8")
        rows = (_rows(piece, parts[piece.split]) for piece in pieces if len(piece.indices))
        format_of(out).write(whole / out.name, about, rows)
    others = sorted(path for path in whole.iterdir() if path.name != out.name)
    for path in [*others, whole / out.name]:
        move_new(path, out.with_name(path.name))


def _rows(piece: Piece, source: Source) -> Rows:
    """Return a piece's rows with names and labels."""
    places = piece.indices.tolist()
    labels: list[str | None] = [None] * len(places)
    if source.labels is not None and source.class_names is not None:
        labels = [source.class_names[int(source.labels[i])] for i in places]
    names = [source.identifier(i) for i in places]
    return Rows([piece.split] * len(places), piece.indices, names, labels, piece.features)
