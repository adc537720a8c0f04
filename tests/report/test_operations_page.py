from __future__ import annotations

import colorsys
import html
import re
import typing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from looktwice import augment, config
from looktwice.augment import (
    Brightness,
    Crop,
    HorizontalFlip,
    Invert,
    Operation,
    Policy,
    Posterize,
    QuarterTurn,
    Resize,
    Solarize,
)
from looktwice.report import operations, operations_file
from looktwice.report.operations import EXAMPLES, SIDE, first_sentence, operation_lines
from looktwice.report.scene import draw_scene
from looktwice.report.sheet import GAP, draw_operations

FEW = (Resize, HorizontalFlip, QuarterTurn, Brightness, Invert, Solarize, Posterize)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave most operations out: compiling all of them takes half a minute."""
    monkeypatch.setattr(operations, "EXAMPLES", {kind: EXAMPLES[kind] for kind in FEW})


def test_every_operation_has_a_line() -> None:
    exported = {getattr(augment, name) for name in augment.__all__}
    kinds = {
        kind
        for kind in exported
        if isinstance(kind, type) and issubclass(kind, Operation) and kind is not Operation
    }
    assert set(EXAMPLES) == kinds | set(typing.get_args(Crop))


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_lines_hold_examples_of_their_operation(kind: type) -> None:
    steps = EXAMPLES[kind]
    assert 1 <= len(steps) <= 5
    assert all(type(step) is kind for step in steps)
    policy = Policy(tuple(operations._alone(step) for step in steps))
    row = policy.sample(seed=0, epoch=0, indices=[0], heights=[160], widths=[208])[0]
    for view, step in enumerate(steps):
        assert policy.describe(row[view], view)[-1][0] == step.name
    assert re.fullmatch(r"[A-Z].{8,}\.", first_sentence(kind))


def test_examples_are_what_their_captions_say(few: None) -> None:
    lines = {line.name: line for line in operation_lines(draw_scene())}
    assert list(lines) == [kind.__name__ for kind in FEW]
    before = lines["Invert"].before
    assert before.shape == (SIDE, SIDE, 3)
    np.testing.assert_array_equal(lines["HorizontalFlip"].examples[0].pixels, before[:, ::-1])
    np.testing.assert_array_equal(lines["Invert"].examples[0].pixels, 255 - before)
    turned = {e.captions: e.pixels for e in lines["QuarterTurn"].examples}
    assert list(turned) == [("degrees 0",), ("degrees 90",), ("degrees 180",), ("degrees 270",)]
    for quarters, pixels in enumerate(turned.values()):
        np.testing.assert_array_equal(pixels, np.rot90(before, quarters))
    for example in lines["Solarize"].examples:
        threshold = number(example.captions, "threshold")
        expected = np.where(before < threshold, before, 255 - before)
        np.testing.assert_array_equal(example.pixels, expected)
    for example in lines["Posterize"].examples:
        mask = 256 - 2 ** (8 - number(example.captions, "bits"))
        np.testing.assert_array_equal(example.pixels, before & np.uint8(mask))
    for example in lines["Brightness"].examples:
        expected = np.minimum(before * float(number(example.captions, "factor")), 255)
        assert np.abs(example.pixels - expected).max() <= 1
    for example in lines["Resize"].examples:
        assert example.pixels.shape[0] == number(example.captions[:1], "size")
        assert example.captions[1].replace("\N{NO-BREAK SPACE}", " ") == "208 × 160 at 0, 0"


def number(captions: tuple[str, ...], name: str) -> float | int:
    (caption,) = captions
    key, value = caption.split()
    assert key == name
    return float(value) if "." in value else int(value)


def test_png_shows_the_examples(few: None) -> None:
    lines = operation_lines(draw_scene())
    sheet = np.asarray(draw_operations(lines))
    assert sheet.shape[1] == GAP + 6 * (SIDE + GAP)
    for line in lines[1:]:
        for place, pixels in enumerate([line.before, *(e.pixels for e in line.examples)]):
            left = GAP + place * (SIDE + GAP)
            column = sheet[:, left : left + SIDE]
            tops = np.flatnonzero((column[: -SIDE + 1] == pixels[0]).all(axis=(1, 2)))
            assert any(np.array_equal(column[top : top + SIDE], pixels) for top in tops)


def test_page_and_picture_need_no_data(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture, page = operations_file(config.resolve(), None)
    assert (picture.name, page.name) == ("operations-001.png", "operations-001.html")
    with Image.open(picture) as sheet:
        assert sheet.width == GAP + 6 * (SIDE + GAP)
    text = html.unescape(page.read_text())
    assert "7 operations · <bdi>a drawn scene" in text
    assert re.findall("<h2 id=.*>(.*)</h2>", text) == [kind.__name__ for kind in FEW]
    assert "Invert the levels from <code>threshold</code> on" in text
    assert text.count("<figure>") == 7 + sum(len(EXAMPLES[kind]) for kind in FEW)
    assert "<script" not in text
    assert "<span>threshold 192</span>" in text


def test_another_first_picture(
    few: None, tmp_path: Path, hostile: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config.resolve(flags={"data.source": "fashion-mnist-10k"})
    _, page = operations_file(settings, tmp_path / "grey.html")
    assert "fashion-mnist-10k/train[0]" in page.read_text()
    shown = operations.render_operations(operation_lines(np.zeros((9, 5, 1), np.uint8)), hostile[0])
    assert html.escape(hostile[0]) in shown
    assert "<script" not in shown


def test_first_sentences() -> None:
    class Plain:
        """Cut `a` to 0.5 of
        b, as c.d does.

        More. And more.
        """

    assert first_sentence(Plain) == "Cut `a` to 0.5 of b, as c.d does."
    assert (
        first_sentence(Invert)
        == "Replace every level v by 255 - v, as torchvision's `invert` does."
    )


def test_scene_holds_what_operations_act_on() -> None:
    scene = draw_scene()
    assert scene.shape == (160, 208, 3)
    assert scene.dtype == np.uint8
    np.testing.assert_array_equal(scene, draw_scene())
    luma = scene @ [0.299, 0.587, 0.114]
    assert (luma < 40).mean() > 0.03
    assert (luma > 240).mean() > 0.01
    hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in scene.reshape(-1, 3) / 255])
    vivid = hsv[(hsv[:, 1] > 0.4) & (hsv[:, 2] > 0.3), 0]
    shares = np.histogram(vivid, 6, (0, 1))[0] / len(hsv)
    assert (shares > 0.002).all(), shares
