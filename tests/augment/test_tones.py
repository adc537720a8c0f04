"""Operations on levels against torchvision v2 and Pillow, to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as tv

from looktwice.augment import (
    AutoContrast,
    Equalize,
    HorizontalFlip,
    Invert,
    Operation,
    Policy,
    Posterize,
    Resize,
    Solarize,
)
from looktwice.errors import UsageError

KINDS = ("noise", "extreme", "ramp", "few", "plain", "narrow")

sides = st.integers(1, 70) | st.sampled_from([96, 200, 224, 257])
channels = st.sampled_from([1, 3])
kinds = st.sampled_from(KINDS)
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


def made(operation: Operation, image: np.ndarray) -> np.ndarray:
    """What an operation makes of a picture (side, side, C), nothing else done to it."""
    return Policy(((Resize(len(image)), operation),))(image[None], seed=0, epoch=0, indices=[0])[
        0, 0
    ]


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def pillow(function, image: np.ndarray, *arguments) -> np.ndarray:
    given = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
    return np.asarray(function(given, *arguments)).reshape(image.shape)


def assert_equal(found: np.ndarray, expected: torch.Tensor) -> None:
    np.testing.assert_array_equal(found, expected.permute(1, 2, 0).numpy())


@given(kinds, sides, channels, seeds)
def test_a_resize_to_the_same_size_changes_nothing(kind, side, count, seed):
    image = picture(kind, side, count, seed)
    np.testing.assert_array_equal(made(HorizontalFlip(0.0), image), image)


@given(kinds, sides, channels, seeds)
def test_invert(kind, side, count, seed):
    image = picture(kind, side, count, seed)
    found = made(Invert(1.0), image)
    assert_equal(found, tv.invert(tensor(image)))
    np.testing.assert_array_equal(found, pillow(ImageOps.invert, image))


@given(kinds, sides, channels, seeds, st.integers(0, 255) | st.sampled_from([0, 1, 128, 255]))
def test_solarize(kind, side, count, seed, threshold):
    image = picture(kind, side, count, seed)
    found = made(Solarize(threshold, 1.0), image)
    assert_equal(found, tv.solarize(tensor(image), threshold))
    np.testing.assert_array_equal(found, pillow(ImageOps.solarize, image, threshold))


def test_solarize_beyond_the_highest_level_changes_nothing():
    image = picture("noise", 40, 3, 0)
    np.testing.assert_array_equal(made(Solarize(256, 1.0), image), image)


@given(kinds, sides, channels, seeds, st.integers(1, 8))
def test_posterize(kind, side, count, seed, bits):
    image = picture(kind, side, count, seed)
    found = made(Posterize(bits, 1.0), image)
    assert_equal(found, tv.posterize(tensor(image), bits))
    np.testing.assert_array_equal(found, pillow(ImageOps.posterize, image, bits))


@given(kinds, sides, channels, seeds)
def test_equalize(kind, side, count, seed):
    image = picture(kind, side, count, seed)
    found = made(Equalize(1.0), image)
    assert_equal(found, tv.equalize(tensor(image)))
    np.testing.assert_array_equal(found, pillow(ImageOps.equalize, image))


def test_equalize_where_the_table_runs_over_the_highest_level():
    # 509 pixels below the highest level make steps of one pixel: entries up to 509.
    levels = np.concatenate([np.arange(509) % 250, np.full(23 * 23 - 509, 255)])
    image = levels.astype(np.uint8).reshape(23, 23, 1)
    found = made(Equalize(1.0), image)
    assert_equal(found, tv.equalize(tensor(image)))
    np.testing.assert_array_equal(found, pillow(ImageOps.equalize, image))
    assert (found == 255).sum() > 200


@given(kinds, sides, channels, seeds)
def test_autocontrast(kind, side, count, seed):
    image = picture(kind, side, count, seed)
    assert_equal(made(AutoContrast(1.0), image), tv.autocontrast(tensor(image)))


def test_autocontrast_of_every_lowest_and_highest_level():
    operation = AutoContrast(1.0)
    lows, highs = np.triu_indices(256, 1)
    levels = np.arange(256)
    images = np.clip(levels, lows[:, None], highs[:, None]).astype(np.uint8)
    images = images.reshape(-1, 16, 16, 1)
    found = Policy(((Resize(16), operation),))(
        images, seed=0, epoch=0, indices=np.arange(len(images))
    )
    expected = tv.autocontrast(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_array_equal(found[:, 0, ..., 0], expected[:, 0])


def test_channels_are_on_their_own():
    image = np.concatenate([picture(kind, 40, 1, 3) for kind in ("narrow", "ramp", "few")], axis=2)
    for operation in (Equalize(1.0), AutoContrast(1.0)):
        apart = [made(operation, image[..., c : c + 1]) for c in range(3)]
        np.testing.assert_array_equal(made(operation, image), np.concatenate(apart, axis=2))


@pytest.mark.parametrize(
    "operation",
    [Invert(1.0), Solarize(90, 1.0), Posterize(3, 1.0), Equalize(1.0), AutoContrast(1.0)],
)
def test_a_mirror_before_is_a_mirror_after(operation):
    image = picture("noise", 33, 3, 5)
    assert type(operation).mirrors
    np.testing.assert_array_equal(made(operation, image[:, ::-1]), made(operation, image)[:, ::-1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Invert(1.5), "Invert: p must"),
        (lambda: Solarize(-1), "Solarize: threshold must"),
        (lambda: Solarize(257), "Solarize: threshold must"),
        (lambda: Solarize(127.5), "Solarize: threshold must"),
        (lambda: Solarize(p=-0.1), "Solarize: p must"),
        (lambda: Posterize(0), "Posterize: bits must"),
        (lambda: Posterize(9), "Posterize: bits must"),
        (lambda: Posterize(True), "Posterize: bits must"),
        (lambda: Posterize(p=2), "Posterize: p must"),
        (lambda: Equalize("often"), "Equalize: p must"),
        (lambda: AutoContrast(float("nan")), "AutoContrast: p must"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(make, message):
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
