from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from looktwice.augment import Policy
from looktwice.augment import policy as named_policy
from looktwice.data import ArraySource, Splits
from looktwice.errors import BadPictureError, DataError, RunError, UsageError
from looktwice.report import view_pairs, write_preview
from looktwice.report.sheet import CELL, GAP


def test_views_are_those_of_training(splits: Splits, policy: Policy) -> None:
    source = splits.train
    for one in view_pairs(source, policy, 5, seed=3, epoch=2):
        np.testing.assert_array_equal(one.picture, source.image(one.index))
        assert one.identifier == source.identifier(one.index)
        trained = policy([one.picture], seed=3, epoch=2, indices=np.array([one.index]))[0]
        for view, pixels in zip(one.views, trained, strict=True):
            np.testing.assert_array_equal(view.pixels, pixels)
            top, left, height, width = view.box
            assert 0 <= top <= top + height <= 28
            assert 0 <= left <= left + width <= 28


def test_boxes_tell_the_crop(splits: Splits) -> None:
    crop_only = named_policy("simclr", size=20, jitter_p=0, gray_p=0, blur_p=0, flip_p=0)
    for one in view_pairs(splits.train, crop_only, 4, seed=1):
        for view in one.views:
            top, left, height, width = (int(number) for number in view.box)
            part = one.picture[top : top + height, left : left + width]
            assert view.in_words == ()
            assert abs(part.mean() - view.pixels.mean()) < 12


def test_drawn_by_seed_every_class_first(splits: Splits, policy: Policy) -> None:
    one = [shown.index for shown in view_pairs(splits.train, policy, 8, seed=0)]
    assert one == [shown.index for shown in view_pairs(splits.train, policy, 8, seed=0)]
    assert one != [shown.index for shown in view_pairs(splits.train, policy, 8, seed=1)]
    assert len(set(one)) == 8
    assert splits.train.labels is not None
    assert len({int(splits.train.labels[index]) for index in one}) >= 7


def test_words(splits: Splits) -> None:
    always = named_policy("simclr", size=20, jitter_p=1, gray_p=1, flip_p=1, blur_p=1)
    grey = view_pairs(splits.train, always, 1)[0].views[0].in_words
    assert grey[0] == "horizontal flip"
    assert {word.split()[0] for word in grey} == {
        "horizontal",
        "brightness",
        "contrast",
        "gaussian",
    }
    colours = ArraySource(np.zeros((3, 30, 40, 3), np.uint8))
    spoken = view_pairs(colours, always, 1)[0].views[0].in_words
    assert {"hue", "saturation", "grayscale"} <= {word.split()[0] for word in spoken}


def test_fewer_pictures_than_asked(policy: Policy) -> None:
    assert len(view_pairs(ArraySource(np.zeros((3, 9, 9), np.uint8)), policy, 8)) == 3
    with pytest.raises(UsageError, match="at least one picture, not 0"):
        view_pairs(ArraySource(np.zeros((3, 9, 9), np.uint8)), policy, 0)


def test_unreadable_pictures_are_passed_over(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ArraySource(np.zeros((10, 9, 9), np.uint8))
    readable, image = {2, 5}, source.image

    def image_or_fail(i: int) -> np.ndarray:
        if i in readable:
            return image(i)
        raise BadPictureError(str(i), "truncated")

    monkeypatch.setattr(source, "image", image_or_fail)
    assert {one.index for one in view_pairs(source, policy, 8)} == {2, 5}
    readable.clear()
    with pytest.raises(DataError, match="none of 10 pictures tried in array can be read"):
        view_pairs(source, policy, 8)


def test_png_shows_whole_pixels(splits: Splits, policy: Policy, tmp_path: Path) -> None:
    path = write_preview(splits.train, policy, tmp_path / "new" / "views.png", count=2, seed=4)
    with Image.open(path) as image:
        sheet = np.asarray(image)
    first = view_pairs(splits.train, policy, 2, seed=4)[0]
    for number, view in enumerate(first.views, start=1):
        factor = CELL // 20
        expected = view.pixels.repeat(factor, 0).repeat(factor, 1).repeat(3, 2)
        left = GAP + number * (CELL + GAP)
        np.testing.assert_array_equal(
            sheet[GAP : GAP + 20 * factor, left : left + 20 * factor], expected
        )
    again = write_preview(splits.train, policy, tmp_path / "again.png", count=2, seed=4)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 200, 3), (200, 1, 1), (300, 451, 3), (64, 64, 1)])
def test_any_shape_is_drawn(shape: tuple[int, int, int], policy: Policy, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    path = write_preview(ArraySource(pictures), policy, tmp_path / "views.png", count=1)
    with Image.open(path) as image:
        assert image.width == 2 * GAP + 3 * (CELL + GAP) + GAP


def test_an_unwritable_place(splits: Splits, policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_preview(splits.train, policy, tmp_path / "file" / "views.png", count=1)
