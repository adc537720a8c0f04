"""What the page of a run shows of its features, computed when the page is written.

Pictures are encoded once: those of the map and of the CAM panels, and two views of held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from looktwice.analysis import Points, kept_neighbours, similarities, tsne
from looktwice.analysis.cam import check_map
from looktwice.analysis.panels import Panel, cam_panels
from looktwice.analysis.points import read_points
from looktwice.data import Splits
from looktwice.errors import LooktwiceError
from looktwice.evaluate import Subject, open_subject
from looktwice.evaluate.health import view_features
from looktwice.report import numbers
from looktwice.report.heat import ShownPanel, shown_panels
from looktwice.report.histograms import Histogram, histograms
from looktwice.report.picture_map import PictureMap, picture_map

MAP_PICTURES = 2000  # t-SNE of them takes some four seconds; `looktwice analyze` draws more
VIEW_PAIRS = 512  # pictures whose two views are compared: 512 positives, 261,632 negatives

Made = TypeVar("Made")


@dataclass(frozen=True)
class Insight:
    """What features show; whatever is empty is left out, and ``missing`` says why.

    Attributes:
        histograms: of similarities, before and after training.
        map: of pictures, and in ``map_words`` what it is drawn from and how far to trust it.
        panels: CAM.
        missing: sentences.
    """

    histograms: tuple[Histogram, ...]
    map: PictureMap | None
    map_words: str
    panels: tuple[ShownPanel, ...]
    missing: tuple[str, ...]


def look(run: Path, splits: Splits, *, seed: int) -> Insight:
    """Compute what a run's encoder makes of its pictures; what cannot be done is named instead."""
    missing: list[str] = []

    def attempt(what: str, make: Callable[[], Made]) -> Made | None:
        try:
            return make()
        except LooktwiceError as error:
            missing.append(f"{what} left out: {str(error).rstrip('.')}.")
            return None

    subject = attempt("Histograms, map and CAM", lambda: open_subject(run, splits=splits))
    if subject is None:
        return Insight((), None, "", (), tuple(missing))
    compared = attempt("Histograms", lambda: _histograms(subject, seed))
    points = attempt("Map and CAM", lambda: _points(subject, seed))
    drawn = points and attempt("Map", lambda: _map(subject, points, seed))
    panels = points and attempt("CAM", lambda: _panels(subject, points, seed))
    return Insight(
        histograms=compared or (),
        map=drawn[0] if drawn else None,
        map_words=drawn[1] if drawn else "",
        panels=tuple(shown_panels(panels)) if panels else (),
        missing=tuple(missing),
    )


def _histograms(subject: Subject, seed: int) -> tuple[Histogram, ...]:
    start = subject.initial or subject.untrained
    named = {"Before training": start, "After training": subject.encoder}
    known = {title: encoder for title, encoder in named.items() if encoder is not None}
    features = view_features(
        list(known.values()), subject.splits.validation, subject.policy, VIEW_PAIRS, seed=seed
    )
    return histograms(dict(zip(known, map(similarities, features), strict=True)))


def _points(subject: Subject, seed: int) -> Points:
    encoders = {subject.name: subject.encoder}
    return read_points(
        subject.splits,
        encoders,
        MAP_PICTURES,
        seed=seed,
        max_bad=subject.max_bad,
        threads=subject.threads,
    )


def _map(subject: Subject, points: Points, seed: int) -> tuple[PictureMap, str]:
    features = points.features[subject.name]
    flat = tsne(features, seed=seed % 2**32)
    kept = numbers.percent(kept_neighbours(features, flat), 0)
    words = (
        f"{numbers.plural(len(points), 'picture')}, training pictures among them, drawn by seed "
        "and laid out by t-SNE of their features. Near is alike; the size of a group and the gap "
        f"between two mean nothing. The plane keeps {kept} % of each picture's 10 nearest."
    )
    made = picture_map(flat, points.thumbnails, points.names, points.labels, points.class_names)
    return made, words


def _panels(subject: Subject, points: Points, seed: int) -> list[Panel]:
    check_map(subject.encoder)
    return cam_panels(points, subject.splits, {subject.name: subject.encoder}, seed=seed)
