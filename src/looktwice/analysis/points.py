"""The pictures of a map: their features, names, labels and thumbnails, in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from looktwice.data import Source, Splits, subset
from looktwice.evaluate.cached import check_readable
from looktwice.features import encode, stream
from looktwice.models import Encoder, central_square

SPLITS = ("train", "validation", "test")
THUMBNAIL_PIXELS = 10_000_000  # of all thumbnails together: what a telephone still decodes
LARGEST = 64  # pixels: side of a thumbnail

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """N pictures of all splits, in order.

    Attributes:
        split: index in `SPLITS` of each, int64 (N,).
        index: where it is in its split, int64 (N,).
        names: what its source calls it.
        labels: int64 (N,); -1 where there is none.
        class_names: one a label; empty without labels.
        thumbnails: uint8 (N, side, side, C): the central square, which is what encoders see.
        features: float32 (N, D) of each encoder, by name.
    """

    split: Indices
    index: Indices
    names: tuple[str, ...]
    labels: Indices
    class_names: tuple[str, ...]
    thumbnails: NDArray[np.uint8]
    features: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labelled(self) -> bool:
        """Whether every picture has a label."""
        return bool((self.labels >= 0).all())

    def class_name(self, point: int) -> str:
        """Return the class of a picture in words; empty where there is none."""
        label = int(self.labels[point])
        return self.class_names[label] if label >= 0 else ""


def read_points(
    splits: Splits,
    encoders: Mapping[str, Encoder],
    count: int,
    *,
    seed: int,
    max_bad: float,
    threads: int = 1,
) -> Points:
    """Read pictures, drawn by seed from all splits, and encode them.

    Args:
        splits: the pictures.
        encoders: by name; each gets the same pictures.
        count: how many, at most; 1 or more.
        seed: of the draw, where there are more.
        max_bad: share of unreadable pictures that is taken.
        threads: that read pictures.

    Raises:
        DataError: too many of them cannot be read.
    """
    parts = [splits.train, splits.validation, *([splits.test] if splits.test else [])]
    side = _thumbnail_side(splits.train, encoders, min(count, sum(map(len, parts))))
    found = [
        _read(number, part, chosen, encoders, side, max_bad, threads)
        for number, (part, chosen) in enumerate(zip(parts, _draw(parts, count, seed), strict=True))
        if len(chosen)
    ]
    return Points(
        split=np.concatenate([part.split for part in found]),
        index=np.concatenate([part.index for part in found]),
        names=tuple(name for part in found for name in part.names),
        labels=np.concatenate([part.labels for part in found]),
        class_names=next((part.class_names for part in found if part.class_names), ()),
        thumbnails=np.concatenate([part.thumbnails for part in found]),
        features={
            name: torch.cat([part.features[name] for part in found]) for name in found[0].features
        },
    )


def _draw(parts: list[Source], count: int, seed: int) -> list[Indices]:
    """Return which pictures of each part are among `count` drawn from all, in order."""
    ends = np.cumsum([len(part) for part in parts])
    chosen = np.arange(ends[-1])
    if count < len(chosen):
        chosen = np.sort(np.random.default_rng(seed).choice(len(chosen), count, replace=False))
    starts = [0, *ends[:-1]]
    return [
        chosen[(chosen >= start) & (chosen < end)] - start
        for start, end in zip(starts, ends, strict=True)
    ]


def _read(
    number: int,
    part: Source,
    chosen: Indices,
    encoders: Mapping[str, Encoder],
    side: int,
    max_bad: float,
    threads: int,
) -> Points:
    source = subset(part, chosen)
    kept: list[Indices] = []
    thumbnails: list[Tensor] = []
    features: dict[str, list[Tensor]] = {name: [] for name in encoders}
    prepares = [lambda p: central_square(p, side), *(e.prepare for e in encoders.values())]
    with closing(stream(source, prepares, threads=threads)) as blocks:
        for indices, (small, *prepared) in blocks:
            kept.append(indices)
            thumbnails.append(small)
            for (name, encoder), pictures in zip(encoders.items(), prepared, strict=True):
                features[name].append(encode(encoder, pictures))
    index = chosen[np.concatenate(kept)]
    check_readable(source, index, max_bad)
    return Points(
        split=np.full(len(index), number),
        index=index,
        names=tuple(part.identifier(int(i)) for i in index),
        labels=np.full(len(index), -1) if part.labels is None else part.labels[index],
        class_names=part.class_names or (),
        thumbnails=torch.cat(thumbnails).permute(0, 2, 3, 1).contiguous().numpy(),
        features={name: torch.cat(found) for name, found in features.items()},
    )


def _thumbnail_side(source: Source, encoders: Mapping[str, Encoder], count: int) -> int:
    """Return a side that keeps all thumbnails together small; none is enlarged."""
    sizes = [encoder.spec.image_size for encoder in encoders.values()]
    own = source.picture_size or (LARGEST, LARGEST)
    return max(1, min(LARGEST, math.isqrt(THUMBNAIL_PIXELS // count), *own, *sizes))
