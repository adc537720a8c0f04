"""Named policies, number by number against their sources, and the changes one can make to them."""

import numpy as np
import pytest

from looktwice.augment import (
    CLAHE,
    AutoAugment,
    BrightnessContrast,
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Policy,
    Posterize,
    RandomResizedCrop,
    Sepia,
    Solarize,
    policy,
)
from looktwice.augment.named import BRANCH, DERIVED, NAMED
from looktwice.errors import UsageError

FLIP, GRAY = HorizontalFlip(0.5), Grayscale(0.2)
JITTER = ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)
BLUR = GaussianBlur((0.1, 2.0), None, p=0.5)
PLUS = (RandomResizedCrop(32, (0.08, 1.0), (3 / 4, 4 / 3), "bicubic"), JITTER, FLIP, GRAY)
SOLARIZE, CLAHE_02 = Solarize(128, p=0.2), CLAHE((4.0, 4.0), (8, 8), p=0.2)
BRIGHTNESS = BrightnessContrast((-0.2, 0.2), (0.0, 0.0), p=0.2)
V3 = (RandomResizedCrop(32, (0.08, 1.0)), ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8), GRAY)

# From the papers' appendices and the authors' code, not from ours.
SOURCES = {
    "simclr": [(RandomResizedCrop(32), FLIP, ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8), GRAY, BLUR)],
    "simclr-cifar": [(RandomResizedCrop(32), FLIP, JITTER, GRAY)],
    "moco-v1": [
        (RandomResizedCrop(32, (0.2, 1.0)), GRAY, ColorJitter(0.4, 0.4, 0.4, 0.4, p=1.0), FLIP)
    ],
    "moco-v2": [(RandomResizedCrop(32, (0.2, 1.0)), JITTER, GRAY, BLUR, FLIP)],
    "moco-v3": [
        (*V3, GaussianBlur(p=1.0), FLIP),
        (*V3, GaussianBlur(p=0.1), Solarize(128, p=0.2), FLIP),
    ],
    "moco-cifar": [(RandomResizedCrop(32), FLIP, JITTER, GRAY)],
    "autoaugment": [(RandomResizedCrop(32), FLIP, AutoAugment())],
    "aug-plus": [(*PLUS, SOLARIZE, CLAHE_02, BRIGHTNESS)],
    "aug-plus-base": [PLUS],
    "aug-plus-solarize": [(*PLUS, SOLARIZE)],
    "aug-plus-clahe": [(*PLUS, CLAHE_02)],
    "aug-plus-brightness": [(*PLUS, BRIGHTNESS)],
    "aug-plus-brightness-contrast": [(*PLUS, BrightnessContrast((-0.2, 0.2), (-0.2, 0.2), p=0.2))],
    "aug-plus-solarize-clahe": [(*PLUS, SOLARIZE, CLAHE_02)],
    "aug-plus-solarize-brightness": [(*PLUS, SOLARIZE, BRIGHTNESS)],
    "aug-plus-clahe-brightness": [(*PLUS, CLAHE_02, BRIGHTNESS)],
    "aug-plus-blur": [(*PLUS, BLUR)],
    "aug-plus-no-gray": [PLUS[:-1]],
    "aug-plus-sepia": [(*PLUS, Sepia(p=0.2))],
    "aug-plus-posterize": [(*PLUS, Posterize(4, p=0.2))],
}


@pytest.mark.parametrize("name", SOURCES)
def test_policies_are_their_sources(name):
    views = SOURCES[name]
    assert policy(name, size=32).views == tuple(views[v % len(views)] for v in range(2))


def test_every_name_is_covered():
    assert {*SOURCES, "aug-plus-schedule", "supervised", "eval"} == {*NAMED}


def test_supervised_and_eval_have_one_view():
    assert policy("supervised", size=32).views == ((RandomResizedCrop(32), FLIP),)
    assert policy("eval", size=224).views == ((CenterCrop(224, 256),),)
    assert policy("eval", size=32).views == ((CenterCrop(32, 32),),)


@pytest.mark.parametrize(
    ("epoch", "strength"),
    [(0, 0.4), (49, 0.4), (50, 0.6), (99, 0.6), (100, 0.8), (150, 1.0), (10**6, 1.0)],
)
def test_the_schedule_widens_the_jitter(epoch, strength):
    chain = policy("aug-plus-schedule", size=4)
    count = 4000
    rows = chain.sample(
        seed=0, epoch=epoch, indices=range(count), heights=[4] * count, widths=[4] * count
    )
    drawn = [dict(chain.describe(row, 0)).get("jitter") for row in rows[:, 0]]
    for part in ("brightness", "contrast", "saturation"):
        factors = np.array([numbers[part] for numbers in drawn if numbers])
        assert factors.min() >= 1 - strength
        assert factors.max() <= 1 + strength
        assert factors.max() - factors.min() > 1.98 * strength
    hues = np.array([numbers["hue"] for numbers in drawn if numbers])
    assert np.abs(hues).max() == pytest.approx(strength / 4, rel=0.02)


def test_downcrop_is_smaller_with_another_scale():
    chain = policy("downcrop", base="moco-v2", size=50, min_scale=0.3)
    view = policy("moco-v2", size=96).views[0]
    assert chain.views == ((RandomResizedCrop(50, (0.3, 1.0)), *view[1:]),) * 2
    assert policy("downcrop", size=50).views[0][0].scale == (0.2, 1.0)


def test_triple_crop_has_three_equal_views():
    view = policy("moco-cifar", size=32).views[0]
    assert policy("triple-crop", base="moco-cifar", size=32).views == (view,) * 3


def test_multi_crop_has_two_sizes():
    chain = policy("multi-crop", size=224)
    assert chain.groups == {224: (0, 1), 96: (2, 3, 4, 5, 6, 7)}
    assert [view[0].scale for view in chain.views] == [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 6
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    chain = policy("multi-crop", base="simclr-cifar", size=32, small_views=3, small_size=20)
    large, small = chain(images, seed=1, epoch=2, indices=[5, 6, 7])
    assert large.shape == (3, 2, 32, 32, 3)
    assert small.shape == (3, 3, 20, 20, 3)
    # Each view is what it would be without the views of the other size.
    rows = chain.sample(seed=1, epoch=2, indices=[5, 6, 7], heights=[40] * 3, widths=[50] * 3)
    alone = Policy(chain.views[:2]).apply(images, rows[:, :2])
    assert (alone == large).all()
    out = np.empty_like(large), np.empty_like(small)
    again = chain(images, seed=1, epoch=2, indices=[5, 6, 7], out=out)
    assert again[0] is out[0]
    assert (out[1] == small).all()


def test_one_branch_leaves_the_other_cropped():
    chain = policy("one-branch", size=32)
    assert chain.views == (policy("simclr", size=32).views[0], (RandomResizedCrop(32),))
    chain = policy("one-branch", size=32, operations=("color", "rotate"))
    assert [step.name for step in chain.views[0]] == ["crop", "jitter", "gray", "quarter-turn"]
    assert chain.views[1] == (RandomResizedCrop(32),)
    changed = policy("one-branch", size=32, operations=("color",), strength=0.5, gray_p=0.0)
    assert changed.views[0][1:] == (ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),)
    assert {*BRANCH} == {"crop", "cutout", "color", "sobel", "noise", "blur", "rotate"}


def test_changes_by_keyword():
    chain = policy(
        "simclr", size=8, strength=0.5, min_scale=0.3, max_scale=0.7, interpolation="bicubic",
        flip_p=0.1, jitter_p=0.2, gray_p=0.0, blur=False, num_views=3,
    )  # fmt: skip
    crop = RandomResizedCrop(8, (0.3, 0.7), interpolation="bicubic")
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.2)
    assert chain.views == ((crop, HorizontalFlip(0.1), jitter),) * 3
    assert policy("simclr-cifar", size=8, blur=True).views[0][-1] == GaussianBlur(p=0.5)
    assert policy("moco-v3", size=8, blur=True) == policy("moco-v3", size=8)
    assert policy("simclr", size=8, blur_p=0.3).views[0][-1] == GaussianBlur(p=0.3)


def test_changes_by_method():
    chain = policy("simclr", size=8)
    names = [step.name for step in chain.without("gray", "blur").views[1]]
    assert names == ["crop", "flip", "jitter"]
    assert [step.name for step in chain.only("jitter").views[0]] == ["crop", "jitter"]
    assert chain.replace("crop", size=9, scale=(0.5, 1.0)).size == 9
    assert chain.replace("gray", p=1.0).views[0][3] == Grayscale(1.0)
    assert chain.then(Solarize(p=0.5)).views[0][-1] == Solarize(p=0.5)
    assert chain == policy("simclr", size=8)  # a value: nothing above changed it


def test_printing_names_every_operation_and_number():
    text = str(policy("moco-v3", size=8))
    assert text.count("1 view of 8 px:") == 2
    assert "  jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8, " in text
    assert "2 views of 8 px:" in str(policy("simclr", size=8))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: policy("simclrr", size=8), "did you mean 'simclr'"),
        (lambda: policy("simclr", size=0), "size"),
        (lambda: policy("simclr", size=8, base="moco-v1"), "no base"),
        (lambda: policy("downcrop", size=8, base="nothing"), "no base is called"),
        (lambda: policy("triple-crop", size=8, num_views=4), "num_views"),
        (lambda: policy("simclr", size=8, small_views=4), "small"),
        (lambda: policy("multi-crop", size=8, small_size=9), "small_size"),
        (lambda: policy("simclr", size=8, operations=("blur",)), "operations"),
        (lambda: policy("one-branch", size=8, operations=("blurr",)), "did you mean 'blur'"),
        (lambda: policy("simclr", size=8, strength=-1.0), "strength"),
        (lambda: policy("supervised", size=8, strength=-1.0), "strength"),
        (lambda: policy("eval", size=8, min_scale=0.5), "CenterCrop has no scale"),
        (lambda: policy("simclr", size=8).without("crop"), "a view needs its crop"),
        (lambda: policy("simclr", size=8).without("grey"), "did you mean 'gray'"),
        (lambda: policy("simclr", size=8).replace("gray", q=1), "gray has no 'q'"),
        (lambda: policy("simclr", size=8).replace("gray", p=1.5), "p must be a number in"),
    ],
)
def test_mistakes_are_told_in_one_line(make, words):
    with pytest.raises(UsageError) as caught:
        make()
    assert words in str(caught.value).replace("Did you mean", "did you mean")
    assert "\n" not in str(caught.value)


def test_colours_where_there_are_none():
    chain = policy("aug-plus-sepia", size=8)
    with pytest.raises(UsageError, match=r"sepia in view 0 needs pictures of 3 channels"):
        chain.check_channels(1)
    grey = np.zeros((1, 9, 9, 1), np.uint8)
    with pytest.raises(UsageError, match=r"leave it out with \.without\('sepia'\)"):
        chain(grey, seed=0, epoch=0, indices=[0])
    assert chain.without("sepia")(grey, seed=0, epoch=0, indices=[0]).shape == (1, 2, 8, 8, 1)


def test_derived_names_have_known_bases():
    assert {*DERIVED.values()} <= {*NAMED}
