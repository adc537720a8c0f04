"""CAM panels: a few pictures, and what in them speaks for their neighbour and for their class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from looktwice.analysis.cam import Score, class_cam, similarity_cam
from looktwice.analysis.points import Points
from looktwice.data import Source, Splits
from looktwice.evaluate.linear import LinearModel, Standardiser, fit_path
from looktwice.features import encode
from looktwice.metrics import nearest
from looktwice.models import Encoder

NUM_PANELS = 6
PROBE_L2 = 0.01
"""Strength of the probe whose scores are explained: fixed, since its accuracy is not the point."""


@dataclass(frozen=True)
class Seen:
    """A picture as an encoder saw it, and where in it a score comes from.

    Attributes:
        encoder: name of the encoder.
        pixels: uint8 (S, S, C).
        heat: float32 (S, S), 0 to 1, as `similarity_cam` returns it.
        score: "similarity" or "class".
        words: what the score is, for people.
        right: whether a class is the picture's own; None for similarities.
    """

    encoder: str
    pixels: NDArray[np.uint8]
    heat: NDArray[np.float32]
    score: str
    words: str
    right: bool | None = None


@dataclass(frozen=True)
class Panel:
    """A picture, the picture nearest to it by the first encoder, and how each encoder sees it.

    `name` and `neighbour_name` are classes, or the sources' names where there are no labels.
    """

    name: str
    picture: NDArray[np.uint8]
    neighbour_name: str
    neighbour: NDArray[np.uint8]
    seen: tuple[Seen, ...]


def cam_panels(
    points: Points, splits: Splits, encoders: Mapping[str, Encoder], *, seed: int
) -> list[Panel]:
    """Explain a few pictures, held out from training where there are such.

    Args:
        points: with the features of all encoders, the first one choosing the neighbours.
        splits: where the points are from.
        encoders: by name.
        seed: of the choice of pictures; every class that is drawn comes once before any twice.

    Raises:
        UsageError: an encoder has no feature map.
    """
    queries = _queries(points, seed)
    features = points.features[next(iter(encoders))]
    found = nearest(features, features[queries], 2)[1]
    # A picture's nearest is itself, or a copy of it.
    column = (found[:, 0] == queries).long()[:, None]
    others = found.gather(1, column)[:, 0].tolist()
    pictures = [_picture(splits, points, point) for point in queries.tolist()]
    neighbours = [_picture(splits, points, point) for point in others]
    seen = [
        one
        for name, encoder in encoders.items()
        for one in _seen(name, encoder, points, queries, pictures, neighbours)
    ]
    return [
        Panel(
            name=_called(points, query),
            picture=pictures[row],
            neighbour_name=_called(points, other),
            neighbour=neighbours[row],
            seen=tuple(column[row] for column in seen),
        )
        for row, (query, other) in enumerate(zip(queries.tolist(), others, strict=True))
    ]


def _seen(
    name: str,
    encoder: Encoder,
    points: Points,
    queries: Tensor,
    pictures: list[NDArray[np.uint8]],
    neighbours: list[NDArray[np.uint8]],
) -> list[list[Seen]]:
    """Return what one encoder sees: a list of pictures for each score."""
    inputs, others = (_prepared(encoder, many) for many in (pictures, neighbours))
    pixels = inputs.permute(0, 2, 3, 1).contiguous().numpy()
    h, known = (encode(encoder, x) for x in (inputs, others))
    cosine = F.cosine_similarity(h, known).tolist()
    made = partial(_rows, name, pixels)
    found = [
        made(
            similarity_cam(encoder, inputs, others),
            "similarity",
            [f"similarity {value:.2f}" for value in cosine],
        )
    ]
    probe = _probe(points, points.features[name])
    if probe is not None:
        scores, classes = probe
        taken = scores(points.features[name][queries]).argmax(dim=1)
        labels = classes[taken]
        heat = class_cam(encoder, inputs, scores, taken)
        words = [f"taken for {points.class_names[label]}" for label in labels]
        own = [bool(a == b) for a, b in zip(labels, points.labels[queries], strict=True)]
        found.append(made(heat, "class", words, own))
    return found


def _rows(
    name: str,
    pixels: NDArray[np.uint8],
    heat: Tensor,
    score: str,
    words: list[str],
    right: list[bool] | None = None,
) -> list[Seen]:
    return [
        Seen(name, pixels[row], heat[row].numpy(), score, text, right[row] if right else None)
        for row, text in enumerate(words)
    ]


def _probe(points: Points, features: Tensor) -> tuple[Score, NDArray[np.int64]] | None:
    """Fit a linear probe on the training pictures; return its scores, and the label of each."""
    learnt = np.flatnonzero((points.split == 0) & (points.labels >= 0))
    classes, labels = np.unique(points.labels[learnt], return_inverse=True)
    if len(classes) < 2:
        return None
    scaled = Standardiser.of(features[learnt])
    model: LinearModel
    (model,) = fit_path(
        scaled(features[learnt]), torch.from_numpy(labels), len(classes), [PROBE_L2]
    )

    def scores(h: Tensor) -> Tensor:
        return model.scores(scaled(h.cpu()))

    return scores, classes


def _queries(points: Points, seed: int) -> Tensor:
    """Draw pictures of the last split, classes in turn."""
    held = np.flatnonzero(points.split == points.split.max())
    order = np.random.default_rng(seed).permutation(held)
    seen: Counter[int] = Counter()
    turns = []
    for place, point in enumerate(order):
        label = int(points.labels[point])
        turns.append((seen[label], place, int(point)))
        seen[label] += 1
    return torch.tensor([point for *_, point in sorted(turns)[:NUM_PANELS]])


def _picture(splits: Splits, points: Points, point: int) -> NDArray[np.uint8]:
    part: Source | None = (splits.train, splits.validation, splits.test)[points.split[point]]
    assert part is not None
    return part.image(int(points.index[point]))


def _prepared(encoder: Encoder, pictures: list[NDArray[np.uint8]]) -> Tensor:
    """Return pictures as they enter an encoder, uint8 (N, C, S, S)."""
    tensors = [torch.tensor(picture).permute(2, 0, 1)[None] for picture in pictures]
    return torch.cat([encoder.prepare(tensor) for tensor in tensors])


def _called(points: Points, point: int) -> str:
    return points.class_name(point) or points.names[point]
