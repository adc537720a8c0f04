"""What a search found: as a table for a terminal, as JSON, and as a page with pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from looktwice.embedding import Answer, Hit, Index
from looktwice.errors import BadPictureError
from looktwice.report import numbers
from looktwice.report.pictures import Thumbnail, thumbnail
from looktwice.report.templating import printable, render_page, shorten
from looktwice.storage import write_new

if TYPE_CHECKING:
    from looktwice.data import Source

QUERY_SHOWN, HIT_SHOWN = 168, 112  # pixels: heights of pictures, on a wide page
LABEL_LENGTH = 24


def table(index: Index, answers: Sequence[Answer]) -> str:
    """Return the pictures found for each query as lines: rank, similarity, label, name."""
    lines: list[str] = []
    for answer in answers:
        lines.append(
            f"{printable(answer.query)}: the nearest {len(answer.hits):,} of "
            f"{numbers.plural(len(index), 'picture')}"
        )
        labels = [str(printable(shorten(hit.label or "", LABEL_LENGTH))) for hit in answer.hits]
        width = max(map(len, labels))
        lines += [
            f"{rank:>4}  {hit.similarity:6.3f}  {label:{width}}  {printable(hit.name)}"
            for rank, (hit, label) in enumerate(zip(answer.hits, labels, strict=True), 1)
        ]
    return "\n".join(lines)


def as_json(index: Index, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return what was found, ready for JSON."""
    return {
        "index": str(index.path),
        "pictures": len(index),
        "encoder": index.about.encoder["target"],
        "weights_sha256": index.about.encoder["weights_sha256"],
        "queries": [
            {"query": answer.query, "found": [dataclasses.asdict(hit) for hit in answer.hits]}
            for answer in answers
        ],
    }


@dataclass(frozen=True)
class Shown:
    """A picture that was found; None where it is no longer there or cannot be read."""

    hit: Hit
    thumbnail: Thumbnail | None


@dataclass(frozen=True)
class ShownAnswer:
    """A query, what was found, and that in words."""

    name: str
    thumbnail: Thumbnail
    sentence: str
    found: tuple[Shown, ...]


def write_search(
    path: Path,
    index: Index,
    answers: Sequence[Answer],
    pictures: Mapping[str, Source],
    *,
    command: str = "",
) -> None:
    """Write a page with the queries and what was found: one offline file, without scripts.

    Args:
        path: a new file.
        index: what was searched.
        answers: what was found in it.
        pictures: those of the index, by split; ones that are not there are shown by name alone.
        command: what the page says it was made by.

    Raises:
        RunError: the file is there already, or cannot be written.
    """
    write_new(path, render_search(index, answers, pictures, command=command).encode())


def render_search(
    index: Index,
    answers: Sequence[Answer],
    pictures: Mapping[str, Source],
    *,
    command: str = "",
) -> str:
    """Return the page's text; arguments as in `write_search`."""
    about = index.about
    spec, name = about.encoder["spec"], about.pictures["name"].removesuffix("/train")
    return render_page(
        "search.html.j2",
        answers=[_shown(answer, pictures) for answer in answers],
        data=name,
        facts=[
            f"searched: {numbers.plural(len(index), 'picture')} of {name}",
            f"encoder: {PurePath(about.encoder['target']).name}",
            f"{spec['backbone']} at {spec['image_size']} px",
            f"weights {about.encoder['weights_sha256'][:12]}",
            "cosine similarity, exact",
        ],
        command=command,
    )


def _shown(answer: Answer, pictures: Mapping[str, Source]) -> ShownAnswer:
    return ShownAnswer(
        name=answer.query,
        thumbnail=thumbnail(answer.picture, QUERY_SHOWN, HIT_SHOWN),
        sentence=_sentence(answer),
        found=tuple(Shown(hit, _thumbnail(hit, pictures)) for hit in answer.hits),
    )


def _sentence(answer: Answer) -> str:
    """Say what the hits have in common: the label of most, and how alike they are."""
    labels = [hit.label for hit in answer.hits if hit.label is not None]
    alike = f"similarity {answer.hits[0].similarity:.3f} to {answer.hits[-1].similarity:.3f}"
    if not labels:
        return f"{numbers.plural(len(answer.hits), 'picture')}, {alike}"
    most = max(labels, key=labels.count)
    return f"{labels.count(most)} of {len(answer.hits)} are {shorten(most)}; {alike}"


def _thumbnail(hit: Hit, pictures: Mapping[str, Source]) -> Thumbnail | None:
    source = pictures.get(hit.split)
    if source is None or hit.index >= len(source) or source.identifier(hit.index) != hit.name:
        return None
    try:
        return thumbnail(source.image(hit.index), HIT_SHOWN, HIT_SHOWN)
    except BadPictureError:
        return None
