"""AutoAugment against torchvision v2's own operations, table and magnitudes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import InterpolationMode, v2

from looktwice.augment import AutoAugment, HorizontalFlip, Policy, Resize
from looktwice.augment.operations.autoaugment import SUB_POLICIES
from looktwice.errors import UsageError

THEIRS = v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)
NAMES = {"ShearX": "shear-x", "Color": "saturation"}
# Torch rounds the last few of a number of pixels that 16 does not divide differently in these.
BLENDS = {"Color", "Contrast"}


def magnitude(name, level, size, negative):
    """Torchvision's magnitude, with its sign."""
    bins, signed = THEIRS._AUGMENTATION_SPACE[name]
    values = bins(10, size, size)
    amount = 0.0 if values is None else float(values[level])
    return -amount if signed and negative else amount


def transformed(image, steps):
    """A picture (S, S, C) after torchvision's operations (name, magnitude)."""
    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    for name, amount in steps:
        tensor = THEIRS._apply_image_or_video_transform(
            tensor, name, amount, interpolation=InterpolationMode.NEAREST, fill=THEIRS._fill
        )
    return tensor.permute(1, 2, 0).numpy()


def applied(image, *drawn):
    """A picture after sub-policy, two chances and two signs, and how the row tells it."""
    size = len(image)
    chain = Policy(((Resize(size), AutoAugment()),))
    rows = chain.sample(seed=0, epoch=0, indices=[0], heights=[size], widths=[size])
    rows[0, 0, 6:11] = drawn
    return chain.apply(image[None], rows)[0, 0], dict(chain.describe(rows[0, 0], 0))["autoaugment"]


def blends(sub_policy):
    return any(name in BLENDS for name, _, _ in THEIRS._policies[sub_policy])


def picture(size, channels, kind, seed):
    rng = np.random.default_rng(seed)
    shape = (size, size, channels)
    if kind == "noise":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == "dark":
        return rng.integers(30, 90, shape, dtype=np.uint8)
    levels = np.linspace(0, 255, size * size * channels)
    return levels.reshape(shape).astype(np.uint8)


def test_the_table_is_torchvisions():
    theirs = [
        tuple((NAMES.get(name, name.lower()), p, level or 0) for name, p, level in steps)
        for steps in THEIRS._policies
    ]
    assert list(SUB_POLICIES) == theirs


@pytest.mark.parametrize("sub_policy", range(25))
@pytest.mark.parametrize("kind", ["noise", "dark", "ramp"])
def test_each_sub_policy_and_sign_equals_torchvision(sub_policy, kind):
    for size in (1, 2, 3, 7, 17, 32, 45, 64, 96, 224):
        for channels in (1, 3):
            image = picture(size, channels, kind, size)
            for signs in ((0, 0), (0, 1), (1, 0), (1, 1)):
                # A chance of 0 applies a step of any probability but 0.
                steps = [
                    (name, magnitude(name, level, size, negative))
                    for (name, p, level), negative in zip(
                        THEIRS._policies[sub_policy], signs, strict=True
                    )
                    if p > 0
                ]
                made, _ = applied(image, sub_policy, 0.0, 0.0, *signs)
                difference = np.abs(made.astype(int) - transformed(image, steps)).max()
                allowed = 1 if size % 4 and blends(sub_policy) else 0
                assert difference <= allowed, (size, channels, signs)


@given(
    st.integers(1, 70),
    st.sampled_from([1, 3]),
    st.sampled_from(["noise", "dark", "ramp"]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 24),
    st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
)
@settings(max_examples=300)
def test_any_row_equals_torchvision(size, channels, kind, seed, sub_policy, chances, signs):
    if blends(sub_policy):
        size = 4 * -(-size // 4)
    image = picture(size, channels, kind, seed)
    draws = zip(THEIRS._policies[sub_policy], chances, signs, strict=True)
    steps = [
        (name, magnitude(name, level, size, negative))
        for (name, p, level), chance, negative in draws
        if chance < p
    ]
    made, told = applied(image, sub_policy, *chances, *signs)
    names = [NAMES.get(name, name.lower()) for name, _ in steps]
    if names == ["posterize", "posterize"]:
        names[1] += " again"
    assert list(told) == list(dict.fromkeys(names))
    assert (made == transformed(image, steps)).all()


def test_a_row_tells_what_was_done():
    image = picture(8, 3, "noise", 0)
    for drawn, expected in [
        ((0, 0.0, 0.0, 1, 1), {"posterize": 4, "rotate": -30}),
        ((0, 0.5, 0.5, 1, 0), {"rotate": 30}),
        ((0, 0.5, 0.7, 1, 1), {}),
        ((1, 0.0, 0.0, 1, 1), {"solarize": pytest.approx(255 * 4 / 9), "autocontrast": 1}),
        ((2, 0.0, 0.0, 0, 0), {"equalize": 2}),
        ((3, 0.0, 0.7, 0, 0), {"posterize": 5}),
        ((8, 0.1, 0.9, 1, 0), {"rotate": pytest.approx(-10)}),
        ((12, 0.0, 0.0, 0, 0), {"equalize": 1}),
        ((14, 0.3, 0.3, 1, 0), {"saturation": pytest.approx(0.6), "contrast": pytest.approx(1.8)}),
        ((18, 0.3, 0.3, 1, 0), {"shear-x": pytest.approx(-1 / 6), "equalize": 1}),
    ]:
        assert applied(image, *drawn)[1] == expected


def test_the_draws_are_uniform():
    chain, lengths = Policy(((Resize(4), AutoAugment()),)), np.full(20_000, 4)
    rows = chain.sample(seed=0, epoch=0, indices=range(20_000), heights=lengths, widths=lengths)[
        :, 0, 6:
    ]
    counts = np.bincount(rows[:, 0].astype(int), minlength=25)
    assert len(counts) == 25
    assert stats.chisquare(counts).pvalue > 1e-3
    for chance in (rows[:, 1], rows[:, 2]):
        assert stats.kstest(chance, "uniform").pvalue > 1e-3
    for negative in (rows[:, 3], rows[:, 4]):
        assert set(negative) == {0.0, 1.0}
        assert stats.binomtest(int(negative.sum()), len(negative), 0.5).pvalue > 1e-3
    assert np.abs(np.corrcoef(rows.T) - np.eye(5)).max() < 0.04


def test_a_later_flip_mirrors_what_was_made():
    images = np.stack([picture(21, 3, "noise", 3)] * 60)
    chain = Policy(((Resize(21), AutoAugment()),))
    flipped = Policy(((Resize(21), AutoAugment(), HorizontalFlip(1.0)),))
    plain = chain(images, seed=0, epoch=0, indices=range(60))
    made = flipped(images, seed=0, epoch=0, indices=range(60))
    assert (made == plain[:, :, :, ::-1]).all()


def test_bad_values_are_refused_in_one_line():
    with pytest.raises(UsageError, match="AutoAugment: p must be a number") as refused:
        AutoAugment(p=1.5)
    assert "\n" not in str(refused.value)


def test_two_steps_of_one_name_are_both_told():
    names = [tuple(name for name, *_ in pair) for pair in SUB_POLICIES]
    pair = names.index(("posterize", "posterize"))
    _, told = applied(picture(9, 3, "noise", 0), pair, 0.0, 0.0, 0.0, 0.0)
    assert list(told) == ["posterize", "posterize again"]
