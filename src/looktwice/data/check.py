"""What is in a data set: counts, sizes, bad files, and pictures that are there twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.decoding import Picture
from looktwice.data.folders import SPLIT_FOLDERS
from looktwice.data.near import MAX_BITS, MIN_CORRELATION, SIDE, looks, near_pairs
from looktwice.data.progress import ProgressLine
from looktwice.data.reading import in_threads
from looktwice.data.sources import Source
from looktwice.errors import BadPictureError

NUM_SHOWN: Final = 10
"""Examples of each kind on a terminal; JSON has all."""


@dataclass(frozen=True)
class Part:
    """What one split holds.

    Attributes:
        count: pictures, bad ones included.
        channels: 1 or 3.
        classes: pictures by class; None without labels.
        heights: fewest, median and most rows, None without good pictures.
        widths: the same of columns.
        bad: name to reason, each bad file once.
    """

    count: int
    channels: int
    classes: dict[str, int] | None
    heights: tuple[int, int, int] | None
    widths: tuple[int, int, int] | None
    bad: dict[str, str]


@dataclass(frozen=True)
class Twice:
    """Pictures that are in two places.

    Attributes:
        first: split that one of a pair is in.
        second: split of the other; the same, or a later one.
        pictures: pictures of `second` that are in `first`, too, or again.
        pairs: their names; of equal pictures each with the first one.
    """

    first: str
    second: str
    pictures: int
    pairs: list[tuple[str, str]]


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        parts: by split; those of the other data set are called ``against/…``.
        exact: pictures of equal pixels.
        near: others that look alike (`near`).
    """

    parts: dict[str, Part]
    exact: list[Twice]
    near: list[Twice]

    def record(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {
            "splits": {name: vars(part) for name, part in self.parts.items()},
            "exact_duplicates": [vars(found) for found in self.exact],
            "near_duplicates": [vars(found) for found in self.near],
            "near_means": {"bits": MAX_BITS, "correlation": MIN_CORRELATION},
        }

    def lines(self) -> list[str]:
        """Return what to print."""
        lines = [line for name, part in self.parts.items() for line in _part_lines(name, part)]
        for kind, found in (("equal", self.exact), ("near", self.near)):
            lines += [line for twice in found for line in _twice_lines(kind, twice)]
            if not found:
                lines.append(f"{kind} pictures: none")
        return lines


def check(official: Mapping[str, Source], against: Mapping[str, Source] | None = None) -> Checked:
    """Decode every picture once, and look for those that are there twice, within and between.

    Args:
        official: splits of a data set.
        against: those of another one, such as that to be tested on.
    """
    others = {f"against/{name}": source for name, source in _ordered(against or {}).items()}
    sources = _ordered(official) | others
    looked = {name: _Looked(name, source) for name, source in sources.items()}
    pictures = _Pictures(sources, looked)
    parts = {name: _part(source, looked[name]) for name, source in sources.items()}
    return Checked(parts, pictures.exact(), pictures.near())


def _ordered(official: Mapping[str, Source]) -> dict[str, Source]:
    names = [name for name in dict.fromkeys(SPLIT_FOLDERS.values()) if name in official]
    return {name: official[name] for name in names}


@final
class _Looked:
    """What is kept of each picture of a split: 324 bytes.

    Attributes:
        good: bool (N,).
        sizes: int32 (N, 2).
        digests: SHA-256 of shape and pixels in colour, uint8 (N, 32).
        hashes: uint64 (N,).
        thumbnails: uint8 (N, 16, 16).
        bad: name to reason.
    """

    def __init__(self, name: str, source: Source) -> None:
        count = len(source)
        self.good = np.zeros(count, bool)
        self.sizes = np.zeros((count, 2), np.int32)
        self.digests = np.zeros((count, 32), np.uint8)
        self.hashes = np.zeros(count, np.uint64)
        self.thumbnails = np.zeros((count, SIDE, SIDE), np.uint8)
        self.bad = dict(source.skipped)
        with ProgressLine(f"checking {name}", count) as line:
            for i, found in enumerate(in_threads(source, self._look)):
                line.at(i)
                if isinstance(found, BadPictureError):
                    self.bad[found.identifier] = found.reason

    def _look(self, i: int, picture: Picture) -> None:
        height, width, channels = picture.shape
        colour = picture if channels == 3 else np.repeat(picture, 3, axis=2)
        digest = hashlib.sha256(f"{height} {width} ".encode() + colour.tobytes())
        self.sizes[i] = height, width
        self.digests[i] = np.frombuffer(digest.digest(), np.uint8)
        self.hashes[i], self.thumbnails[i] = looks(picture)
        self.good[i] = True


@final
class _Pictures:
    """The good pictures of all splits in one row."""

    def __init__(self, sources: Mapping[str, Source], looked: Mapping[str, _Looked]) -> None:
        self._sources = list(sources.items())
        parts = list(looked.values())
        good = [np.flatnonzero(part.good) for part in parts]
        self._part = np.repeat(np.arange(len(parts)), [len(which) for which in good])
        self._index = np.concatenate(good)
        self._hashes = np.concatenate([p.hashes[w] for p, w in zip(parts, good, strict=True)])
        self._thumbnails = np.concatenate(
            [p.thumbnails[w] for p, w in zip(parts, good, strict=True)]
        )
        digests = np.concatenate([p.digests[w] for p, w in zip(parts, good, strict=True)])
        plain = np.ascontiguousarray(digests).view("V32").ravel()
        _, self._first, self._group = np.unique(plain, return_index=True, return_inverse=True)

    def exact(self) -> list[Twice]:
        """Pair each picture with the first of its pixels in each split up to its own."""
        firsts: dict[tuple[int, int], int] = {}
        pairs = []
        repeated = np.bincount(self._group, minlength=len(self._first))[self._group] > 1
        for i in np.flatnonzero(repeated).tolist():
            group = int(self._group[i])
            parts = range(int(self._part[i]) + 1)
            pairs += [(firsts[group, part], i) for part in parts if (group, part) in firsts]
            firsts.setdefault((group, int(self._part[i])), i)
        return list(self._told(np.array(pairs, np.int64).reshape(-1, 2)))

    def near(self) -> list[Twice]:
        """Pair pictures that look alike, one of each of equal pixels and split."""
        key = self._group.astype(np.int64) * len(self._sources) + self._part
        _, kept = np.unique(key, return_index=True)
        pairs = kept[near_pairs(self._hashes[kept], self._thumbnails[kept])]
        differ = self._group[pairs[:, 0]] != self._group[pairs[:, 1]]
        return list(self._told(np.sort(pairs[differ], axis=1)))

    def _told(self, pairs: NDArray[np.int64]) -> Iterator[Twice]:
        for a, (first, _) in enumerate(self._sources):
            for b, (second, _) in enumerate(self._sources[a:], start=a):
                mine = pairs[(self._part[pairs[:, 0]] == a) & (self._part[pairs[:, 1]] == b)]
                if mine.size:
                    names = [(self._name(i), self._name(j)) for i, j in mine.tolist()]
                    yield Twice(first, second, len(np.unique(mine[:, 1])), names)

    def _name(self, i: int) -> str:
        return self._sources[int(self._part[i])][1].identifier(int(self._index[i]))


def _part(source: Source, looked: _Looked) -> Part:
    classes = None
    if source.labels is not None and source.class_names is not None:
        counts = np.bincount(source.labels, minlength=len(source.class_names)).tolist()
        classes = dict(zip(source.class_names, counts, strict=True))
    sides = looked.sizes[looked.good]
    spread = [_spread(sides[:, k]) if len(sides) else None for k in (0, 1)]
    return Part(len(source), source.channels, classes, spread[0], spread[1], looked.bad)


def _spread(values: NDArray[np.int32]) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())


def _part_lines(name: str, part: Part) -> Iterator[str]:
    colour = "grey" if part.channels == 1 else "colour"
    yield f"{name}: {part.count:,} pictures, {colour}" + (
        f", {' x '.join(_range(side) for side in (part.heights, part.widths))} pixels"
        if part.heights
        else ""
    )
    if part.classes:
        counts = part.classes.values()
        yield f"  {len(counts):,} classes of {min(counts):,} to {max(counts):,} pictures"
    if part.bad:
        reasons = Counter(part.bad.values()).most_common(3)
        often = "; ".join(f"{count:,} x {why}" for why, count in reasons)
        yield f"  {len(part.bad):,} bad files, such as ({often}):"
        yield from (f"    {name!r}: {why}" for name, why in [*part.bad.items()][:NUM_SHOWN])


def _range(side: tuple[int, int, int] | None) -> str:
    low, _, high = side or (0, 0, 0)
    return f"{low}" if low == high else f"{low}-{high}"


def _twice_lines(kind: str, twice: Twice) -> Iterator[str]:
    where = (
        f"{twice.pictures:,} pictures of {twice.second} are in {twice.first}, too"
        if twice.first != twice.second
        else f"{twice.pictures:,} pictures of {twice.first} are there already"
    )
    yield f"{kind} pictures: {where}:"
    yield from (f"    {a!r} = {b!r}" for a, b in twice.pairs[:NUM_SHOWN])
