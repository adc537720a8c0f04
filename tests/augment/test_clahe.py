"""CLAHE and CIELAB against OpenCV, to the bit."""

import cv2
import numba
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from looktwice.augment import CLAHE, Policy, Resize, lab
from looktwice.errors import UsageError

CONVERSIONS = {
    "to lab": (lab.rgb_to_lab, cv2.COLOR_RGB2LAB),
    "from lab": (lab.lab_to_rgb, cv2.COLOR_LAB2RGB),
}

sides = st.integers(1, 70) | st.sampled_from([96, 200, 224, 257])
tiles = st.sampled_from([1, 2, 3, 4, 7, 8, 16, 63, 64])
limits = st.sampled_from([0.01, 0.5, 1.0, 2.0, 4.0, 40.0, 1000.0]) | st.floats(0.01, 50.0)
kinds = st.sampled_from(["noise", "extreme", "ramp", "few", "plain", "narrow"])
seeds = st.integers(0, 2**32 - 1)


def picture(kind: str, side: int, channels: int, seed: int) -> np.ndarray:
    """A picture (side, side, channels) whose levels are of some kind."""
    rng = np.random.default_rng(seed)
    shape = (side, side, channels)
    if kind == "noise":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == "extreme":
        return rng.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), shape)
    if kind == "few":
        return rng.choice(rng.integers(0, 256, 3, dtype=np.uint8), shape, p=[0.9, 0.09, 0.01])
    if kind == "plain":
        return np.full(shape, rng.integers(0, 256), np.uint8)
    if kind == "narrow":
        low = rng.integers(0, 200)
        return rng.integers(low, low + rng.integers(2, 56), shape, dtype=np.uint8)
    ramp = np.linspace(0, rng.integers(1, 256), side * side).reshape(side, side, 1)
    return np.broadcast_to(ramp, shape).astype(np.uint8)


def made(operation: CLAHE, image: np.ndarray) -> np.ndarray:
    """What the operation makes of a picture (side, side, C), nothing else done to it."""
    return Policy(((Resize(len(image)), operation),))(image[None], seed=0, epoch=0, indices=[0])[
        0, 0
    ]


def expected(limit: float, grid: tuple[int, int], image: np.ndarray) -> np.ndarray:
    """What OpenCV makes of it, as Albumentations calls it."""
    clahe = cv2.createCLAHE(limit, grid)
    if image.shape[2] == 1:
        return clahe.apply(image)[..., None]
    converted = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    converted[..., 0] = clahe.apply(np.ascontiguousarray(converted[..., 0]))
    return cv2.cvtColor(converted, cv2.COLOR_LAB2RGB)


@given(kinds, sides, st.sampled_from([1, 3]), seeds, limits, tiles, tiles)
@example("noise", 32, 3, 0, 4.0, 8, 8)  # the tiles divide the picture
@example("noise", 30, 1, 0, 4.0, 5, 7)  # they divide one side: both grow, that one by a tile
@example("noise", 1, 1, 0, 4.0, 8, 8)
@example("plain", 1, 3, 0, 4.0, 64, 64)
@example("noise", 5, 1, 0, 4.0, 64, 64)  # reflected to and fro
@example("noise", 224, 3, 0, 1.0, 8, 8)  # nearly all is cut off and spread
@example("narrow", 257, 1, 0, 1000.0, 1, 1)  # nothing is cut off
def test_clahe_equals_opencv(kind, side, channels, seed, limit, columns, rows):
    image = picture(kind, side, channels, seed)
    found = made(CLAHE((limit, limit), (columns, rows), p=1.0), image)
    np.testing.assert_array_equal(found, expected(limit, (columns, rows), image))


def test_the_limit_that_was_drawn_is_used():
    operation = CLAHE((1.0, 9.0), (4, 4), p=1.0)
    images = np.stack([picture("narrow", 48, 3, n) for n in range(20)])
    chain = Policy(((Resize(48), operation),))
    rows = chain.sample(seed=3, epoch=1, indices=range(20), heights=[48] * 20, widths=[48] * 20)
    limits = [dict(chain.describe(row[0], 0))["clahe"]["clip_limit"] for row in rows]
    assert max(limits) - min(limits) > 4.0
    views = chain.apply(images, rows)
    for view, limit, image in zip(views[:, 0], limits, images, strict=True):
        np.testing.assert_array_equal(view, expected(limit, (4, 4), image))


@pytest.mark.parametrize("name", CONVERSIONS)
def test_every_colour_is_converted_as_opencv_does(name):
    convert, code = CONVERSIONS[name]

    @numba.njit
    def run(planes):
        convert(planes)

    levels = np.arange(256, dtype=np.uint8)
    for first in range(0, 256, 32):
        grid = np.meshgrid(levels[first : first + 32], levels, levels, indexing="ij")
        planes = np.stack([plane.reshape(-1) for plane in grid])
        reference = cv2.cvtColor(np.ascontiguousarray(planes.T)[None], code)[0].T
        run(planes)
        np.testing.assert_array_equal(planes, reference)


def test_a_mirror_before_is_not_a_mirror_after():
    image = picture("noise", 30, 1, 0)
    operation = CLAHE((4.0, 4.0), (4, 4), p=1.0)
    assert not operation.mirrors
    assert (made(operation, image[:, ::-1]) != made(operation, image)[:, ::-1]).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CLAHE((0.0, 4.0)), "CLAHE: clip_limit must"),
        (lambda: CLAHE((4.0, 1001.0)), "CLAHE: clip_limit must"),
        (lambda: CLAHE((4.0, 2.0)), "CLAHE: clip_limit must"),
        (lambda: CLAHE(4.0), "CLAHE: clip_limit must"),
        (lambda: CLAHE(tiles=8), "CLAHE: tiles must"),
        (lambda: CLAHE(tiles=(8, 8, 8)), "CLAHE: tiles must"),
        (lambda: CLAHE(tiles=(0, 8)), "CLAHE: tiles' columns must"),
        (lambda: CLAHE(tiles=(8, 65)), "CLAHE: tiles' rows must"),
        (lambda: CLAHE(tiles=(8, 8.0)), "CLAHE: tiles' rows must"),
        (lambda: CLAHE(p=1.01), "CLAHE: p must"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(make, message):
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
