"""Sobel against OpenCV, sharpness against torchvision v2, noise against a slow Philox."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms.v2 import functional as tv

from looktwice.augment import GaussianNoise, HorizontalFlip, Policy, Resize, Sharpness, Sobel
from looktwice.errors import UsageError

sides = st.integers(1, 70) | st.sampled_from([96, 199, 224])
channels = st.sampled_from([1, 3])
kinds = st.sampled_from(["noise", "extreme", "ramp"])
seeds = st.integers(0, 2**32 - 1)
words = st.integers(0, 2**32 - 1)


def picture(size, channels, kind, seed):
    rng = np.random.default_rng(seed)
    shape = (size, size, channels)
    if kind == "noise":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == "extreme":
        return rng.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), shape)
    levels = np.linspace(0, 255, size * size * channels)
    return levels.reshape(shape).astype(np.uint8)


def applied(operation, image, *drawn):
    """What an operation makes of a picture (S, S, C) with drawn numbers."""
    size = len(image)
    chain = Policy(((Resize(size), operation),))
    rows = chain.sample(seed=0, epoch=0, indices=[0], heights=[size], widths=[size])
    rows[0, 0, 6 : 6 + len(drawn)] = drawn
    return chain.apply(image[None], rows)[0, 0]


@given(sides, channels, kinds, seeds)
@settings(max_examples=100)
def test_sobel_equals_opencv(size, channels, kind, seed):
    image = picture(size, channels, kind, seed)
    made = applied(Sobel(), image)
    for c in range(channels):
        across, down = (
            cv2.Sobel(image[..., c], cv2.CV_16S, *order, ksize=3, borderType=cv2.BORDER_REFLECT_101)
            for order in ((1, 0), (0, 1))
        )
        length = np.hypot(across.astype(float), down) / 4
        assert (made[..., c] == np.minimum(np.floor(length + 0.5), 255)).all()


def test_an_edge_of_full_height_is_white():
    image = np.zeros((8, 8, 1), np.uint8)
    image[:, 4:] = 255
    expected = np.zeros((8, 8), np.uint8)
    expected[:, 3:5] = 255
    assert (applied(Sobel(), image)[..., 0] == expected).all()


factors = st.floats(0, 100) | st.floats(0, 2) | st.sampled_from([0.0, 0.5, 1.0, 1.5, 1.9, 100.0])


@given(sides, channels, kinds, seeds, factors)
@settings(max_examples=300)
def test_sharpness_equals_torchvision(size, channels, kind, seed, factor):
    image = picture(size, channels, kind, seed)
    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    expected = tv.adjust_sharpness(tensor, factor).permute(1, 2, 0).numpy()
    assert (applied(Sharpness(), image, factor) == expected).all()


def philox(counter, key):
    """Four words of Philox 4x32-10 from counters (N,), as Salmon et al. write it, in Python."""
    result = []
    for number in counter:
        c, k = [int(number), 0, 0, 0], [int(word) for word in key]
        for _ in range(10):
            low, high = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [
                high >> 32 ^ c[1] ^ k[0],
                high % 2**32,
                low >> 32 ^ c[3] ^ k[1],
                low % 2**32,
            ]
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        result.append(c)
    return np.array(result, float)


def normals(count, key):
    """The normal numbers of the first `count` pixels, in double precision."""
    a, b, c, d = philox(range(-(-count // 4)), key).T
    pairs = []
    for radius_word, angle_word in ((a, b), (c, d)):
        radius = np.sqrt(-2 * np.log((radius_word + 1) / 2**32))
        angle = 2 * np.pi * angle_word / 2**32
        pairs += [radius * np.cos(angle), radius * np.sin(angle)]
    return np.stack(pairs, axis=1).ravel()[:count]


@given(st.integers(1, 24) | st.just(50), channels, kinds, seeds, st.floats(0, 1), words, words)
@settings(max_examples=60)
def test_noise_equals_a_slow_loop(size, channels, kind, seed, sigma, low, high):
    image = picture(size, channels, kind, seed)
    made = applied(GaussianNoise(), image, sigma, low, high)
    noise = normals(image.size, (low, high)).reshape(channels, size, size).transpose(1, 2, 0)
    exact = np.clip(image + 255 * sigma * noise, 0, 255)
    # Half a level, and what float32 leaves of up to 255 x 6.7 levels.
    assert np.abs(made - exact).max() <= 0.5 + 1e-3


def test_noise_is_normal_and_its_pixels_and_pictures_are_independent():
    size, count, sigma = 64, 8, 0.1
    chain = Policy(((Resize(size), GaussianNoise((sigma, sigma))),))
    images = np.full((count, size, size, 3), 128, np.uint8)
    noise = chain(images, seed=1, epoch=0, indices=range(count))[:, 0].astype(float) - 128
    # Rounding is undone with a number between -0.5 and 0.5.
    smooth = noise + np.random.default_rng(0).uniform(-0.5, 0.5, noise.shape)
    spread = np.hypot(255 * sigma, np.sqrt(1 / 12))
    assert stats.kstest(smooth.ravel(), "norm", (0, spread)).pvalue > 1e-3
    series = [
        noise.reshape(count, -1).T,
        noise.reshape(-1, 3),
        np.stack([noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel()], axis=1),
        np.stack([noise[:, :-1].ravel(), noise[:, 1:].ravel()], axis=1),
    ]
    for columns in series:
        bound = 5 / np.sqrt(len(columns))
        assert np.abs(np.corrcoef(columns.T) - np.eye(columns.shape[1])).max() < bound


def test_noise_depends_on_neither_threads_nor_layout():
    images = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    chain = Policy(((Resize(64), GaussianNoise()),) * 2)
    expected = chain(images, seed=3, epoch=2, indices=range(60))
    assert expected.nbytes > 2 * 400_000  # enough for several slices
    assert (chain(images, seed=3, epoch=2, indices=range(60), threads=3) == expected).all()
    strided = np.asfortranarray(images)
    assert (chain(strided, seed=3, epoch=2, indices=range(60)) == expected).all()
    assert (chain(images[7:9], seed=3, epoch=2, indices=[7, 8]) == expected[7:9]).all()


def test_a_row_tells_sigma_and_its_draws():
    chain = Policy(((Resize(4), GaussianNoise((0.02, 0.3)), Sharpness((0.2, 3.0))),))
    lengths = np.full(4000, 4)
    rows = chain.sample(seed=0, epoch=0, indices=range(4000), heights=lengths, widths=lengths)[:, 0]
    assert dict(chain.describe(rows[0], 0))["noise"] == {"sigma": rows[0, 6]}
    assert stats.kstest(rows[:, 6], "uniform", (0.02, 0.28)).pvalue > 1e-3
    assert stats.kstest(rows[:, 10], "uniform", (0.2, 2.8)).pvalue > 1e-3
    for key in (rows[:, 7], rows[:, 8]):
        assert (key == np.floor(key)).all()
        assert stats.kstest(key, "uniform", (0, 2**32)).pvalue > 1e-3


@pytest.mark.parametrize("operation", [Sobel(), Sharpness((0.0, 2.0)), GaussianNoise()], ids=str)
@pytest.mark.parametrize("size", [1, 2, 20, 33])
def test_a_later_flip_mirrors_what_was_made(operation, size):
    images = np.stack([picture(size, 3, "noise", 3)] * 6)
    chain = Policy(((Resize(size), operation),))
    flipped = Policy(((Resize(size), operation, HorizontalFlip(1.0)),))
    plain = chain(images, seed=0, epoch=0, indices=range(6))
    assert (flipped(images, seed=0, epoch=0, indices=range(6)) == plain[:, :, :, ::-1]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sobel(p=-1.0), "Sobel: p must be"),
        (lambda: Sharpness((-0.1, 1.0)), "Sharpness: factor must be two rising"),
        (lambda: Sharpness((1.0, 101.0)), "Sharpness: factor must be two rising"),
        (lambda: Sharpness(p=2.0), "Sharpness: p must be"),
        (lambda: GaussianNoise((0.0, 1.5)), "GaussianNoise: sigma must be two rising"),
        (lambda: GaussianNoise(0.1), "GaussianNoise: sigma must be two rising"),
        (lambda: GaussianNoise(p=None), "GaussianNoise: p must be"),
    ],
)
def test_bad_values_are_refused_in_one_line(make, message):
    with pytest.raises(UsageError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)
