"""Policies: which operations make which view, how numbers are drawn for them, how they apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from looktwice.augment.operations import (
    HorizontalFlip,
    Operation,
    RandomResizedCrop,
    check_whole,
)
from looktwice.augment.pictures import Images, Pictures
from looktwice.errors import UsageError

Integers = npt.NDArray[np.integer] | Sequence[int]
Rows = npt.NDArray[np.float64]
Views = npt.NDArray[np.uint8]

MAX_VIEWS: Final = 255
MAX_OPERATIONS: Final = 255
# About 2 ms of work: shorter calls starve beside a busy interpreter.
_BYTES_PER_SLICE: Final = 400_000


@dataclass(frozen=True)
class _Program:
    """A policy as the kernels read it.

    Attributes:
        steps: int64 (V, steps, 4): code, slot in the row, place in `parameters`, position in
            the policy's list. Code 0 ends a view.
        parameters: float64, the parameters of all operations, one after the other.
        width: length R of a row.
    """

    steps: npt.NDArray[np.int64]
    parameters: npt.NDArray[np.float64]
    width: int


@dataclass(frozen=True)
class Policy:
    """The operations of every view; each view begins with a `RandomResizedCrop`.

    A view is a function of policy, seed, epoch, sample index, view index and the picture alone.

    Attributes:
        views: one tuple of operations for each of the V views, 1-255, applied in their order.

    Raises:
        UsageError: no view, no crop at the start of one, another crop later, or unequal sizes.
    """

    views: tuple[tuple[Operation, ...], ...]

    def __post_init__(self) -> None:
        _check_views(self.views)

    @property
    def num_views(self) -> int:
        """Number of views V."""
        return len(self.views)

    @property
    def size(self) -> int:
        """Side S of the square views, in pixels."""
        return _crop(self.views[0]).size

    @cached_property
    def _slots(self) -> tuple[tuple[int, ...], ...]:
        """Where each operation's numbers begin in a row, by view."""
        starts = []
        for view in self.views:
            ends = np.cumsum([1 + len(operation.numbers) for operation in view])
            starts.append((0, *ends.tolist()))
        return tuple(starts)

    @cached_property
    def _program(self) -> _Program:
        longest = max(len(view) for view in self.views) + 1
        parameters: list[float] = []
        steps = np.zeros((self.num_views, longest, 4), np.int64)
        for v, view in enumerate(self.views):
            for step, position in enumerate(_flip_first(view)):
                operation = view[position]
                slot = self._slots[v][position]
                steps[v, step] = operation.code, slot, len(parameters), position
                parameters += operation.parameters(self.size)
        width = max(starts[-1] for starts in self._slots)
        return _Program(steps, np.array(parameters, np.float64), width)

    def sample(
        self, *, seed: int, epoch: int, indices: Integers, heights: Integers, widths: Integers
    ) -> Rows:
        """Draw the numbers of every view.

        Args:
            seed: 0 to 2^64 - 1.
            epoch: 0 to 2^32 - 1.
            indices: sample indices (N,), not negative.
            heights: heights of the pictures in pixels (N,).
            widths: widths of the pictures in pixels (N,).

        Returns:
            float64 rows (N, V, R); `describe` reads them.

        Raises:
            UsageError: a value out of its range, or unequal lengths.
        """
        from looktwice.augment.sampling import sample_rows

        _check_key("seed", seed, 64)
        _check_key("epoch", epoch, 32)
        keys = _whole("indices", indices, 0)
        sides = _whole("heights", heights, 1), _whole("widths", widths, 1)
        if not keys.shape == sides[0].shape == sides[1].shape:
            raise UsageError(
                f"Policy.sample: indices, heights and widths must be equally long, found "
                f"{keys.size}, {sides[0].size} and {sides[1].size}"
            )
        program = self._program
        rows = np.zeros((keys.size, self.num_views, program.width), np.float64)
        sample_rows(
            program.steps, program.parameters, np.uint64(seed), np.uint64(epoch), keys, *sides, rows
        )
        return rows

    def apply(
        self, images: Images, rows: Rows, *, out: Views | None = None, threads: int = 1
    ) -> Views:
        """Make the views that `rows` describe.

        Args:
            images: uint8 (N, H, W, C), or a sequence of N uint8 arrays (h, w, C) of any sizes;
                C is 1 or 3. Contiguous pictures are read where they are.
            rows: float64 (N, V, R) from `sample`, for pictures of these sizes.
            out: uint8 (N, V, S, S, C), contiguous, to write into; None makes a new array.
            threads: number of threads, which changes nothing but the time.

        Returns:
            uint8 views (N, V, S, S, C).

        Raises:
            UsageError: pictures, rows or `out` of another shape or dtype than described.
        """
        return self._apply(Pictures(images), rows, out, threads)

    def __call__(
        self,
        images: Images,
        *,
        seed: int,
        epoch: int,
        indices: Integers,
        threads: int = 1,
        out: Views | None = None,
    ) -> Views:
        """Sample and apply: uint8 views (N, V, S, S, C); see `sample` and `apply`."""
        pictures = Pictures(images)
        rows = self.sample(
            seed=seed,
            epoch=epoch,
            indices=indices,
            heights=pictures.heights,
            widths=pictures.widths,
        )
        return self._apply(pictures, rows, out, threads)

    def describe(self, row: Rows, view: int) -> list[tuple[str, dict[str, float]]]:
        """Return the operations that a row (R,) applies to a view, each with its numbers."""
        applied = []
        for operation, slot in zip(self.views[view], self._slots[view], strict=False):
            if row[slot] != 0.0:
                values = row[slot + 1 : slot + 1 + len(operation.numbers)].tolist()
                drawn = dict(zip(operation.numbers, values, strict=True))
                applied.append((type(operation).__name__, operation.describe(drawn)))
        return applied

    def crop_box(self, row: Rows, view: int) -> tuple[int, int, int, int]:
        """Return (top, left, height, width) of a view's crop in source pixels, from a row (R,)."""
        top, left, height, width = row[self._slots[view][0] + 1 :][:4].astype(np.int64).tolist()
        return top, left, height, width

    def _apply(self, pictures: Pictures, rows: Rows, out: Views | None, threads: int) -> Views:
        from looktwice.augment.kernels import apply_rows, scratch

        check_whole("Policy", "threads", threads, 1, 1024)
        rows = np.ascontiguousarray(rows, np.float64)
        self._check_rows(rows, pictures)
        shape = (len(pictures), self.num_views, self.size, self.size, pictures.channels)
        result = np.empty(shape, np.uint8) if out is None else _checked_out(out, shape)
        steps, parameters = self._program.steps, self._program.parameters

        def run(part: slice) -> None:
            heights, widths = pictures.heights[part], pictures.widths[part]
            room = scratch(self.size, pictures.channels, int(heights.max()), int(widths.max()))
            apply_rows(
                steps, parameters, rows[part], pictures.addresses[part], heights, widths, room,
                result[part],
            )  # fmt: skip

        _in_slices(run, len(pictures), min(threads, 1 + result.nbytes // _BYTES_PER_SLICE))
        return result

    def _check_rows(self, rows: Rows, pictures: Pictures) -> None:
        """Refuse rows that would make the kernel read outside of the pictures."""
        shape = (len(pictures), self.num_views, self._program.width)
        if rows.shape != shape:
            raise UsageError(f"Policy.apply: rows must be (N, V, R) = {shape}, found {rows.shape}")
        top, left, height, width = np.moveaxis(rows[:, :, 1:5], 2, 0)
        fits = (
            (top >= 0) & (height >= 1) & (top + height <= pictures.heights[:, None])
            & (left >= 0) & (width >= 1) & (left + width <= pictures.widths[:, None])
            & np.isfinite(rows).all(axis=2)
        )  # fmt: skip
        if not fits.all():
            raise UsageError(
                f"Policy.apply: row {int(np.argmin(fits.all(axis=1)))} does not fit its picture; "
                "apply rows to pictures of the sizes they were sampled for"
            )


def _crop(view: tuple[Operation, ...]) -> RandomResizedCrop:
    crop = view[0]
    assert isinstance(crop, RandomResizedCrop)
    return crop


def _check_views(views: tuple[tuple[Operation, ...], ...]) -> None:
    if not isinstance(views, tuple) or not 1 <= len(views) <= MAX_VIEWS:
        raise UsageError(f"Policy: views must be a tuple of 1 to {MAX_VIEWS} views")
    for v, view in enumerate(views):
        if not isinstance(view, tuple) or not 1 <= len(view) <= MAX_OPERATIONS:
            raise UsageError(
                f"Policy: view {v} must be a tuple of 1 to {MAX_OPERATIONS} operations"
            )
        for operation in view:
            if not isinstance(operation, Operation):
                raise UsageError(f"Policy: view {v} holds {operation!r}, which is no operation")
        if [isinstance(o, RandomResizedCrop) for o in view] != [True] + [False] * (len(view) - 1):
            raise UsageError(
                f"Policy: view {v} must begin with its only RandomResizedCrop, found "
                f"{', '.join(type(o).__name__ for o in view)}"
            )
    sizes = [_crop(view).size for view in views]
    if len(set(sizes)) > 1:
        raise UsageError(f"Policy: all views must have one size, found {sizes}")


def _flip_first(view: tuple[Operation, ...]) -> list[int]:
    """Return the positions of a view's operations, its first flip moved next to the crop.

    Every operation so far commutes with mirroring, and next to the crop a flip costs nothing.
    """
    positions = list(range(len(view)))
    flips = [p for p in positions if isinstance(view[p], HorizontalFlip)]
    if flips:
        positions.remove(flips[0])
        positions.insert(1, flips[0])
    return positions


def _check_key(name: str, value: int, bits: int) -> None:
    if not isinstance(value, (int, np.integer)) or not 0 <= value < 1 << bits:
        raise UsageError(
            f"Policy.sample: {name} must be a whole number from 0 to 2^{bits} - 1, found {value!r}"
        )


def _whole(name: str, values: Integers, low: int) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise UsageError(f"Policy.sample: {name} must be whole numbers (N,), found {values!r}")
    if array.size and array.min() < low:
        raise UsageError(f"Policy.sample: {name} must be at least {low}, found {array.min()}")
    return np.ascontiguousarray(array, np.int64)


def _checked_out(out: Views, shape: tuple[int, ...]) -> Views:
    if (
        not isinstance(out, np.ndarray)
        or out.dtype != np.uint8
        or out.shape != shape
        or not (out.flags.c_contiguous and out.flags.writeable)
    ):
        found = f"{getattr(out, 'dtype', type(out).__name__)} {getattr(out, 'shape', '')}".strip()
        raise UsageError(
            f"Policy.apply: out must be a contiguous, writable uint8 array {shape}, found {found}"
        )
    return out


def _in_slices(run: Callable[[slice], None], count: int, slices: int) -> None:
    """Call `run` on contiguous slices of `count` pictures, the first one in this thread."""
    bounds = np.linspace(0, count, slices + 1).astype(np.int64).tolist()
    parts = [slice(a, b) for a, b in pairwise(bounds) if a < b]
    if len(parts) < 2:
        for part in parts:
            run(part)
        return
    with ThreadPoolExecutor(len(parts) - 1) as pool:
        others = [pool.submit(run, part) for part in parts[1:]]
        run(parts[0])
        for other in others:
            other.result()
