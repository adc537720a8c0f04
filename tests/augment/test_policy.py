import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

from looktwice.augment import (
    Box,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Operation,
    Policy,
    RandomErasing,
    RandomResizedCrop,
    applying,
    compiling,
    policy,
)
from looktwice.augment.threads import in_slices
from looktwice.errors import UsageError

CROP = RandomResizedCrop(16)


@pytest.fixture(scope="module")
def array():
    return np.random.default_rng(0).integers(0, 256, (301, 24, 20, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(array):
    return policy("simclr", size=40)(array, seed=3, epoch=2, indices=np.arange(301))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_change_nothing(array, expected, threads):
    chain = policy("simclr", size=40)
    made = chain(array, seed=3, epoch=2, indices=np.arange(301), threads=threads)
    assert made.nbytes > 2 * 400_000  # enough for several slices
    assert (made == expected).all()


def test_layout_and_order_change_nothing(array, expected):
    chain = policy("simclr", size=40)

    def make(images, indices):
        return chain(images, seed=3, epoch=2, indices=indices)

    order = np.random.default_rng(1).permutation(301)
    assert (make(array[order], order) == expected[order]).all()
    assert (make(list(array), range(301)) == expected).all()
    assert (make(array[10:13], [10, 11, 12]) == expected[10:13]).all()
    strided = np.asfortranarray(array)
    assert (make(strided, range(301)) == expected).all()
    assert (make([strided[n] for n in range(301)], range(301)) == expected).all()
    assert (make(array[::3], np.arange(0, 301, 3)) == expected[::3]).all()
    readonly = array.copy()
    readonly.flags.writeable = False
    assert (make(readonly, range(301)) == expected).all()


def test_neighbours_of_other_sizes_change_nothing():
    rng = np.random.default_rng(2)
    sizes = [(1, 1), (300, 7), (31, 33), (5, 200), (64, 64), (2, 3)]
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    chain = policy("moco-v2", size=33)
    together = chain(images, seed=0, epoch=0, indices=range(6))
    for n, image in enumerate(images):
        assert (chain([image], seed=0, epoch=0, indices=[n])[0] == together[n]).all()


def test_pictures_are_left_as_they_are(array):
    before = array.copy()
    policy("simclr", size=40)(array, seed=3, epoch=2, indices=range(301))
    assert (array == before).all()


def test_out_is_used_and_checked(array, expected):
    chain = policy("simclr", size=40)
    out = np.empty_like(expected)
    made = chain(array, seed=3, epoch=2, indices=range(301), out=out)
    assert made is out
    assert (out == expected).all()
    readonly = np.empty_like(expected)
    readonly.flags.writeable = False
    for wrong in (out[:-1], out.astype(np.int8), np.asfortranarray(out), readonly, "x"):
        with pytest.raises(UsageError, match="out must be a contiguous"):
            chain(array, seed=3, epoch=2, indices=range(301), out=wrong)


def test_no_pictures_are_no_views():
    empty = np.empty((0, 8, 8, 1), np.uint8)
    assert policy("simclr", size=4)(empty, seed=0, epoch=0, indices=[]).shape == (0, 2, 4, 4, 1)


def test_describe_and_crop_box():
    view = (
        CROP,
        ColorJitter(brightness=0.4, hue=0.1),
        Grayscale(0.0),
        GaussianBlur(p=1.0),
        HorizontalFlip(1.0),
    )
    chain = Policy(((CROP,), view))
    rows = chain.sample(seed=0, epoch=0, indices=range(40), heights=[30] * 40, widths=[20] * 40)
    orders = set()
    for row in rows[:, 1]:
        names = [name for name, _ in chain.describe(row, 1)]
        assert names == ["crop", "jitter", "blur", "flip"]
        numbers = dict(chain.describe(row, 1))
        assert tuple(numbers["crop"].values()) == chain.crop_box(row)
        assert set(numbers["jitter"]) == {"brightness", "hue"}
        orders.add(tuple(numbers["jitter"]))
        assert 0.1 <= numbers["blur"]["sigma"] <= 2.0
        assert numbers["flip"] == {}
    assert len(orders) == 2
    assert len(chain.describe(rows[0, 0], 0)) == 1


def test_policies_are_values():
    chain = policy("moco-v1", size=16)
    assert chain == policy("moco-v1", size=16)
    assert hash(chain) == hash(policy("moco-v1", size=16))
    assert chain != policy("moco-v1", size=17)
    assert eval(repr(chain)) == chain
    chain.sample(seed=0, epoch=0, indices=[0], heights=[9], widths=[9])
    assert pickle.loads(pickle.dumps(chain)) == chain
    assert (chain.num_views, chain.size) == (2, 16)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Policy(()),
        lambda: Policy([[CROP]]),
        lambda: Policy(((),)),
        lambda: Policy(((Grayscale(),),)),
        lambda: Policy(((CROP, CROP),)),
        lambda: Policy(((Grayscale(), CROP),)),
        lambda: Policy(((CROP, "flip"),)),
        lambda: RandomResizedCrop(0),
        lambda: RandomResizedCrop(8.0),
        lambda: RandomResizedCrop(True),
        lambda: RandomResizedCrop(8, scale=(0.5, 0.2)),
        lambda: RandomResizedCrop(8, scale=(0.0, 1.0)),
        lambda: RandomResizedCrop(8, scale=(0.5, 1.1)),
        lambda: RandomResizedCrop(8, ratio=(0.0, 1.0)),
        lambda: RandomResizedCrop(8, interpolation="bicubi"),
        lambda: HorizontalFlip(1.1),
        lambda: HorizontalFlip(float("nan")),
        lambda: HorizontalFlip("x"),
        lambda: ColorJitter(hue=0.51),
        lambda: ColorJitter(brightness=-0.1),
        lambda: ColorJitter(p=-1),
        lambda: Grayscale(p=2),
        lambda: GaussianBlur(sigma=(0.0, 1.0)),
        lambda: GaussianBlur(kernel_size=4),
        lambda: GaussianBlur(kernel_size=-1),
        lambda: GaussianBlur(sigma=1.0),
        lambda: GaussianBlur(p=None),
        lambda: policy("simclr", size=32, strength=3.0),
        lambda: policy("simclr", size=32, strength=-1),
        lambda: policy("simclr", size=32, min_scale=2.0),
        lambda: policy("simclr", size=32, num_views=0),
        lambda: policy("simclr", size=32, blur=False, blur_p=0.5),
        lambda: policy("simclr", size=32, flip_p=7),
    ],
)
def test_impossible_values_are_refused_in_one_line(make):
    with pytest.raises(UsageError) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_misspelt_policy_gets_the_nearest_name():
    with pytest.raises(UsageError, match="Did you mean 'simclr'"):
        policy("simlcr", size=32)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((2, 4, 4), np.uint8), "N, H, W, C"),
        (np.zeros((2, 4, 4, 3), np.float32), "uint8"),
        (np.zeros((2, 4, 4, 2), np.uint8), "1 or 3"),
        (np.zeros((2, 0, 4, 3), np.uint8), "not empty"),
        ([], "empty"),
        ([np.zeros((4, 4), np.uint8)], r"pictures\[0\]"),
        (["x", "y"], "uint8"),
        ([np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 3), np.uint8)], "1 channel and some 3"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(images, match):
    with pytest.raises(UsageError, match=match):
        policy("simclr", size=4)(images, seed=0, epoch=0, indices=[0, 1])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"epoch": 2**32}, "epoch"),
        ({"indices": [0]}, "equally long"),
        ({"indices": [0.5, 1.0]}, "whole"),
        ({"indices": [-1, 0]}, "at least 0"),
        ({"heights": [0, 4]}, "at least 1"),
        ({"indices": [[0, 1]]}, "whole"),
    ],
)
def test_keys_that_do_not_fit_are_refused(change, match):
    key = {"seed": 0, "epoch": 0, "indices": [0, 1], "heights": [4, 4], "widths": [4, 4]} | change
    with pytest.raises(UsageError, match=match):
        policy("simclr", size=4).sample(**key)


def test_rows_of_other_pictures_are_refused():
    chain = policy("simclr", size=8)
    images = np.zeros((2, 10, 10, 3), np.uint8)
    rows = chain.sample(seed=0, epoch=0, indices=[0, 1], heights=[10, 50], widths=[10, 50])
    with pytest.raises(UsageError, match="row 1 does not fit"):
        chain.apply(images, rows)
    with pytest.raises(UsageError, match="rows must be"):
        chain.apply(images, rows[:1])
    rows[:] = np.nan
    with pytest.raises(UsageError, match="row 0 does not fit"):
        chain.apply(images, rows)
    with pytest.raises(UsageError, match="threads"):
        chain(images, seed=0, epoch=0, indices=[0, 1], threads=0)


def test_named_policies_are_their_sources():
    crop, flip = RandomResizedCrop(32), HorizontalFlip(0.5)
    simclr = (
        crop,
        flip,
        ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        Grayscale(0.2),
        GaussianBlur((0.1, 2.0), p=0.5),
    )
    assert policy("simclr", size=32) == Policy((simclr, simclr))
    wide = RandomResizedCrop(32, scale=(0.2, 1.0))
    v1 = (wide, Grayscale(0.2), ColorJitter(0.4, 0.4, 0.4, 0.4, p=1.0), flip)
    assert policy("moco-v1", size=32) == Policy((v1, v1))
    v2 = (
        wide,
        ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        Grayscale(0.2),
        GaussianBlur((0.1, 2.0), p=0.5),
        flip,
    )
    assert policy("moco-v2", size=32) == Policy((v2, v2))


def test_every_keyword_of_a_named_policy_has_an_effect():
    base = policy("simclr", size=32)
    changes = {
        "size": 33,
        "strength": 0.5,
        "min_scale": 0.3,
        "max_scale": 0.9,
        "flip_p": 0.1,
        "jitter_p": 0.1,
        "gray_p": 0.1,
        "blur": False,
        "blur_p": 0.1,
        "interpolation": "bicubic",
        "num_views": 3,
    }
    made = {policy("simclr", **({"size": 32} | {key: value})) for key, value in changes.items()}
    assert len(made | {base}) == len(changes) + 1
    assert policy("simclr", size=32, blur=False, gray_p=0.0, flip_p=0.0, jitter_p=0.0).views[0] == (
        RandomResizedCrop(32),
    )
    assert policy("moco-v1", size=32, blur=True).views[0][-1] == GaussianBlur(p=0.5)
    assert policy("simclr", size=32, strength=0.5).views[0][2] == ColorJitter(
        0.4, 0.4, 0.4, 0.1, p=0.8
    )


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_importing_is_light():
    code = (
        "import sys, looktwice.augment; print(*{'torch', 'torchvision', 'timm'} & {*sys.modules})"
    )
    assert run(code).stdout.strip() == ""


def test_no_folder_to_cache_in():
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"  # as if no folder could be written
        "from looktwice.augment import policy\n"
        "key = {'seed': 0, 'epoch': 0, 'indices': [0], 'heights': [9], 'widths': [9]}\n"
        "print(policy('simclr', size=8).sample(**key).shape)"
    )
    assert run(code).stdout.strip() == "(1, 2, 15)"


def test_a_folder_to_cache_in_that_cannot_be():
    code = "import looktwice.augment.sampling as s; print(s.sample_rows.__name__)"
    assert run(code, NUMBA_CACHE_DIR="/dev/null/cache").stdout.strip() == "sample_rows"


def test_the_cache_knows_every_source(tmp_path, monkeypatch):
    folder = Path(compiling.__file__).parent
    shutil.copytree(folder, tmp_path / "augment", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "augment" / "compiling.py"))
    digest = compiling.sources_digest()
    compiling.sources_digest.cache_clear()
    assert compiling.sources_digest() == digest
    assert applying.apply_rows.py_func.__qualname__ == f"apply_rows_{digest}"
    with (tmp_path / "augment" / "operations" / "colour.py").open("a") as source:
        source.write("# changed")
    compiling.sources_digest.cache_clear()
    assert compiling.sources_digest() != digest


@pytest.mark.parametrize("name", ["simclr", "aug-plus", "moco-v3"])
def test_a_batch_after_the_first_allocates_nothing_that_grows(name):
    """No scratch, no rows, no views: a few small objects of Python, however large the pictures."""
    small, large = policy(name, size=32), policy(name, size=96)
    peaks = []
    for chain in (small, large):
        images = np.zeros((64, chain.size, chain.size, 3), np.uint8)
        out = np.empty((64, 2, chain.size, chain.size, 3), np.uint8)
        for epoch in range(3):
            chain(images, seed=0, epoch=epoch, indices=np.arange(64), out=out)
        tracemalloc.start()
        chain(images, seed=0, epoch=2, indices=np.arange(64), out=out)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        made = chain(images, seed=0, epoch=2, indices=np.arange(64), out=out)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
        assert made is out
    assert max(peaks) < 16_384  # the smallest scratch, planes of 32 px, would be caught by growth
    assert abs(peaks[1] - peaks[0]) < 2_048


def test_threads_survive_a_fork(array, expected):
    chain = policy("simclr", size=40)
    key = {"seed": 3, "epoch": 2, "indices": np.arange(301), "threads": 2}
    assert (chain(array, **key) == expected).all()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: threads and fork
        child = context.Process(target=lambda: queue.put(chain(array, **key)))
        child.start()
    assert (queue.get(timeout=60) == expected).all()
    child.join()


def test_a_failing_slice_is_told_and_the_others_have_ended():
    ended = []

    def run(part):
        if part.start == 0:
            raise ValueError("first")
        time.sleep(0.2)
        ended.append(part)

    with pytest.raises(ValueError, match="first"):
        in_slices(run, 9, 3)
    assert len(ended) == 2
    in_slices(ended.append, 2, 7)
    assert len(ended) == 4
    in_slices(ended.append, 0, 2)
    assert len(ended) == 4


def test_an_operation_draws_one_box_at_most():
    class TwoHoles(Operation):
        name, kernel, p = "two-holes", RandomErasing.kernel, 1.0

        def draws(self, size, epoch):
            return {"a": Box((0.1, 0.2), (0.5, 2.0)), "b": Box((0.1, 0.2), (0.5, 2.0))}

    with pytest.raises(UsageError, match="draws two boxes"):
        policy("simclr", size=8).then(TwoHoles())
