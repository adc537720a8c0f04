import contextlib
import signal
import threading
import time
from typing import ClassVar

import numpy as np
import pytest

from looktwice.augment import policy
from looktwice.data import ArraySource, Loader, Source, permute
from looktwice.errors import BadPictureError, DataError, UsageError


class Stamp:
    """A stand-in for a policy: each view is filled with numbers that tell its key."""

    groups: ClassVar = {4: (0, 1)}

    def __call__(self, images, *, seed, epoch, indices, threads, out):
        assert threads == 1
        for row, image, index in zip(out[0], images, indices, strict=True):
            for view in range(2):
                row[view] = (
                    int(image[0, 0, 0]) + 7 * view + 31 * epoch + 101 * int(index) + seed
                ) % 251
        return out


class Pictures(Source):
    """Picture i is filled with i; some are bad, and all take a moment."""

    def __init__(self, n, bad=(), seconds=0.0):
        super().__init__("pictures", 1, None, None)
        self.n, self.bad, self.seconds = n, set(bad), seconds
        self.asked = 0

    def __len__(self):
        return self.n

    def image(self, i):
        self.asked += 1
        time.sleep(self.seconds)
        if i in self.bad:
            raise BadPictureError(self.identifier(i), f"damage {i}")
        return np.full((5, 6, 1), i % 256, np.uint8)

    def identifier(self, i):
        return f"{i}.png"

    def fingerprint(self):
        return ""


def _loader(source, policy=None, **settings):
    return Loader(
        source, policy or Stamp(), **{"batch_size": 4, "seed": 5, "threads": 1, **settings}
    )


def _collect(loader, start=0, stop=20):
    return [
        (b.step, b.epoch, b.indices.tolist(), b.views[0].tobytes())
        for b in loader.batches(start, stop)
    ]


def test_batches_are_slices_of_the_permutation():
    loader = _loader(Pictures(10))
    assert loader.steps_per_epoch == 2
    for step, epoch, indices, _ in _collect(loader, 0, 7):
        assert epoch == step // 2
        at = 4 * (step % 2)
        assert indices == permute(10, 5, epoch, range(at, at + 4)).tolist()


def test_views_are_made_of_the_pictures_of_the_indices():
    for _, epoch, indices, views in _collect(_loader(Pictures(10)), 0, 6):
        expected = [
            [(i + 7 * v + 31 * epoch + 101 * i + 5) % 251 for v in range(2)] for i in indices
        ]
        assert np.frombuffer(views, np.uint8).reshape(4, 2, 16)[..., 0].tolist() == expected


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize("depth", [1, 3, 8])
def test_threads_depth_and_restarts_change_nothing(threads, depth):
    reference = _collect(_loader(Pictures(30, bad=[3]), threads=0, max_bad=0.1))
    loader = _loader(Pictures(30, bad=[3]), threads=threads, depth=depth, max_bad=0.1)
    assert _collect(loader, 0, 9) + _collect(loader, 9, 20) == reference


def test_real_policy_gives_the_same_bits_for_any_threads():
    chance = np.random.default_rng(0)
    source = ArraySource(chance.integers(0, 256, (64, 28, 28), dtype=np.uint8))
    views = policy("simclr", size=20)
    found = [_collect(_loader(source, views, batch_size=16, threads=t), 0, 8) for t in (0, 1, 3)]
    assert found[0] == found[1] == found[2]
    _, epoch, indices, first = found[0][5]
    images = [source.image(i) for i in indices]
    assert views(images, seed=5, epoch=epoch, indices=np.array(indices)).tobytes() == first


def test_a_batch_is_valid_until_the_next_one_is_requested():
    loader = _loader(Pictures(40), threads=2, depth=2)
    for batch in loader.batches(0, 30):
        before = batch.views[0].copy()
        time.sleep(0.002)
        assert np.array_equal(batch.views[0], before)


def test_memory_is_bounded():
    source = Pictures(1000)
    with contextlib.closing(_loader(source, threads=2, depth=3).batches(0, 100)) as batches:
        next(batches)
        patience = time.monotonic() + 10
        while source.asked < 3 * 4 and time.monotonic() < patience:
            time.sleep(0.01)
        time.sleep(0.05)
        assert source.asked == 3 * 4
        buffers = {next(batches).views[0].ctypes.data for _ in range(20)}
    assert len(buffers) == 3


def test_bad_pictures_are_replaced_by_the_next_good_one_and_listed_once():
    source = Pictures(10, bad=[3, 4, 9])
    loader = _loader(source, max_bad=0.5, batch_size=5)
    for step, epoch, indices, views in _collect(loader, 0, 10):
        assert sorted(indices + _collect(loader, step ^ 1, (step ^ 1) + 1)[0][2]) == list(range(10))
        pictures = [{3: 5, 4: 5, 9: 0}.get(i, i) for i in indices]
        expected = [
            (p + 31 * epoch + 101 * i + 5) % 251 for p, i in zip(pictures, indices, strict=True)
        ]
        assert np.frombuffer(views, np.uint8).reshape(5, 2, 16)[:, 0, 0].tolist() == expected
    for batch in loader.batches(0, 4):
        shown = [{3: 5, 4: 5, 9: 0}.get(i, i) for i in batch.indices.tolist()]
        assert batch.shown.tolist() == shown
    assert {i: (b.identifier, b.reason) for i, b in loader.bad_pictures.items()} == {
        i: (f"{i}.png", f"damage {i}") for i in (3, 4, 9)
    }


def _steps_until_error(bad, **settings):
    loader = _loader(Pictures(300, bad=bad), **settings)
    steps = []
    with pytest.raises(DataError) as caught:
        steps.extend(batch.step for batch in loader.batches(0, 1000))
    return len(steps), str(caught.value), sorted(loader.bad_pictures)


@pytest.mark.parametrize("bad", [range(0, 300, 20), range(100, 109)])  # here and there; at once
def test_too_many_bad_pictures_stop_at_the_same_step_for_any_threads(bad):
    reference = _steps_until_error(bad, threads=0, max_bad=0.02)
    assert reference[0] > 0
    assert len(reference[2]) > 6
    for threads, depth in ((1, 1), (2, 4), (4, 9)):
        assert _steps_until_error(bad, threads=threads, depth=depth, max_bad=0.02) == reference


def test_one_of_fifty_is_too_many_by_default_and_the_message_mends_it():
    with pytest.raises(DataError) as caught:
        _collect(_loader(Pictures(50, bad=[7])))
    message = str(caught.value)
    assert "1 of the 50 pictures in 'pictures'" in message
    assert "'7.png' (damage 7)" in message
    assert "--data.max-bad 0.04" in message
    assert "\n" not in message
    _collect(_loader(Pictures(50, bad=[7]), max_bad=0.03))
    _collect(_loader(Pictures(50, bad=[7]), max_bad=0.02))  # strictly more than that share
    _collect(_loader(Pictures(100, bad=[7])))


def test_nothing_but_bad_pictures_ends():
    with pytest.raises(DataError, match="10 of the 10"):
        _collect(_loader(Pictures(10, bad=range(10)), max_bad=1.0))


def _loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("looktwice-loader")]


@pytest.mark.parametrize("threads", [1, 3])
def test_closing_early_ends_the_threads_at_once(threads):
    source = Pictures(1000, seconds=0.01)
    batches = _loader(source, batch_size=500, threads=threads).batches(0, 100)
    with contextlib.closing(batches):
        _interrupt_next(batches)  # the first batch would take 5 s
    assert not _loader_threads()
    assert source.asked < 300


def _interrupt_next(batches):
    """Ask for a batch and be interrupted, as by Ctrl-C, while waiting."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    began = time.perf_counter()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(batches)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - began < 1.5


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_request_to_stop_ends_a_batch_in_the_making(threads):
    """A batch takes 200 s here; nobody waits for it."""
    source, asked = Pictures(300, seconds=1.0), threading.Event()
    loader = _loader(source, batch_size=200, threads=threads)
    threading.Timer(0.5, asked.set).start()
    began = time.perf_counter()
    with contextlib.closing(loader.batches(0, 1, asked.is_set)) as batches:
        assert next(batches, None) is None
    assert time.perf_counter() - began < 5
    assert not [t for t in threading.enumerate() if t.name.startswith("looktwice-loader")]


def test_batches_before_a_request_to_stop_are_those_without_one():
    asked = threading.Event()
    loader = _loader(Pictures(30), threads=2)
    seen = []
    for batch in loader.batches(0, 20, asked.is_set):
        seen.append((batch.step, batch.epoch, batch.indices.tolist(), batch.views[0].tobytes()))
        if batch.step == 5:
            asked.set()
    assert seen == _collect(_loader(Pictures(30)))[: len(seen)]
    assert 6 <= len(seen) <= 10


def test_leaving_a_loop_early_leaks_no_threads():
    for _ in range(3):
        for _batch in _loader(Pictures(100), threads=2).batches(0, 50):
            break
        batches = _loader(Pictures(100), threads=2).batches(0, 50)
        next(batches)
        batches.close()
    del _batch
    assert not _loader_threads()
    _collect(_loader(Pictures(100), threads=2))
    assert not _loader_threads()


def test_errors_in_threads_surface_in_the_consumer():
    class Broken(Stamp):
        def __call__(self, images, *, epoch, **rest):
            if epoch == 1:
                raise ZeroDivisionError("in the policy")
            return super().__call__(images, epoch=epoch, **rest)

    loader = _loader(Pictures(8), Broken(), threads=2)
    batches = loader.batches(0, 10)
    assert [next(batches).step, next(batches).step] == [0, 1]
    with pytest.raises(ZeroDivisionError, match="in the policy"):
        next(batches)
    assert not _loader_threads()


def test_waiting_is_measured():
    slow = _loader(Pictures(100, seconds=0.005), threads=1)
    _collect(slow, 0, 5)
    assert slow.waited_seconds > 0.09  # 20 pictures
    ready = _loader(Pictures(100), threads=1)
    for _ in ready.batches(0, 5):
        time.sleep(0.02)
    assert ready.waited_seconds < slow.waited_seconds


def test_several_threads_work_on_several_batches():
    source = Pictures(1000, seconds=0.004)
    loader = _loader(source, threads=4, batch_size=10)
    began = time.perf_counter()
    _collect(loader, 0, 12)
    assert time.perf_counter() - began < 0.75 * 0.004 * 120


def test_no_steps():
    assert _collect(_loader(Pictures(10)), 3, 3) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"batch_size": 512},
            r"batch_size 512 is larger than the 300 training pictures in 'pictures'; use --train.batch-size 256 or fewer",
        ),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"depth": 0}, "depth is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"max_bad": 1.5}, "max-bad is 1.5"),
    ],
)
def test_arguments_out_of_range(wrong, message):
    with pytest.raises(UsageError, match=message):
        _loader(Pictures(300), **wrong)


def test_steps_that_are_no_range():
    with pytest.raises(UsageError, match="not a range"):
        _loader(Pictures(10)).batches(5, 3)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_folder_that_is_gone_is_not_read_to_its_end(threads):
    source = Pictures(20_000, bad=range(20_000))
    with pytest.raises(DataError, match=r"201 of the 20000 pictures"):
        _collect(_loader(source, threads=threads))
    assert source.asked <= 1000
