"""Batches of views, made in threads a few steps ahead of the trainer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from looktwice.augment import Policy
from looktwice.data.decoding import Decoded, Encoded, Picture, Whole
from looktwice.data.shuffle import permute
from looktwice.data.sources import Source
from looktwice.errors import BadPictureError, DataError, UsageError

Views = NDArray[np.uint8]
_Readable = TypeVar("_Readable", Picture, Encoded)

NUM_EXAMPLES = 3
"""Bad pictures named when there are too many."""

MAX_HELD = 1 << 26
"""Bytes of pictures, decoded in full, at which a thread makes their views before it reads on."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One global batch, or a process's share of it.

    It is valid until the next one is requested, since its buffers are used again.

    Attributes:
        step: global step, from 0.
        epoch: pass through the source, from 0.
        indices: int64 (B,), samples whose turn it is: the keys of the views.
        shown: int64 (B,), samples whose views these are: `indices`, but for bad pictures.
        views: uint8 (B, views, S, S, C), one array for each size of views, in the order of
            `Policy.groups`.
    """

    step: int
    epoch: int
    indices: NDArray[np.int64]
    shown: NDArray[np.int64]
    views: tuple[Views, ...]


@dataclass(frozen=True, slots=True)
class BadPicture:
    """A picture that could not be decoded.

    Attributes:
        identifier: path or name within its source.
        reason: what the decoder found, one line.
    """

    identifier: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Task:
    """A batch in the making: whose views, where they go, what was bad, whether nobody waits."""

    epoch: int
    indices: NDArray[np.int64]
    shown: NDArray[np.int64]
    views: tuple[Views, ...]
    bad: dict[int, BadPicture]
    stopped: Callable[[], bool]


class _Stopped(Exception):  # noqa: N818
    """Nobody wants the batch any more; no consumer sees this."""


class _TooMany(Exception):  # noqa: N818
    """One batch met more bad pictures than the source may have; the consumer counts them."""

    def __init__(self, bad: dict[int, BadPicture]) -> None:
        self.bad = bad
        super().__init__()


class Loader:
    """Global batches of views, each a pure function of (source, policy, seed, step).

    Batch *t* of epoch *e* holds positions t·B … (t+1)·B of the permutation keyed by (seed, e);
    the last, partial batch of an epoch is dropped. A picture that cannot be decoded is replaced
    by the next good one in the order of the source; the key of the view stays the first's.

    A JPEG is decoded once for all its views. With `scaled_decoding` that is done at the smallest
    of libjpeg's scales that pay (`decoding.FAST_EIGHTHS`) at which each crop still has the pixels
    of its view; the crops, which are drawn first, stay the same.

    Args:
        source: the pictures.
        policy: makes the views.
        batch_size: global batch size B.
        seed: of the order and of the views, 0 to 2^64 - 1.
        threads: batches worked on at once; 0 makes each in the caller when it is asked for.
        max_bad: share of the source that may be bad before the loader gives up, 0 to 1; with a
            `share` below, `add_bad` gives up, since others load the rest.
        scaled_decoding: whether JPEGs are decoded no larger than the views need.
        share: which of a batch's B pictures this process loads; all by default.
        depth: buffers, that is batches made or in the making, the consumer's included; at
            least threads + 1 are kept.

    Attributes:
        steps_per_epoch: whole batches in an epoch.
        waited_seconds: time that consumers spent waiting for batches so far.
        bad_pictures: what was bad so far, by sample index; the same for every `threads`.
        skipped: as `Source.skipped`.

    Raises:
        UsageError: an argument out of range, or a batch larger than the source.
    """

    def __init__(
        self,
        source: Source,
        policy: Policy,
        *,
        batch_size: int,
        seed: int,
        threads: int,
        max_bad: float = 0.01,
        scaled_decoding: bool = True,
        share: slice | None = None,
        depth: int = 3,
    ) -> None:
        _check(
            source, batch_size=batch_size, seed=seed, threads=threads, max_bad=max_bad, depth=depth
        )
        self.steps_per_epoch = len(source) // batch_size
        self.waited_seconds = 0.0
        self.bad_pictures: dict[int, BadPicture] = {}
        self.skipped = source.skipped
        self._source = source
        self._policy = policy
        self._batch_size = batch_size
        self._share = range(batch_size)[share or slice(None)]
        self._seed = seed
        self._threads = threads
        self._max_bad = max_bad
        self._scaled_decoding = scaled_decoding
        self._num_buffers = max(depth, threads + 1) if threads else 1

    def batches(
        self, start_step: int, stop_step: int, stopped: Callable[[], bool] = lambda: False
    ) -> Generator[Batch]:
        """Yield the batches of the steps start_step … stop_step - 1, across epochs.

        Close the iterator (`contextlib.closing`) when leaving early: that ends its threads.

        Args:
            start_step: the first one's step.
            stop_step: the step after the last one's.
            stopped: asked at every picture: no further batch is yielded once it is true, so that
                nobody waits for pictures that are not wanted.

        Raises:
            UsageError: steps that are no range.
            DataError: too many bad pictures; at the same step for every `threads`.
        """
        if not 0 <= start_step <= stop_step:
            raise UsageError(f"steps {start_step} to {stop_step} are not a range from 0 upwards")
        make = self._ahead if self._threads else self._one_by_one
        return self._until_stopped(make(range(start_step, stop_step), stopped))

    def _until_stopped(self, batches: Generator[Batch]) -> Generator[Batch]:
        with contextlib.suppress(_Stopped), contextlib.closing(batches):
            try:
                yield from batches
            except _TooMany as error:
                self.add_bad(error.bad)

    def _one_by_one(self, steps: range, stopped: Callable[[], bool]) -> Generator[Batch]:
        views = self._new_views()
        for step in steps:
            began = time.perf_counter()
            made = self._make(step, views, stopped)
            self.waited_seconds += time.perf_counter() - began
            yield self._accept(*made)

    def _ahead(self, steps: range, stopped: Callable[[], bool]) -> Generator[Batch]:
        buffers = [self._new_views() for _ in range(min(self._num_buffers, len(steps)))]
        closed = threading.Event()

        def no_more() -> bool:
            return closed.is_set() or stopped()

        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="looktwice-loader")
        try:
            tasks = (
                pool.submit(self._make, step, buffers[i % len(buffers)], no_more)
                for i, step in enumerate(steps)
            )
            pending = deque(islice(tasks, len(buffers)))
            while pending:
                began = time.perf_counter()
                made = pending.popleft().result()
                self.waited_seconds += time.perf_counter() - began
                yield self._accept(*made)
                pending.extend(islice(tasks, 1))
        finally:
            closed.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _new_views(self) -> tuple[Views, ...]:
        return tuple(
            np.empty((len(self._share), len(views), side, side, self._source.channels), np.uint8)
            for side, views in self._policy.groups.items()
        )

    def _make(
        self, step: int, views: tuple[Views, ...], stopped: Callable[[], bool]
    ) -> tuple[Batch, dict[int, BadPicture]]:
        """Make the views of a step in their buffers, with the bad pictures met on the way."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        positions = batch * self._batch_size + np.array(self._share)
        indices = permute(len(self._source), self._seed, epoch, positions)
        task = _Task(epoch, indices, indices.copy(), views, {}, stopped)
        if self._scaled_decoding and self._source.is_encoded:
            self._fill(task, self._source.encoded, self._decode_and_apply)
        else:
            self._fill(task, self._source.image, self._apply)
        return Batch(step, epoch, indices, task.shown, views), task.bad

    def _fill(
        self,
        task: _Task,
        read: Callable[[int], _Readable],
        make_views: Callable[[_Task, slice, list[_Readable]], None],
    ) -> None:
        """Read the pictures of a task and make their views, no more at once than may be held.

        A batch of photographs would fill the memory; views do not depend on the layout.
        """
        pictures: list[_Readable] = []
        held = done = 0
        for position in range(1, len(task.indices) + 1):
            pictures.append(self._first_good(position - 1, read, task))
            held += pictures[-1].nbytes
            if held > MAX_HELD or position == len(task.indices):
                make_views(task, slice(done, position), pictures)
                pictures, held, done = [], 0, position

    def _apply(self, task: _Task, part: slice, pictures: list[Picture]) -> None:
        """Make the views of a part of a task from its pictures."""
        self._policy(
            pictures,
            seed=self._seed,
            epoch=task.epoch,
            indices=task.indices[part],
            threads=1,
            out=tuple(views[part] for views in task.views),
        )

    def _decode_and_apply(self, task: _Task, part: slice, pictures: list[Encoded]) -> None:
        """Make the views of a part of a task, its pictures decoded as small as that allows.

        One that turns out to be damaged is looked for again, whole, as without scaling.
        """
        keys = task.indices[part]
        rows = self._sample(task, keys, pictures)
        decoded: list[Decoded] = []
        for n, eighths in enumerate(self._policy.smallest_eighths(rows).tolist()):
            if task.stopped():
                raise _Stopped
            try:
                decoded.append(pictures[n].decode(eighths))
            except ValueError:
                whole = Whole(self._first_good(part.start + n, self._source.image, task))
                rows[n] = self._sample(task, keys[n : n + 1], [whole])[0]
                decoded.append(whole.decode())
        self._policy.apply(
            [one.pixels for one in decoded],
            self._policy.rescale(
                rows,
                [one.eighths for one in decoded],
                np.array([(one.top, one.left) for one in decoded]),
            ),
            out=tuple(views[part] for views in task.views),
        )

    def _sample(
        self, task: _Task, keys: NDArray[np.int64], pictures: Sequence[Encoded]
    ) -> NDArray[np.float64]:
        return self._policy.sample(
            seed=self._seed,
            epoch=task.epoch,
            indices=keys,
            heights=[picture.height for picture in pictures],
            widths=[picture.width for picture in pictures],
        )

    def _first_good(
        self, position: int, read: Callable[[int], _Readable], task: _Task
    ) -> _Readable:
        """Read the picture of a position, or the next good one, and note which in `task.shown`.

        `task.bad` grows by those met before it.
        """
        index = int(task.indices[position])
        while True:
            if task.stopped():
                raise _Stopped
            try:
                picture = read(index)
            except BadPictureError as error:
                task.bad[index] = BadPicture(error.identifier, error.reason)
            else:
                task.shown[position] = index
                return picture
            if self._too_many(task.bad):  # by themselves: the rest need not be read
                raise _TooMany(task.bad)
            index = (index + 1) % len(self._source)

    def _accept(self, batch: Batch, bad: dict[int, BadPicture]) -> Batch:
        """Count a batch's bad pictures, in the order of the steps."""
        self.bad_pictures.update(bad)
        if len(self._share) == self._batch_size:
            self._check_bad(self.bad_pictures)
        return batch

    def add_bad(self, bad: Mapping[int, BadPicture]) -> None:
        """Count the bad pictures that all processes met.

        Raises:
            DataError: there are too many.
        """
        self.bad_pictures.update(bad)
        self._check_bad(self.bad_pictures)

    def _too_many(self, bad: dict[int, BadPicture]) -> bool:
        length = len(self._source)
        return len(bad) == length or len(bad) > self._max_bad * length

    def _check_bad(self, bad: dict[int, BadPicture]) -> None:
        if not self._too_many(bad):
            return
        length = len(self._source)
        examples = "; ".join(
            f"{bad[index].identifier!r} ({bad[index].reason})"
            for index in sorted(bad)[:NUM_EXAMPLES]
        )
        share = len(bad) / length
        raise DataError(
            f"{len(bad)} of the {length} pictures in {self._source.name!r} cannot be read, more "
            f"than the share of {self._max_bad:.3g} allowed: {examples}; repair or remove them"
            + (f", or allow more with --data.max-bad {_above(share)}" if share < 1 else "")
        )


def _above(share: float) -> str:
    """Return twice a share, since more may be met, rounded up to two digits, at most 1."""
    return f"{min(1.0, np.ceil(share * 200) / 100):.2f}"


def _check(
    source: Source, *, batch_size: int, seed: int, threads: int, max_bad: float, depth: int
) -> None:
    for name, value in (("batch_size", batch_size), ("depth", depth)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    if threads < 0:
        raise UsageError(f"threads is {threads}; it must be 0 or more")
    if not 0 <= seed < 1 << 64:
        raise UsageError(f"seed is {seed}; it must be 0 to 2^64 - 1")
    if not 0 <= max_bad <= 1:
        raise UsageError(f"--data.max-bad is {max_bad}; it must be a share between 0 and 1")
    if batch_size > len(source):
        power = 1 << (len(source).bit_length() - 1)
        raise UsageError(
            f"batch_size {batch_size} is larger than the {len(source)} training pictures in "
            f"{source.name!r}; use --train.batch-size {power} or fewer"
        )
