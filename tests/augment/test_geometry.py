"""Turns, rotations and erased boxes against numpy and torchvision v2."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

from looktwice.augment import (
    Cutout,
    HorizontalFlip,
    Policy,
    QuarterTurn,
    RandomErasing,
    Resize,
    Rotation,
)
from looktwice.errors import UsageError

sides = st.integers(1, 70) | st.sampled_from([96, 199, 224])
channels = st.sampled_from([1, 3])
kinds = st.sampled_from(["noise", "extreme", "ramp"])
seeds = st.integers(0, 2**32 - 1)
fills = st.sampled_from([0, 1, 100, 255])


def picture(size, channels, kind, seed):
    rng = np.random.default_rng(seed)
    shape = (size, size, channels)
    if kind == "noise":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == "extreme":
        return rng.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), shape)
    levels = np.linspace(0, 255, size * size * channels)
    return levels.reshape(shape).astype(np.uint8)


def sampled(operation, size, count=1, seed=0):
    """A policy of one operation, and rows for `count` pictures of its size."""
    chain = Policy(((Resize(size), operation),))
    lengths = np.full(count, size)
    rows = chain.sample(
        seed=seed, epoch=0, indices=np.arange(count), heights=lengths, widths=lengths
    )
    return chain, rows


def applied(operation, image, *drawn, seed=0):
    """What an operation makes of a picture (S, S, C) with drawn numbers, and how it tells them."""
    chain, rows = sampled(operation, image.shape[0], seed=seed)
    if drawn:
        rows[0, 0, 6 : 6 + len(drawn)] = drawn
    return chain.apply(image[None], rows)[0, 0], dict(chain.describe(rows[0, 0], 0))[operation.name]


@given(sides, channels, seeds, st.integers(0, 3))
@settings(max_examples=80)
def test_a_quarter_turn_equals_rot90(size, channels, seed, quarters):
    image = picture(size, channels, "noise", seed)
    made, told = applied(QuarterTurn(), image, quarters)
    assert told == {"degrees": 90 * quarters}
    assert (made == np.rot90(image, quarters)).all()


def test_quarter_turns_are_equally_likely():
    _, rows = sampled(QuarterTurn(), 5, 8000)
    counts = np.bincount(rows[:, 0, 6].astype(int), minlength=4)
    assert len(counts) == 4
    assert stats.chisquare(counts).pvalue > 1e-3


def rotated(image, degrees, interpolation, fill):
    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    mode = InterpolationMode(interpolation)
    turned = tv.rotate(tensor, degrees, mode, fill=[float(fill)] * image.shape[2])
    return turned.permute(1, 2, 0).numpy()


angles = st.floats(-360, 360) | st.sampled_from(
    [0.0, 30.0, -30.0, 45.0, 60.0, 90.0, -90.0, 180.0, 270.0, 360.0, -360.0, 1e-9, -1e-20]
)


def on_borders(size, degrees):
    """Which pixels' sources lie on a border between two, as far as float32 can tell (S, S).

    There torch itself differs from CPU to CPU: it multiplies matrices as the CPU does it best.
    """
    angle, middle = np.radians(degrees), (size - 1) / 2
    y, x = np.mgrid[:size, :size] - middle
    sources = np.stack(
        [np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y]
    )
    return (np.abs((sources + middle) % 1 - 0.5) < 1e-6 * size).any(axis=0)


@given(sides, channels, kinds, seeds, angles, fills)
@example(199, 1, "noise", 0, 131.79773839602638, 0)
@settings(max_examples=300)
def test_nearest_rotation_equals_torchvision(size, channels, kind, seed, degrees, fill):
    image = picture(size, channels, kind, seed)
    made, told = applied(Rotation(interpolation="nearest", fill=fill), image, degrees)
    assert told == {"degrees": degrees}
    differs = (made != rotated(image, degrees, "nearest", fill)).any(axis=2)
    assert not (differs & ~on_borders(size, degrees)).any()
    assert differs.sum() <= max(2, size * size // 1000)


@given(sides, channels, kinds, seeds, angles, fills)
@example(224, 1, "noise", 203905, 45.0, 255)
@example(6, 3, "noise", 1315, -30.0, 100)
@example(8, 3, "noise", 1479, 15.0, 0)
@settings(max_examples=300)
def test_bilinear_rotation_is_torchvisions_within_a_level(
    size, channels, kind, seed, degrees, fill
):
    image = picture(size, channels, kind, seed)
    made, _ = applied(Rotation(fill=fill), image, degrees)
    expected = rotated(image, degrees, "bilinear", fill)
    assert np.abs(made.astype(int) - expected).max(initial=0) <= 1
    assert (made != expected).mean() <= 0.01 + 2 / made.size


def test_angles_are_drawn_from_their_range():
    _, rows = sampled(Rotation((-20.0, 50.0)), 5, 4000)
    assert stats.kstest(rows[:, 0, 6], "uniform", (-20, 70)).pvalue > 1e-3


def cut_out(image, side, row, column, fill):
    """Each pixel asked for itself whether it lies in the square around (row, column)."""
    size = len(image)
    length = max(1, int(np.rint(side * size)))
    result = image.copy()
    for y in range(size):
        for x in range(size):
            if 0 <= y - row + length // 2 < length and 0 <= x - column + length // 2 < length:
                result[y, x] = fill
    return result


@given(sides, channels, seeds, fills, st.floats(0.01, 1.0))
@settings(max_examples=80)
def test_cutout_fills_a_square_around_a_pixel(size, channels, seed, fill, side):
    image = picture(size, channels, "noise", seed)
    made, told = applied(Cutout((side, side), fill=fill), image, seed=seed)
    row, column = int(told["row"]), int(told["column"])
    assert (made == cut_out(image, told["side"], row, column, fill)).all()


@pytest.mark.parametrize("row", [0, 6])
@pytest.mark.parametrize("column", [0, 3, 6])
@pytest.mark.parametrize("side", [0.01, 0.5, 1.0, -1e308, 1e308])
def test_a_square_at_the_border_is_cut_off(row, column, side):
    image = picture(7, 3, "noise", 1)
    made, _ = applied(Cutout(), image, side, row, column)
    assert (made == cut_out(image, min(max(side, 0), 1), row, column, 0)).all()


def test_centres_of_squares_are_uniform_over_all_pixels():
    _, rows = sampled(Cutout((0.2, 0.6)), 5, 10_000)
    side, row, column = rows[:, 0, 6:9].T
    counts = np.bincount((5 * row + column).astype(int), minlength=25)
    assert len(counts) == 25
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.kstest(side, "uniform", (0.2, 0.4)).pvalue > 1e-3


@given(sides, channels, seeds, fills)
@settings(max_examples=80)
def test_erasing_equals_torchvision(size, channels, seed, fill):
    image = picture(size, channels, "noise", seed)
    made, told = applied(RandomErasing(fill=fill, p=1.0), image, seed=seed)
    box = [int(told[key]) for key in ("top", "left", "height", "width")]
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = tv.erase(tensor, *box, torch.full((channels, 1, 1), fill, dtype=torch.uint8))
    assert (made == expected.permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [(32, (0.02, 0.33), (0.3, 3.3)), (9, (0.5, 1.0), (0.2, 1.5)), (64, (0.3, 0.4), (0.1, 2.0))],
)
def test_boxes_are_distributed_as_torchvisions(size, scale, ratio):
    count = 20_000
    _, rows = sampled(RandomErasing(scale, ratio, p=1.0), size, count)
    ours = rows[:, 0, 6:10]
    torch.manual_seed(0)
    erasing, tensor = v2.RandomErasing(scale=scale, ratio=ratio), torch.empty(3, size, size)
    drawn = [erasing.make_params([tensor]) for _ in range(count)]
    # Where none of ten tries fits, torchvision returns the whole picture's box and no value.
    keys = ("i", "j", "h", "w")
    theirs = np.array([[0 if box["v"] is None else box[key] for key in keys] for box in drawn])
    found, expected = ours[:, 2] > 0, theirs[:, 2] > 0
    table = [[found.sum(), count - found.sum()], [expected.sum(), count - expected.sum()]]
    assert stats.fisher_exact(table).pvalue > 1e-3
    ours, theirs = ours[found], theirs[expected]
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    for shape in (lambda box: box[:, 2] * box[:, 3], lambda box: box[:, 2] / box[:, 3]):
        assert stats.ks_2samp(shape(ours), shape(theirs)).pvalue > 1e-3


@pytest.mark.parametrize(
    "operation", [QuarterTurn(), Rotation(), Cutout(), RandomErasing(p=1.0)], ids=lambda o: o.name
)
def test_a_later_flip_stays_where_it_is(operation):
    image = picture(21, 3, "noise", 3)
    chain = Policy(((Resize(21), operation),))
    flipped = Policy(((Resize(21), operation, HorizontalFlip(1.0)),))
    plain = chain(np.stack([image] * 20), seed=0, epoch=0, indices=range(20))
    made = flipped(np.stack([image] * 20), seed=0, epoch=0, indices=range(20))
    assert (made == plain[:, :, :, ::-1]).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: QuarterTurn(p=2.0), "QuarterTurn: p must be"),
        (lambda: Rotation((10.0, -10.0)), "Rotation: degrees must be two rising"),
        (lambda: Rotation((-400.0, 0.0)), "Rotation: degrees must be two rising"),
        (lambda: Rotation(interpolation="bicubic"), "must be one of nearest, bilinear"),
        (lambda: Rotation(fill=256), "Rotation: fill must be a whole number"),
        (lambda: Rotation(p=-0.1), "Rotation: p must be"),
        (lambda: Cutout((0.0, 0.5)), "Cutout: side must be two rising"),
        (lambda: Cutout((0.5, 1.5)), "Cutout: side must be two rising"),
        (lambda: Cutout(fill=0.5), "Cutout: fill must be a whole number"),
        (lambda: Cutout(p="x"), "Cutout: p must be"),
        (lambda: RandomErasing(scale=(0.0, 0.3)), "RandomErasing: scale must be two rising"),
        (lambda: RandomErasing(ratio=(0.0, 3.0)), "RandomErasing: ratio must be two rising"),
        (lambda: RandomErasing(fill=-1), "RandomErasing: fill must be a whole number"),
        (lambda: RandomErasing(p=1.1), "RandomErasing: p must be"),
    ],
)
def test_bad_values_are_refused_in_one_line(make, words):
    with pytest.raises(UsageError, match=words) as refused:
        make()
    assert "\n" not in str(refused.value)
