"""The page of a search, in a browser: hostile names are text, nothing is asked for, a phone fits."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from looktwice.data import ArraySource
from looktwice.embedding import About, Answer, Hit, Index
from looktwice.report.search import render_search, table, write_search

HOSTILE = (
    "</bdi></style><script>document.title = 'run'</script>",
    "\"><img src=x onerror='document.title = `run`'>",
    "{{ 7 * 7 }}",
    "\u202eevil\u202c \u2028 nul\x00 \x1b[31m",
    "l" * 5000,
)


def made(names=HOSTILE) -> tuple[Index, list[Answer], dict]:
    pixels = np.random.default_rng(0).integers(0, 256, (len(names), 30, 90, 3), np.uint8)
    source = ArraySource(pixels)
    about = About(
        {"target": f"runs/{names[0]}", "weights_sha256": "0" * 64,
         "spec": {"backbone": "resnet-tiny", "image_size": 28}},
        {"name": names[0]}, {"h": 4}, "float32", len(names), 0,
    )  # fmt: skip
    index = Index(Path("x"), about, None, np.zeros(len(names), np.int64))
    hits = tuple(
        Hit("train", i, source.identifier(i), name, 0.99 - i / 100) for i, name in enumerate(names)
    )
    lost = replace(hits[0], name=names[1])  # another picture is in its place
    return index, [Answer(names[0], pixels[0], (*hits, lost))], {"train": source}


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_names_are_text_and_nothing_is_wider_than_a_phone(visit, tmp_path, width, scheme):
    index, answers, pictures = made()
    write_search(tmp_path / "page.html", index, answers, pictures, command="looktwice </pre><b>")
    page = visit(tmp_path / "page.html", width=width, scheme=scheme)
    assert page.title() != "run"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("script").count() == 0
    assert page.locator("img").count() == 1 + len(HOSTILE)
    assert page.locator(".unreadable").count() == 1
    assert "{{ 7 * 7 }}" in page.locator("ol.found").inner_text()
    pictures_drawn = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
    assert page.evaluate(pictures_drawn)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", paper)[0]) > 128) == (scheme == "light")


def test_a_terminal_gets_no_control_letters():
    index, answers, _ = made()
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", table(index, answers))


def test_the_page_says_how_many_are_of_the_same_class():
    index, answers, pictures = made(("day", "day", "night"))
    assert "3 of 4 are day; similarity 0.990 to 0.990" in render_search(index, answers, pictures)
