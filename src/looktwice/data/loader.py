"""Batches of views, made in threads a few steps ahead of the trainer."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from looktwice.augment import Policy
from looktwice.data.shuffle import permute
from looktwice.data.sources import Picture, Source
from looktwice.errors import BadPictureError, DataError, UsageError

NUM_EXAMPLES = 3
"""Bad pictures named when there are too many."""

MAX_HELD = 1 << 26
"""Bytes of decoded pictures a thread holds before it makes their views."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One global batch; valid until the next one is requested, since its buffer is used again.

    Attributes:
        step: global step, from 0.
        epoch: pass through the source, from 0.
        indices: int64 (B,), samples whose views these are.
        views: uint8 (B, V, S, S, C).
    """

    step: int
    epoch: int
    indices: NDArray[np.int64]
    views: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class BadPicture:
    """A picture that could not be decoded.

    Attributes:
        identifier: path or name within its source.
        reason: what the decoder found, one line.
    """

    identifier: str
    reason: str


class _Stopped(Exception):  # noqa: N818
    """The consumer has gone; nobody sees this."""


class Loader:
    """Global batches of views, each a pure function of (source, policy, seed, step).

    Batch *t* of epoch *e* holds positions t·B … (t+1)·B of the permutation keyed by (seed, e);
    the last, partial batch of an epoch is dropped. A picture that cannot be decoded is replaced
    by the next good one in the order of the source; the key of the view stays the first's.

    Args:
        source: the pictures.
        policy: makes the views.
        batch_size: global batch size B.
        seed: of the order and of the views, 0 to 2^64 - 1.
        threads: batches worked on at once; 0 makes each in the caller when it is asked for.
        max_bad: share of the source that may be bad before the loader gives up, 0 to 1.
        depth: buffers, that is batches made or in the making, the consumer's included; at
            least threads + 1 are kept.

    Attributes:
        steps_per_epoch: whole batches in an epoch.
        waited_seconds: time that consumers spent waiting for batches so far.
        bad_pictures: what was bad so far, by sample index; the same for every `threads`.

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
        depth: int = 3,
    ) -> None:
        _check(
            source, batch_size=batch_size, seed=seed, threads=threads, max_bad=max_bad, depth=depth
        )
        self.steps_per_epoch = len(source) // batch_size
        self.waited_seconds = 0.0
        self.bad_pictures: dict[int, BadPicture] = {}
        self._source = source
        self._policy = policy
        self._batch_size = batch_size
        self._seed = seed
        self._threads = threads
        self._max_bad = max_bad
        self._num_buffers = max(depth, threads + 1) if threads else 1

    def batches(self, start_step: int, stop_step: int) -> Generator[Batch]:
        """Yield the batches of the steps start_step … stop_step - 1, across epochs.

        Close the iterator (`contextlib.closing`) when leaving early: that ends its threads.

        Raises:
            UsageError: steps that are no range.
            DataError: too many bad pictures; at the same step for every `threads`.
        """
        if not 0 <= start_step <= stop_step:
            raise UsageError(f"steps {start_step} to {stop_step} are not a range from 0 upwards")
        make = self._ahead if self._threads else self._one_by_one
        return make(range(start_step, stop_step))

    def _one_by_one(self, steps: range) -> Generator[Batch]:
        buffer = self._new_buffer()
        stop = threading.Event()
        for step in steps:
            began = time.perf_counter()
            made = self._make(step, buffer, stop)
            self.waited_seconds += time.perf_counter() - began
            yield self._accept(*made)

    def _ahead(self, steps: range) -> Generator[Batch]:
        buffers = [self._new_buffer() for _ in range(min(self._num_buffers, len(steps)))]
        stop = threading.Event()
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="looktwice-loader")
        try:
            tasks = (
                pool.submit(self._make, step, buffers[i % len(buffers)], stop)
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
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _new_buffer(self) -> NDArray[np.uint8]:
        side, channels = self._policy.size, self._source.channels
        return np.empty((self._batch_size, self._policy.num_views, side, side, channels), np.uint8)

    def _make(
        self, step: int, buffer: NDArray[np.uint8], stop: threading.Event
    ) -> tuple[Batch, dict[int, BadPicture]]:
        """Make the batch of a step in its buffer, with the bad pictures met on the way."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        positions = np.arange(batch * self._batch_size, (batch + 1) * self._batch_size)
        indices = permute(len(self._source), self._seed, epoch, positions)
        bad: dict[int, BadPicture] = {}
        images: list[Picture] = []
        held = done = 0
        for position, index in enumerate(indices.tolist(), start=1):
            if stop.is_set():
                raise _Stopped
            images.append(self._good_picture(index, bad))
            held += images[-1].nbytes
            # A batch of photographs would fill the memory; views do not depend on the layout.
            if held > MAX_HELD or position == len(indices):
                part = slice(done, position)
                self._policy(
                    images,
                    seed=self._seed,
                    epoch=epoch,
                    indices=indices[part],
                    threads=1,
                    out=buffer[part],
                )
                images, held, done = [], 0, position
        return Batch(step, epoch, indices, buffer), bad

    def _good_picture(self, index: int, bad: dict[int, BadPicture]) -> Picture:
        """Return picture `index`, or the next good one; `bad` grows by those met before it."""
        while True:
            try:
                return self._source.image(index)
            except BadPictureError as error:
                bad[index] = BadPicture(error.identifier, error.reason)
            if len(bad) == len(self._source):
                self._check_bad(bad)
            index = (index + 1) % len(self._source)

    def _accept(self, batch: Batch, bad: dict[int, BadPicture]) -> Batch:
        """Count a batch's bad pictures, in the order of the steps."""
        self.bad_pictures.update(bad)
        self._check_bad(self.bad_pictures)
        return batch

    def _check_bad(self, bad: dict[int, BadPicture]) -> None:
        length = len(self._source)
        if len(bad) < length and len(bad) <= self._max_bad * length:
            return
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
