from __future__ import annotations

import html
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from looktwice import config, storage
from looktwice.augment import (
    Brightness,
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    HorizontalFlip,
    Policy,
    RandomResizedCrop,
    Resize,
)
from looktwice.augment import policy as named_policy
from looktwice.config import Config
from looktwice.data import ArraySource, Splits
from looktwice.errors import BadPictureError, DataError, RunError, UsageError
from looktwice.report import View, boxes, preview_file, run, view_pairs, write_preview
from looktwice.report.numbers import drawn
from looktwice.report.preview_page import render_preview
from looktwice.report.sheet import CELL, GAP, draw_preview


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
    assert grey[0] == "flip"
    assert {word.split()[0] for word in grey} == {"flip", "brightness", "contrast", "blur"}
    colours = ArraySource(np.zeros((3, 30, 40, 3), np.uint8))
    spoken = view_pairs(colours, always, 1)[0].views[0].in_words
    assert {"hue", "saturation", "gray"} <= {word.split()[0] for word in spoken}


def test_words_of_operations_with_names_for_their_numbers() -> None:
    operations = (
        ("crop", {"top": 1.0, "left": 2.0, "height": 3.0, "width": 4.0}),
        ("autoaugment", {"solarize": 128.0}),
        ("erasing", {"top": 5.0, "left": 6.0, "height": 7.0, "width": 8.0}),
        ("cutout", {"side": 0.25, "row": 3.0}),
        ("rotation", {"degrees": -12.5}),
        ("invert", {}),
    )
    view = View(np.zeros((4, 4, 3), np.uint8), (1, 2, 3, 4), operations)
    assert [words.replace("\N{NO-BREAK SPACE}", " ") for words in view.in_words] == [
        "autoaugment solarize 128",
        "erasing 8 × 7 at 6, 5",
        "cutout side 0.25, row 3",
        "rotation −12.50",
        "invert",
    ]


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


EXACT = (Brightness((0.5, 0.5)), GaussianBlur((1.25, 1.25), p=1.0))
MULTI_CROP = Policy(
    ((RandomResizedCrop(28, (0.4, 1.0)), *EXACT),) * 2
    + ((RandomResizedCrop(12, (0.05, 0.4)), HorizontalFlip(1.0)),) * 6
)


@pytest.fixture(scope="module")
def colours() -> ArraySource:
    pictures = np.random.default_rng(1).integers(0, 256, (5, 60, 90, 3), np.uint8)
    return ArraySource(pictures, name="colours")


def page_of(source: ArraySource, policy: Policy, count: int = 2) -> str:
    sets = view_pairs(source, policy, count, seed=7, epoch=3)
    return render_preview(sets, source, policy, seed=7, epoch=3)


def captions(page: str) -> list[str]:
    """The text under the pictures, one string a figure."""
    found = re.findall("<figcaption>(.*?)</figcaption>", page, re.DOTALL)
    stripped = (html.unescape(re.sub("<[^>]*>", " ", text)) for text in found)
    return [" ".join(text.split()) for text in stripped]


def test_views_of_several_sizes_are_told_apart(colours: ArraySource) -> None:
    steps = (Resize(12), CenterCrop(8), Resize(12), CenterCrop(9), CenterCrop(8, 16))
    shown = view_pairs(colours, Policy(tuple((step,) for step in steps)), 3)
    for one in shown:
        for step, view in zip(steps, one.views, strict=True):
            alone = Policy(((step,),))([one.picture], seed=9, epoch=9, indices=[9])
            np.testing.assert_array_equal(view.pixels, alone[0, 0])


def test_page_tells_what_the_rows_hold(colours: ArraySource) -> None:
    page, told = page_of(colours, MULTI_CROP), []
    shown = [one.index for one in view_pairs(colours, MULTI_CROP, 2, seed=7, epoch=3)]
    rows = MULTI_CROP.sample(seed=7, epoch=3, indices=shown, heights=[60] * 2, widths=[90] * 2)
    for index, views in zip(shown, rows, strict=True):
        told.append(f"colours[{index}]")
        for number, row in enumerate(views):
            top, left, height, width = map(int, row[1:5])
            operations = "brightness 0.50 blur 1.25" if number < 2 else "flip"
            side = 28 if number < 2 else 12
            told.append(
                f"view {number + 1} {side} px crop {width} × {height} at {left}, {top} {operations}"
            )
    assert captions(page) == told
    rects = re.findall('class="box" x="(.*?)%" y="(.*?)%" width="(.*?)%" height="(.*?)%"', page)
    corners = np.array(rects, float).reshape(2, 8, 4) / 100 * [90, 60, 90, 60]
    np.testing.assert_allclose(corners, rows[:, :, [2, 1, 4, 3]], atol=0.006)
    assert "seed 7 · epoch 3 · drawn by seed from 5 training pictures" in page
    assert html.escape(str(MULTI_CROP), quote=False).replace("'", "&#39;") in page


def test_page_of_grey_pictures(splits: Splits) -> None:
    always = Policy(((RandomResizedCrop(20), ColorJitter(0.4, 0.4, 0.4, 0.1, 1.0)),) * 2)
    text = " ".join(captions(page_of(splits.train, always)))
    assert text.count("brightness") == text.count("contrast") == 4
    assert "saturation" not in text
    assert "hue" not in text


def test_whole_and_fractional_crops(colours: ArraySource) -> None:
    page = page_of(colours, Policy(((Resize(16),), (CenterCrop(16, 24),))), 1)
    assert captions(page)[1:] == [
        "view 1 resize 90 × 60 at 0, 0",
        "view 2 center-crop 40 × 40 at 25, 10",
    ]
    thirds = page_of(colours, Policy(((CenterCrop(7, 9),),)), 1)
    assert "48.46 × 46.67 at 20.77, 6.67" in captions(thirds)[1]


def test_names_on_the_page_are_text(hostile: tuple[str, ...], policy: Policy) -> None:
    for name in hostile:
        source = ArraySource(np.zeros((1, 9, 9), np.uint8), name=name)
        page = page_of(source, policy, 1)
        assert not re.search(
            "<script|<img src=x|<b>|{{|{%", page.replace("{{ 7", "").replace("{% r", "")
        )
        assert not re.search("[\x00-\x08\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
        assert len(page) < 100_000
        shown = captions(page)[0]
        if len(name) < 50 and name.isprintable():
            assert shown == f"{' '.join(name.split())}[0]"


def test_sampled_numbers_as_text() -> None:
    values = (3.0, -0.0, 1.2064, -0.0312, 0.00417, 0.08, 128.0, -0.5)
    told = ["3", "0", "1.21", "−0.031", "0.0042", "0.08", "128", "−0.50"]
    assert [drawn(value) for value in values] == told


def test_a_dozen_lines_differ() -> None:
    assert len({boxes.stroke(view) for view in range(12)}) == 12


@pytest.mark.parametrize("crops", [[(0, 0, 60, 90)] * 9, [(2, 3, 9, 11)] * 4, [(55, 80, 5, 10)]])
def test_numbers_of_boxes_keep_apart(crops: list[boxes.Box]) -> None:
    placed = boxes.place_badges(crops, 60, 90, [15.0] * len(crops))
    for left, top in placed:
        assert 0 <= left <= 90 - 15
        assert 0 <= top <= 60 - boxes.BADGE_HEIGHT
    if crops[0][2] > 20:
        for (left, top), (other, above) in itertools.combinations(placed, 2):
            assert abs(left - other) >= 15 or abs(top - above) >= boxes.BADGE_HEIGHT


def test_png_wraps_many_views(colours: ArraySource) -> None:
    sets = view_pairs(colours, MULTI_CROP, 2)
    sheet = np.asarray(draw_preview(sets))
    assert sheet.shape[1] == GAP + 6 * (CELL + GAP) + 2 * GAP
    for one in sets:
        for number, view in enumerate(one.views):
            factor = CELL // view.pixels.shape[0]
            block = view.pixels.repeat(factor, 0).repeat(factor, 1)
            left = GAP + (2 + number % 4) * (CELL + GAP)
            column = sheet[:, left : left + block.shape[1]]
            tops = np.flatnonzero((column[:, 0] == block[0, 0]).all(axis=1))
            assert any(np.array_equal(column[top : top + len(block)], block) for top in tops)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return config.resolve(flags={"data.source": "fashion-mnist-10k", "augment.size": 16})


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_pair_has_one_number(settings: Config, tmp_path: Path) -> None:
    (tmp_path / "preview-001.html").write_text("mine")
    (tmp_path / "preview-002.png").write_text("mine")
    assert preview_file(settings, None, count=1) == (
        Path("preview-003.png"),
        Path("preview-003.html"),
    )
    assert len(files(tmp_path)) == 4
    assert (tmp_path / "preview-001.html").read_text() == "mine"


@pytest.mark.parametrize("given", ["views.png", "views.html"])
@pytest.mark.parametrize("there", ["views.png", "views.html"])
def test_nothing_is_overwritten(given: str, there: str, settings: Config, tmp_path: Path) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(RunError, match=f"{there} exists already"):
        preview_file(settings, Path(given), count=1)
    assert files(tmp_path) == {there}
    assert (tmp_path / there).read_text() == "mine"


def test_other_endings_are_refused(settings: Config) -> None:
    for name in ("views.jpg", "views"):
        with pytest.raises(UsageError, match="must end in .png or .html"):
            preview_file(settings, Path(name), count=1)


def test_both_files_are_whole_or_absent(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes) -> None:
        path.write_bytes(data[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_write_synced", fail)
        with pytest.raises(RunError, match="No space left"):
            preview_file(settings, Path("views.png"), count=1)
        assert files(tmp_path) == set()
    with monkeypatch.context() as patch:
        patch.setattr(run, "render_preview", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            preview_file(settings, Path("views.png"), count=1)
        assert files(tmp_path) == set()


def test_another_epoch_has_other_views(settings: Config) -> None:
    one, other = (
        preview_file(settings, Path(f"{epoch}.png"), count=1, epoch=epoch) for epoch in (0, 1)
    )
    assert "epoch 0" in one[1].read_text()
    assert "epoch 1" in other[1].read_text()
    assert captions(one[1].read_text()) != captions(other[1].read_text())
