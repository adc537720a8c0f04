"""Every operation against torchvision v2 on uint8 tensors, with the numbers that were drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from looktwice.augment import (
    Brightness,
    BrightnessContrast,
    CenterCrop,
    ColorJitter,
    Contrast,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Hue,
    Policy,
    RandomResizedCrop,
    Resize,
    Saturation,
    Sepia,
    policy,
)

PARTS = {
    "brightness": tv.adjust_brightness,
    "contrast": tv.adjust_contrast,
    "saturation": tv.adjust_saturation,
    "hue": tv.adjust_hue,
}


def reference(view, described, picture):
    """The view as torchvision makes it: (S, S, C)."""
    tensor = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
    operations = {operation.name: operation for operation in view}
    for name, drawn in described:
        operation = operations[name]
        if name == "crop":
            box = [int(drawn[key]) for key in ("top", "left", "height", "width")]
            mode = InterpolationMode(operation.interpolation)
            # Channels as a batch: torch fails on (3, h, w) -> (3, 1, 1) with an internal error.
            batch = tensor[:, None] if operation.size == 1 else tensor[None]
            batch = tv.resized_crop(batch, *box, [operation.size] * 2, mode, antialias=True)
            tensor = batch.reshape(-1, operation.size, operation.size)
        elif name == "flip":
            tensor = tv.horizontal_flip(tensor)
        elif name == "jitter":
            for part, amount in drawn.items():
                tensor = PARTS[part](tensor, amount)
        elif name == "gray":
            tensor = tv.rgb_to_grayscale(tensor, num_output_channels=tensor.shape[0])
        elif name == "blur":
            size = view[0].size
            side = operation.kernel_size or max(3, 2 * int(size / 20) + 1)
            tensor = tv.gaussian_blur(tensor, [side, side], [drawn["sigma"]] * 2)
        else:
            raise AssertionError(name)
    return tensor.permute(1, 2, 0).numpy()


def compare(views, pictures, *, seed, allowed=0):
    chain = Policy(views)
    heights, widths = [p.shape[0] for p in pictures], [p.shape[1] for p in pictures]
    indices = np.arange(len(pictures)) + 5
    rows = chain.sample(seed=seed, epoch=3, indices=indices, heights=heights, widths=widths)
    made = chain.apply(pictures, rows)
    worst = 0
    for n, picture in enumerate(pictures):
        for v, view in enumerate(views):
            expected = reference(view, chain.describe(rows[n, v], v), picture)
            worst = max(worst, int(np.abs(made[n, v].astype(int) - expected).max()))
    assert worst <= allowed, f"{worst} levels apart"


def pictures(rng, count, height, width, channels, kind="noise"):
    shape = (count, height, width, channels)
    if kind == "noise":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == "extreme":
        return rng.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), shape)
    levels = np.linspace(0, 255, height * width).reshape(1, height, width, 1)
    return np.broadcast_to(levels, shape).astype(np.uint8)


sides = st.integers(1, 70) | st.sampled_from([96, 128, 199, 200, 257, 300])
channels = st.sampled_from([1, 3])
kinds = st.sampled_from(["noise", "extreme", "ramp"])
seeds = st.integers(0, 2**64 - 1)


@given(
    sides,
    sides,
    channels,
    kinds,
    seeds,
    st.integers(1, 48) | st.just(96),
    st.sampled_from(["bilinear", "bicubic"]),
    st.sampled_from([0.01, 0.2, 1.0]),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_crop_equals_torchvision(height, width, channels, kind, seed, size, mode, least):
    images = pictures(np.random.default_rng(seed), 3, height, width, channels, kind)
    crop = RandomResizedCrop(size, scale=(least, 1.0), interpolation=mode)
    compare(((crop,), (crop, HorizontalFlip(1.0))), images, seed=seed)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [20, 32, 64, 224])
def test_crop_equals_torchvision_at_usual_sizes(mode, size):
    rng = np.random.default_rng(size)
    images = [
        rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
        for h, w in [(32, 32), (96, 96), (256, 320), (375, 500)]
    ]
    compare(((RandomResizedCrop(size, interpolation=mode),),) * 3, images, seed=size)


@pytest.mark.parametrize(
    "jitter",
    [
        ColorJitter(brightness=0.8),
        ColorJitter(contrast=0.8),
        ColorJitter(saturation=0.8),
        ColorJitter(hue=0.5),
        ColorJitter(3.0, 3.0, 3.0, 0.5),
        ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["noise", "extreme", "ramp"])
def test_jitter_equals_torchvision(jitter, channels, kind):
    images = pictures(np.random.default_rng(1), 40, 17, 23, channels, kind)
    # Torch rounds the last few of a number of pixels that 16 does not divide differently.
    compare(((RandomResizedCrop(20), jitter, Grayscale(0.3)),) * 2, images, seed=9)


@pytest.mark.parametrize("part", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_part_of_jitter_at_odd_sizes(part, channels):
    images = pictures(np.random.default_rng(1), 20, 17, 23, channels)
    for size in (1, 2, 3, 7, 19, 33):
        compare(((RandomResizedCrop(size), ColorJitter(**{part: 0.5})),), images, seed=9, allowed=1)


def test_colours_equal_torchvision_on_every_colour_of_a_grid():
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    side = 4 * int(np.ceil(np.sqrt(len(grid)) / 4))
    images = np.resize(grid, (1, side, side, 3))
    crop = RandomResizedCrop(side, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    parts = [
        ColorJitter(brightness=1.0),
        ColorJitter(contrast=1.0),
        ColorJitter(saturation=1.0),
        ColorJitter(hue=0.5),
        ColorJitter(hue=0.05),
        Grayscale(1.0),
    ]
    compare(tuple((crop, part) for part in parts), images, seed=0)


def test_a_flip_anywhere_and_two_flips():
    images = pictures(np.random.default_rng(2), 12, 31, 20, 3)
    crop, flip = RandomResizedCrop(16), HorizontalFlip(0.5)
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    views = ((crop, flip, jitter), (crop, jitter, Grayscale(0.5), flip), (crop, flip, jitter, flip))
    compare(views, images, seed=4)


@given(
    sides,
    channels,
    kinds,
    seeds,
    st.sampled_from([None, 1, 3, 5, 23]),
    st.sampled_from([(0.1, 2.0), (0.05, 0.3), (5.0, 9.0)]),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_blur_equals_torchvision(size, channels, kind, seed, kernel, sigma):
    side = kernel or max(3, 2 * int(size / 20) + 1)
    if side // 2 >= size:
        size = side // 2 + 1
    images = pictures(np.random.default_rng(seed), 2, size, size, channels, kind)
    crop = RandomResizedCrop(size, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    compare(((crop, GaussianBlur(sigma, kernel, p=1.0)),), images, seed=seed, allowed=1)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_blur_wider_than_the_picture_reflects_to_and_fro(size):
    chain = Policy(
        (
            (
                RandomResizedCrop(size, scale=(1.0, 1.0), ratio=(1.0, 1.0)),
                GaussianBlur((2.0, 2.0), 11, p=1.0),
            ),
        )
    )
    image = np.random.default_rng(size).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    made = chain(image, seed=0, epoch=0, indices=[0])[0, 0]
    padded = np.pad(image[0].astype(float), ((5, 5), (5, 5), (0, 0)), mode="reflect")
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 2.0) ** 2)
    weights /= weights.sum()
    windows = np.lib.stride_tricks.sliding_window_view(padded, (11, 11), axis=(0, 1))
    expected = np.einsum("yxcij,i,j->yxc", windows, weights, weights)
    assert np.abs(made - expected).max() < 1.0  # two roundings


@pytest.mark.parametrize("name", ["simclr", "moco-v1", "moco-v2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_named_policies_equal_torchvision(name, channels):
    rng = np.random.default_rng(3)
    images = [
        rng.integers(0, 256, (h, w, channels), dtype=np.uint8)
        for h, w in [(32, 32), (28, 28), (61, 40), (1, 9), (50, 1)] * 4
    ]
    compare(policy(name, size=32).views, images, seed=11, allowed=0 if name == "moco-v1" else 1)


def test_channels_of_gray_are_equal_and_one_channel_stays_one():
    images = pictures(np.random.default_rng(5), 4, 20, 20, 3)
    made = Policy(((RandomResizedCrop(12), Grayscale(1.0)),))(
        images, seed=0, epoch=0, indices=range(4)
    )
    assert (made == made[..., :1]).all()
    made = policy("simclr", size=12)(images[..., :1], seed=0, epoch=0, indices=range(4))
    assert made.shape == (4, 2, 12, 12, 1)


def alone(operation, image):
    """One operation on a square picture, nothing resampled, and the numbers that were drawn."""
    chain = Policy(((Resize(len(image)), operation),))
    side = [len(image)]
    rows = chain.sample(seed=1, epoch=2, indices=[3], heights=side, widths=side)
    drawn = dict(chain.describe(rows[0, 0], 0))
    return chain.apply([image], rows)[0, 0], drawn[operation.name]


PARTS_ALONE = [
    (Brightness((0.2, 1.9)), tv.adjust_brightness, "factor"),
    (Contrast((0.2, 1.9)), tv.adjust_contrast, "factor"),
    (Saturation((0.2, 1.9)), tv.adjust_saturation, "factor"),
    (Hue((-0.5, 0.5)), tv.adjust_hue, "shift"),
]


@given(st.integers(1, 70), channels, kinds, seeds, st.sampled_from(PARTS_ALONE))
@settings(max_examples=60)
def test_each_part_of_the_jitter_alone_equals_torchvision(size, channels, kind, seed, part):
    operation, reference, name = part
    if operation.colour_only:
        channels = 3
    image = pictures(np.random.default_rng(seed), 1, size, size, channels, kind)[0]
    made, drawn = alone(operation, image)
    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    expected = reference(tensor, drawn[name]).permute(1, 2, 0).numpy()
    # torch adds the last pixels of a plane that 8 does not divide without fusing.
    assert np.abs(made.astype(int) - expected).max() <= (0 if size % 8 == 0 else 1)


@given(st.integers(1, 70), channels, kinds, seeds)
@settings(max_examples=40)
def test_additive_brightness_and_contrast_are_albumentations_table(size, channels, kind, seed):
    image = pictures(np.random.default_rng(seed), 1, size, size, channels, kind)[0]
    made, drawn = alone(BrightnessContrast((-0.9, 0.9), (-0.9, 2.0)), image)
    levels = np.arange(256, dtype=np.float32) * np.float32(1 + drawn["contrast"])
    levels += np.float32(255 * drawn["brightness"])
    table = np.clip(levels, 0, 255)
    error = made - table[image]
    assert error.max() < 0.001  # cut off, as a conversion to uint8 does
    assert error.min() > -1.001


@given(st.integers(1, 70), kinds, seeds)
@settings(max_examples=40)
def test_sepia_is_albumentations_matrix(size, kind, seed):
    image = pictures(np.random.default_rng(seed), 1, size, size, 3, kind)[0]
    made, _ = alone(Sepia(p=1.0), image)
    matrix = [[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]]
    expected = np.clip(image.astype(np.float64) @ np.array(matrix).T, 0, 255)
    assert np.abs(made - expected).max() <= 0.5001


@given(
    sides, sides, channels, kinds, seeds,
    st.integers(1, 64), st.integers(0, 40), st.sampled_from(["bilinear", "bicubic"]),
)  # fmt: skip
@settings(max_examples=80)
def test_the_centre_equals_torchvisions_resize_and_crop(
    height, width, channels, kind, seed, size, more, mode
):
    image = pictures(np.random.default_rng(seed), 1, height, width, channels, kind)[0]
    resize = size + more
    chain = Policy(((CenterCrop(size, resize, mode),),))
    made = chain([image], seed=0, epoch=0, indices=[0])[0, 0]
    # Channels as a batch: torch fails on some (3, h, w) with an internal error.
    batch = torch.from_numpy(image).permute(2, 0, 1).contiguous()[:, None]
    resized = tv.resize(batch, [resize], InterpolationMode(mode), antialias=True)
    expected = tv.center_crop(resized, [size, size])[:, 0].permute(1, 2, 0).numpy()
    assert (made == expected).all()


@given(sides, sides, channels, seeds, st.integers(1, 64))
@settings(max_examples=40)
def test_resizing_the_whole_picture_equals_torchvision(height, width, channels, seed, size):
    image = pictures(np.random.default_rng(seed), 1, height, width, channels)[0]
    made = Policy(((Resize(size),),))([image], seed=0, epoch=0, indices=[0])[0, 0]
    batch = torch.from_numpy(image).permute(2, 0, 1).contiguous()[:, None]
    expected = tv.resize(batch, [size, size], antialias=True)[:, 0].permute(1, 2, 0).numpy()
    assert (made == expected).all()
