"""What an encoder made of its pictures: maps of h and z, CAM panels, neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from looktwice.analysis.cam import check_map
from looktwice.analysis.panels import Panel, cam_panels
from looktwice.analysis.points import SPLITS, Points, read_points
from looktwice.analysis.tsne import Flat, agreement, kept_neighbours, perplexity_of, tsne
from looktwice.errors import RunError
from looktwice.evaluate.layers import has_head, layers, projection_head
from looktwice.evaluate.subject import Subject
from looktwice.metrics import nearest
from looktwice.models import Encoder

NUM_QUERIES, NUM_NEIGHBOURS = 6, 5


@dataclass(frozen=True)
class Layout:
    """A flat map of one layer's features.

    Attributes:
        layer: "h" or "z".
        flat: places float32 (N, 2).
        perplexity: of t-SNE.
        kept: share of the nearest neighbours that the map keeps; see `kept_neighbours`.
        agreement: share of pictures whose nearest other, in the layer and not on the map, is of
            their class; None without labels.
    """

    layer: str
    flat: Flat
    perplexity: float
    kept: float
    agreement: float | None


@dataclass(frozen=True)
class Analysis:
    """Everything a page shows.

    Attributes:
        name: of the encoder.
        data: name of the pictures.
        points: the pictures, in the order of the layouts' places.
        layouts: of h, and of z where there is a projection head at hand.
        chance: share of pairs of one class; None without labels.
        panels: CAM; none where it was not wanted.
        neighbours: held-out pictures and what is nearest to them, as `looktwice eval` records
            them; None without labels.
        encoders: names of the encoders that the panels compare.
        total: number of pictures there are, of which the points were drawn.
        seed: of every choice.
        missing: what is left out, and why, in sentences.
    """

    name: str
    data: str
    points: Points
    layouts: tuple[Layout, ...]
    chance: float | None
    panels: tuple[Panel, ...]
    neighbours: dict[str, Any] | None
    encoders: tuple[str, ...]
    total: int
    seed: int
    missing: tuple[str, ...]


def analyze(
    subject: Subject,
    *,
    count: int = 10_000,
    against: Mapping[str, Encoder] | None = None,
    cam: bool = True,
    seed: int = 0,
) -> Analysis:
    """Lay out features and explain pictures.

    Args:
        subject: the encoder and its pictures.
        count: pictures on the map, drawn by seed from all splits where there are more.
        against: other encoders, by name, to explain the same pictures beside this one.
        cam: whether to make CAM panels.
        seed: 0 to 2^32 - 1.

    Raises:
        DataError: too few pictures, too many unreadable ones, features all equal or not finite.
        UsageError: CAM is wanted of an encoder without a feature map.
    """
    encoders = {subject.name: subject.encoder, **(against or {})}
    splits = subject.splits
    for encoder in encoders.values() if cam else ():
        check_map(encoder)
    points = read_points(
        splits, encoders, count, seed=seed, max_bad=subject.max_bad, threads=subject.threads
    )
    h = points.features[subject.name]
    z, missing = _embeddings(subject, h)
    named = {"h": h} if z is None else {"h": h, "z": z}
    layouts = tuple(_layout(layer, x, points, seed) for layer, x in named.items())
    return Analysis(
        name=subject.name,
        data=splits.train.name,
        points=points,
        layouts=layouts,
        chance=_chance(points) if points.labelled else None,
        panels=tuple(cam_panels(points, splits, encoders, seed=seed)) if cam else (),
        neighbours=_neighbours(points, h, len(splits.train), seed) if points.labelled else None,
        encoders=tuple(encoders),
        total=sum(len(part) for part in (splits.train, splits.validation, splits.test) if part),
        seed=seed,
        missing=tuple(missing),
    )


def _embeddings(subject: Subject, h: Tensor) -> tuple[Tensor | None, list[str]]:
    """Return z (N, E) where a projection head is at hand, or why there is none."""
    if subject.run is None:
        return None, ["No z: the encoder comes without a projection head."]
    if not has_head(subject.run.config()):
        return None, ["No z: the run was trained without a projection head."]
    try:
        return layers(h, projection_head(subject, "z"))["z"], []
    except RunError:
        return None, ["No z: the run's last checkpoint, which holds its head, is gone."]


def _layout(layer: str, features: Tensor, points: Points, seed: int) -> Layout:
    flat = tsne(features, seed=seed)
    labels = torch.from_numpy(points.labels)
    return Layout(
        layer=layer,
        flat=flat,
        perplexity=perplexity_of(len(flat)),
        kept=kept_neighbours(features, flat),
        agreement=agreement(features, labels) if points.labelled else None,
    )


def _chance(points: Points) -> float:
    """Return how often another picture, drawn blindly, is of the same class."""
    sizes = np.bincount(points.labels).astype(float)
    return float((sizes * (sizes - 1)).sum() / (len(points) * (len(points) - 1)))


def _neighbours(points: Points, h: Tensor, num_train: int, seed: int) -> dict[str, Any] | None:
    """Return held-out pictures with the nearest of the others, as an evaluation records them."""
    test = np.flatnonzero(points.split == SPLITS.index("test"))
    bank = np.flatnonzero(points.split != SPLITS.index("test"))
    if not len(test) or len(bank) < NUM_NEIGHBOURS:
        return None
    queries = np.random.default_rng(seed).permutation(test)[:NUM_QUERIES]
    similarity, rows = nearest(h[bank], h[queries], NUM_NEIGHBOURS)
    found = bank[rows.numpy()]
    place = points.index + num_train * (points.split == SPLITS.index("validation"))
    strips = [
        {
            "query": int(points.index[query]),
            "query_label": int(points.labels[query]),
            "neighbours": place[others].tolist(),
            "labels": points.labels[others].tolist(),
            "similarity": near.tolist(),
        }
        for query, others, near in zip(queries, found, similarity, strict=True)
    ]
    return {"data": {"classes": list(points.class_names)}, "neighbours": strips}
