"""What an embedding says of itself: which encoder made it, and of which pictures."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from looktwice.errors import RunError
from looktwice.models import EncoderSpec

EMBEDDING = "looktwice-embedding/1"
INDEX = "looktwice-index/1"
_ENCODER = ("target", "weights", "weights_sha256", "spec")
_PICTURES = ("sha256", "name", "run", "of_run", "data", "alpha")


@dataclass(frozen=True)
class About:
    """What made an embedding.

    Attributes:
        encoder: ``target`` and ``weights`` to open it by, ``weights_sha256``, ``spec`` (image size,
            mean and others of `EncoderSpec`), and ``head_sha256`` where layers of a head are asked.
        pictures: ``sha256``, ``name``, and ``run``, ``data`` and ``alpha`` to open them by.
        layers: the width of each, by name, in the order of the file.
        dtype: float32 or float16.
        rows: how many; None where that is not known yet.
        unreadable: pictures without a row; likewise.
        files: bytes of each file of numbers, where one could be cut off unseen.
    """

    encoder: dict[str, Any]
    pictures: dict[str, Any]
    layers: dict[str, int]
    dtype: str
    rows: int | None = None
    unreadable: int | None = None
    files: dict[str, int] = dataclasses.field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """Return what decides the rows: equal for equal embeddings, wherever things lie."""
        decides = ("weights_sha256", "spec", "head_sha256")
        return {
            **{key: self.encoder.get(key) for key in decides},
            "pictures": self.pictures["sha256"],
            "layers": list(self.layers.items()),
            "dtype": self.dtype,
        }

    def difference(self, other: About) -> str:
        """Say in some words what another embedding has that this one has not; empty if nothing."""
        own, others = self.identity(), other.identity()
        words = {
            "weights_sha256": "another encoder",
            "spec": "the encoder at another size or normalisation",
            "head_sha256": "another projection head",
            "pictures": "other pictures",
            "layers": f"layers {','.join(other.layers)}",
            "dtype": other.dtype,
            "rows": "more or fewer rows",
        }
        if None not in (self.rows, other.rows):  # a picture that was mended since has one more
            own["rows"], others["rows"] = self.rows, other.rows
        return next((words[key] for key in own if own[key] != others[key]), "")

    def to_json(self, kind: str) -> str:
        """Return it as JSON; `kind` is `EMBEDDING` or `INDEX`."""
        return json.dumps({"format": kind, **dataclasses.asdict(self)}, indent=1)


def _checked(about: About) -> About:
    """Return it; KeyError and TypeError where a key that is asked of it later is missing."""
    for said, keys in ((about.encoder, _ENCODER), (about.pictures, _PICTURES)):
        for key in keys:
            said[key]
    EncoderSpec(**about.encoder["spec"])
    return about


def from_json(text: str | bytes, kind: str, path: Path) -> About:
    """Read back what `About.to_json` wrote.

    Args:
        text: the JSON.
        kind: what is expected, `EMBEDDING` or `INDEX`.
        path: what to call it in errors.

    Raises:
        RunError: it is something else, damaged, or of another version of looktwice.
    """
    try:
        found = json.loads(text)
        made_as = str(found.pop("format"))
        about = _checked(About(**found)) if made_as == kind else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged: what it says of itself cannot be read") from error
    if about is None:
        raise RunError(
            f"{path} is of format {made_as!r}, and this version of looktwice reads {kind!r}: use "
            "the version that wrote it, or make it anew"
        )
    return about
