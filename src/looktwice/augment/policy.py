"""Policies: which operations make which view, how numbers are drawn for them, how they apply."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

from looktwice.augment import applying
from looktwice.augment.applying import apply_rows
from looktwice.augment.operations.base import Box, Operation, Whole, check_whole
from looktwice.augment.operations.crop import BOX, CenterCrop, Crop, RandomResizedCrop, Resize
from looktwice.augment.operations.geometry import HorizontalFlip
from looktwice.augment.pictures import Images, Pictures
from looktwice.augment.resample import resample_box
from looktwice.augment.sampling import END, encode, sample_rows, sampler
from looktwice.augment.threads import MAX_THREADS, in_slices, scratch
from looktwice.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from looktwice.augment.transform import Transform

Integers = npt.NDArray[np.integer] | Sequence[int]
Rows = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Views = npt.NDArray[np.uint8]
Out = Views | Sequence[Views] | None
View = tuple[Crop | Operation, ...]

MAX_VIEWS: Final = 255
MAX_OPERATIONS: Final = 255
# About 2 ms of work: shorter calls starve beside a busy interpreter.
_BYTES_PER_SLICE: Final = 400_000
_TOLERANCE: Final = 1e-6


@dataclass(frozen=True)
class _Program:
    """A policy as the kernels read it.

    Attributes:
        steps: int64 (V, steps, 5): kind (see `applying`), slot in the row, where its draws and
            where its constants begin in the parameters, position in the policy's list.
        sizes: int64 (V,), sides of the views.
        operations: those that call a kernel, by number.
        width: length R of a row.
    """

    steps: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    operations: tuple[Operation, ...]
    width: int


@dataclass(frozen=True)
class Policy:
    """The operations of every view, applied in their order; each view begins with a crop.

    A view is a function of policy, seed, epoch, sample index, view index and the picture alone.

    Attributes:
        views: one tuple for each of the V views, 1-255: a crop, then operations.

    Raises:
        UsageError: no view, no crop at the start of one, or another crop later.
    """

    views: tuple[View, ...]

    def __post_init__(self) -> None:
        _check_views(self.views)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the operations alone: what was compiled for them stays in its process."""
        return type(self), (self.views,)

    def __str__(self) -> str:
        """Return one line for each operation, equal views once."""
        lines = []
        for view in dict.fromkeys(self.views):
            count = self.views.count(view)
            side = f"{_crop(view).size} px"
            lines.append(f"{count} views of {side}:" if count > 1 else f"1 view of {side}:")
            for step in view:
                fields = (
                    (f.name, getattr(step, f.name)) for f in dataclasses.fields(cast(Any, step))
                )
                given = ", ".join(f"{name}={_short(value)}" for name, value in fields)
                lines.append(f"  {step.name}({given})")
        return "\n".join(lines)

    @property
    def num_views(self) -> int:
        """Number of views V."""
        return len(self.views)

    @property
    def size(self) -> int:
        """Side of the first view in pixels."""
        return _crop(self.views[0]).size

    @cached_property
    def groups(self) -> dict[int, tuple[int, ...]]:
        """Which views have which side, in the order of the sides' first views."""
        sizes = [_crop(view).size for view in self.views]
        return {
            size: tuple(v for v, other in enumerate(sizes) if other == size)
            for size in dict.fromkeys(sizes)
        }

    def check_channels(self, channels: int) -> None:
        """Refuse pictures of one channel where an operation needs colours (UsageError)."""
        for v, view in enumerate(self.views):
            for step in view[1:]:
                if channels != 3 and isinstance(step, Operation) and step.colour_only:
                    raise UsageError(
                        f"Policy: {step.name} in view {v} needs pictures of 3 channels, found "
                        f"{channels}; leave it out with .without({step.name!r})"
                    )

    def replace(self, name: str, **fields: object) -> Policy:
        """Return a policy with other values of the operations of some name, in every view.

        Raises:
            UsageError: no such operation, no such field, or a value out of its range.
        """
        self._check_names(name)
        return self._map(
            lambda view: tuple(_replaced(o, fields) if o.name == name else o for o in view)
        )

    def without(self, *names: str) -> Policy:
        """Return a policy without the operations of some names (UsageError: none, or a crop)."""
        self._check_names(*names)
        if any(_crop(view).name in names for view in self.views):
            raise UsageError("Policy: a view needs its crop; change it with .replace")
        return self._map(lambda view: view[:1] + tuple(o for o in view[1:] if o.name not in names))

    def only(self, *names: str) -> Policy:
        """Return a policy of the crop and the operations of some names (UsageError: none)."""
        self._check_names(*names)
        return self._map(lambda view: view[:1] + tuple(o for o in view[1:] if o.name in names))

    def then(self, *operations: Operation) -> Policy:
        """Return a policy that applies some operations after all others, in every view."""
        return self._map(lambda view: (*view, *operations))

    def transform(self, *, scale: bool = True) -> Transform:
        """Return a transform of one picture, for torchvision's data sets and torch's DataLoader.

        Args:
            scale: whether its tensors are float32 in [0, 1], or uint8.
        """
        from looktwice.augment.transform import Transform

        return Transform(self, scale)

    def _map(self, change: Callable[[View], View]) -> Policy:
        return Policy(tuple(change(view) for view in self.views))

    def _check_names(self, *names: str) -> None:
        known = {step.name for view in self.views for step in view}
        for name in names:
            if name not in known:
                raise UsageError(
                    f"Policy: no operation is called {name!r}; there are "
                    f"{', '.join(sorted(known))}.{did_you_mean(str(name), known)}"
                )

    @cached_property
    def _slots(self) -> tuple[tuple[int, ...], ...]:
        """Where each operation's numbers begin in a row, by view."""
        starts = []
        for view in self.views:
            ends = np.cumsum([1 + len(_names(step)) for step in view])
            starts.append((0, *ends.tolist()))
        return tuple(starts)

    @cached_property
    def _program(self) -> _Program:
        longest = max(len(view) for view in self.views) + 1
        steps = np.full((self.num_views, longest, 5), END, np.int64)
        operations: list[Operation] = []
        start = 0
        for v, view in enumerate(self.views):
            for step, position in enumerate(_flip_first(view)):
                operation = view[position]
                draws, constants = _encode(operation, _crop(view).size, 0)
                if not isinstance(operation, Operation):
                    kind = applying.CROP
                elif step == 1 and isinstance(operation, HorizontalFlip):
                    kind = applying.FLIP
                else:
                    operations.append(operation)
                    kind = applying.CROP + len(operations)
                slot = self._slots[v][position]
                steps[v, step] = kind, slot, start, start + len(draws), position
                start += len(draws) + len(constants)
        sizes = np.array([_crop(view).size for view in self.views])
        width = max(starts[-1] for starts in self._slots)
        return _Program(steps, sizes, tuple(operations), width)

    @cached_property
    def _kernels(self) -> npt.NDArray[np.uintp]:
        """Where the compiled crop begins, then the operations'."""
        kernels = [resample_box, *(operation.kernel for operation in self._program.operations)]
        return np.array([kernel.address for kernel in kernels], np.uintp)

    @cached_property
    def _constants(self) -> npt.NDArray[np.float64]:
        """The parameters for `apply`, which reads what no epoch changes."""
        return self._encoded(0)

    def _parameters(self, epoch: int) -> npt.NDArray[np.float64]:
        """Return an epoch's parameters, kept until another one is asked for."""
        kept: tuple[int, npt.NDArray[np.float64]] | None = self.__dict__.get("_kept")
        if kept is None or kept[0] != epoch:
            kept = self.__dict__["_kept"] = epoch, self._encoded(epoch)
        return kept[1]

    def _encoded(self, epoch: int) -> npt.NDArray[np.float64]:
        """Return draws and constants of all operations, one after the other."""
        values: list[float] = []
        for view in self.views:
            for position in _flip_first(view):
                for part in _encode(view[position], _crop(view).size, epoch):
                    values += part
        return np.array(values, np.float64)

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
        keys = _whole("indices", indices, 0)
        sides = _whole("heights", heights, 1), _whole("widths", widths, 1)
        if not keys.shape == sides[0].shape == sides[1].shape:
            raise UsageError(
                f"Policy.sample: indices, heights and widths must be equally long, found "
                f"{keys.size}, {sides[0].size} and {sides[1].size}"
            )
        rows = np.empty((keys.size, self.num_views, self._program.width), np.float64)
        sample_rows(sampler.address, self._sampling(seed, epoch, keys, *sides, rows))
        return rows

    def _sampling(
        self, seed: int, epoch: int, keys: Longs, heights: Longs, widths: Longs, rows: Rows
    ) -> tuple[Any, ...]:
        """Return the arguments of `sampler`."""
        _check_key("seed", seed, 64)
        _check_key("epoch", epoch, 32)
        program, parameters = self._program, self._parameters(int(epoch))
        return (
            program.steps, program.sizes, parameters, np.uint64(seed), np.uint64(epoch), keys,
            heights, widths, rows,
        )  # fmt: skip

    def apply(
        self, images: Images, rows: Rows, *, out: Out = None, threads: int = 1
    ) -> Views | tuple[Views, ...]:
        """Make the views that `rows` describe.

        Args:
            images: uint8 (N, H, W, C), or a sequence of N uint8 arrays (h, w, C) of any sizes;
                C is 1 or 3. Contiguous pictures are read where they are.
            rows: float64 (N, V, R) from `sample`, for pictures of these sizes.
            out: what is returned, contiguous, to write into; None makes new arrays.
            threads: number of threads, which changes nothing but the time.

        Returns:
            uint8 views (N, V, S, S, C); of a policy with several sizes a tuple of such arrays,
            one for each size in the order of `groups`.

        Raises:
            UsageError: pictures, rows or `out` of another shape or dtype than described, or
                pictures of one channel where an operation needs colours.
        """
        pictures = Pictures(images)
        rows = np.ascontiguousarray(rows, np.float64)
        self._check_rows(rows, pictures)
        results = self._results(pictures, out)

        def run(part: slice) -> None:
            heights, widths = pictures.heights[part], pictures.widths[part]
            sampling = self._sampling(0, 0, heights, heights, widths, rows[part])
            self._apply(0, sampling, pictures, results, part)

        self._in_slices(run, results, threads)
        return results[0] if len(results) == 1 else results

    def __call__(
        self,
        images: Images,
        *,
        seed: int,
        epoch: int,
        indices: Integers,
        threads: int = 1,
        out: Out = None,
    ) -> Views | tuple[Views, ...]:
        """Sample and apply: uint8 views (N, V, S, S, C); see `sample` and `apply`."""
        pictures = Pictures(images)
        keys = _whole("indices", indices, 0)
        if keys.size != len(pictures):
            raise UsageError(f"Policy: {len(pictures)} pictures, but {keys.size} indices")
        results = self._results(pictures, out)

        def run(part: slice) -> None:
            heights, widths = pictures.heights[part], pictures.widths[part]
            rows = scratch.rows(len(heights), self.num_views, self._program.width)
            sampling = self._sampling(seed, epoch, keys[part], heights, widths, rows)
            self._apply(sampler.address, sampling, pictures, results, part)

        self._in_slices(run, results, threads)
        return results[0] if len(results) == 1 else results

    def describe(self, row: Rows, view: int) -> list[tuple[str, dict[str, float]]]:
        """Return the operations that a row (R,) applies to a view, each with its numbers."""
        applied = []
        for step, slot in zip(self.views[view], self._slots[view], strict=False):
            if row[slot] != 0.0:
                names = _names(step)
                values = row[slot + 1 : slot + 1 + len(names)].tolist()
                drawn = dict(zip(names, values, strict=True))
                told = step.describe(drawn) if isinstance(step, Operation) else drawn
                applied.append((step.name, told))
        return applied

    def crop_box(self, row: Rows) -> tuple[float, float, float, float]:
        """Return (top, left, height, width) of the crop in pixels of the picture, from a row."""
        top, left, height, width = row[1:5].tolist()
        return top, left, height, width

    def smallest_eighths(self, rows: Rows) -> Longs:
        """Return how small pictures may be for the views of some rows, in eighths of their size.

        Args:
            rows: float64 (N, V, R) from `sample`.

        Returns:
            int64 (N,): for each picture the smallest k of 1-8 at which no box, k / 8 of its size,
            is smaller than its view in either direction; 8 when one is smaller as it is.
        """
        sides = self._program.sizes[:, None] - _TOLERANCE
        needed: Rows = np.ceil(8.0 * sides / rows[:, :, 3:5]).max(axis=(1, 2))
        return np.minimum(needed, 8.0).astype(np.int64)

    def rescale(self, rows: Rows, eighths: Integers, origins: Rows) -> Rows:
        """Return rows for smaller versions of the pictures.

        Args:
            rows: float64 (N, V, R) from `sample`.
            eighths: sizes of the versions (N,), in eighths of the pictures'.
            origins: float64 (N, 2), row and column of the version at which the picture begins.

        Returns:
            float64 (N, V, R), whose boxes lie in the versions; nothing else is changed.
        """
        rescaled = rows.copy()
        rescaled[:, :, 1:5] *= np.asarray(eighths)[:, None, None] / 8.0
        rescaled[:, :, 1:3] += origins[:, None, :]
        return rescaled

    def _results(self, pictures: Pictures, out: Out) -> tuple[Views, ...]:
        """Return the arrays to write into, one for each size."""
        self.check_channels(pictures.channels)
        shapes = [
            (len(pictures), len(views), size, size, pictures.channels)
            for size, views in self.groups.items()
        ]
        if out is None:
            return tuple(np.empty(shape, np.uint8) for shape in shapes)
        given = (out,) if isinstance(out, np.ndarray) else tuple(out)
        if len(given) != len(shapes):
            raise UsageError(f"Policy: out must be {len(shapes)} arrays, found {len(given)}")
        return tuple(_checked_out(array, shape) for array, shape in zip(given, shapes, strict=True))

    def _in_slices(
        self, run: Callable[[slice], None], results: tuple[Views, ...], threads: int
    ) -> None:
        check_whole("Policy", "threads", threads, 1, MAX_THREADS)
        nbytes = sum(result.nbytes for result in results)
        in_slices(run, len(results[0]), min(threads, 1 + nbytes // _BYTES_PER_SLICE))

    def _apply(
        self,
        sampler: int,
        sampling: tuple[Any, ...],
        pictures: Pictures,
        results: tuple[Views, ...],
        part: slice,
    ) -> None:
        """Make the views of some pictures in this thread's memory, from rows drawn here or given.

        Args:
            sampler: address of what draws them; 0 when they are given.
            sampling: its arguments, rows included.
            pictures: all of them.
            results: arrays to write into, one for each size.
            part: which pictures these are.
        """
        operations, channels = self._program.operations, pictures.channels
        tallest, widest = int(pictures.heights[part].max()), int(pictures.widths[part].max())
        for (size, views), result in zip(self.groups.items(), results, strict=True):
            room = max((o.room(size, channels) for o in operations), default=0)
            apply_rows(
                sampler, sampling, np.array(views), self._constants, self._kernels,
                pictures.addresses[part], scratch.tables(size, channels, tallest, widest),
                scratch.planes(size, channels), scratch.room(room), result[part],
            )  # fmt: skip
            sampler = 0

    def _check_rows(self, rows: Rows, pictures: Pictures) -> None:
        """Refuse rows that would make the kernels read outside of pictures or tables."""
        shape = (len(pictures), self.num_views, self._program.width)
        if rows.shape != shape:
            raise UsageError(f"Policy.apply: rows must be (N, V, R) = {shape}, found {rows.shape}")
        top, left, height, width = np.moveaxis(rows[:, :, 1:5], 2, 0)
        fits = (
            (top >= 0) & (height > 0) & (top + height <= pictures.heights[:, None] + _TOLERANCE)
            & (left >= 0) & (width > 0) & (left + width <= pictures.widths[:, None] + _TOLERANCE)
            & np.isfinite(rows).all(axis=2)
        )  # fmt: skip
        for v, view in enumerate(self.views):
            for step, slot in zip(view[1:], self._slots[v][1:], strict=False):
                numbers = np.moveaxis(rows[:, v, slot + 1 :], 1, 0)
                fits[:, v] &= (rows[:, v, slot] == 0.0) | _within(step, _crop(view).size, numbers)
        if not fits.all():
            raise UsageError(
                f"Policy.apply: row {int(np.argmin(fits.all(axis=1)))} does not fit its picture; "
                "apply rows to pictures of the sizes they were sampled for"
            )


def _crop(view: View) -> Crop:
    crop = view[0]
    assert not isinstance(crop, Operation)
    return crop


def _names(step: Crop | Operation) -> tuple[str, ...]:
    """Return what a row holds for a step, after whether it was applied."""
    if not isinstance(step, Operation):
        return BOX
    names: list[str] = []
    for name, draw in step.draws(1, 0).items():
        names += BOX if isinstance(draw, Box) else (name,)
    return tuple(names)


def _encode(step: Crop | Operation, size: int, epoch: int) -> tuple[list[float], list[float]]:
    """Return a step's probability and draws, and its constants, as the kernels read them."""
    if not isinstance(step, Operation):
        return [], list(step.constants())
    return [step.p, *encode(step.draws(size, epoch).values())], list(step.constants(size))


def _within(step: Crop | Operation, size: int, numbers: Rows) -> npt.NDArray[np.bool_]:
    """Tell which numbers (of a step, N) index nothing outside of what a step may draw."""
    assert isinstance(step, Operation)
    inside = np.ones(numbers.shape[1], np.bool_)
    place = 0
    for draw in step.draws(size, 0).values():
        if isinstance(draw, Box):
            top, left, height, width = numbers[place : place + 4]
            inside &= (numbers[place : place + 4] >= 0).all(axis=0)
            inside &= (top + height <= size) & (left + width <= size)
            place += 4
            continue
        if isinstance(draw, Whole):
            inside &= (numbers[place] >= draw.low) & (numbers[place] < draw.high)
        place += 1
    return inside


def _fields(step: Crop | Operation) -> dict[str, object]:
    return {f.name: getattr(step, f.name) for f in dataclasses.fields(cast(Any, step))}


def _replaced(step: Crop | Operation, fields: dict[str, object]) -> Crop | Operation:
    known = _fields(step)
    for name in fields:
        if name not in known:
            raise UsageError(
                f"Policy: {step.name} has no {name!r}; it has {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
    replaced: Crop | Operation = dataclasses.replace(cast(Any, step), **fields)
    return replaced


def _short(value: object) -> str:
    """Return a value as one reads it, numbers to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return repr(value)


def _check_views(views: tuple[View, ...]) -> None:
    if not isinstance(views, tuple) or not 1 <= len(views) <= MAX_VIEWS:
        raise UsageError(f"Policy: views must be a tuple of 1 to {MAX_VIEWS} views")
    for v, view in enumerate(views):
        if not isinstance(view, tuple) or not 1 <= len(view) <= MAX_OPERATIONS:
            raise UsageError(
                f"Policy: view {v} must be a tuple of 1 to {MAX_OPERATIONS} operations"
            )
        for step in view:
            if not isinstance(step, (Operation, RandomResizedCrop, CenterCrop, Resize)):
                raise UsageError(f"Policy: view {v} holds {step!r}, which is no operation")
            if isinstance(step, Operation) and _num_boxes(step) > 1:
                raise UsageError(
                    f"Policy: view {v}: {step.name!r} draws two boxes; one can be drawn"
                )
        if [isinstance(step, Operation) for step in view] != [False] + [True] * (len(view) - 1):
            raise UsageError(
                f"Policy: view {v} must begin with its only crop (RandomResizedCrop, CenterCrop "
                f"or Resize), found {', '.join(type(o).__name__ for o in view)}"
            )


def _num_boxes(step: Operation) -> int:
    return sum(isinstance(draw, Box) for draw in step.draws(1, 0).values())


def _flip_first(view: View) -> list[int]:
    """Return the positions of a view's steps, its first flip moved next to the crop.

    There a flip costs nothing. It stays where it is behind a step with which it does not commute.
    """
    positions = list(range(len(view)))
    for position, step in enumerate(view[1:], start=1):
        if isinstance(step, HorizontalFlip):
            positions.remove(position)
            positions.insert(1, position)
            break
        if isinstance(step, Operation) and not step.mirrors:
            break
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
