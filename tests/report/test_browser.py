"""The page in a real browser, from disk; a machine without one fails here."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from looktwice.augment import Policy, RandomResizedCrop
from looktwice.data import ArraySource, Splits
from looktwice.report import view_pairs, write_report
from looktwice.report.operations import SIDE, Example, Line, render_operations
from looktwice.report.preview_page import render_preview

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--log-level=0", "--dump-dom", "--virtual-time-budget=4000",
)  # fmt: skip


@pytest.fixture
def browse(tmp_path: Path, chromium_path: str) -> Callable[[Path], tuple[str, list[str]]]:
    """Return what opens a page and gives its document and the console's lines."""

    def open_page(page: Path) -> tuple[str, list[str]]:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [chromium_path, *FLAGS, profile, page.resolve().as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return open_page


@pytest.fixture
def page(make_run: Callable[..., Path], splits: Splits, policy: Policy) -> Path:
    return write_report(make_run(), splits=splits, policy=policy)


@pytest.fixture
def preview_page(tmp_path: Path, hostile: tuple[str, ...]) -> Path:
    """A page of wide pictures with eight views each, and a hostile name."""
    pictures = np.random.default_rng(0).integers(0, 256, (3, 90, 200, 3), np.uint8)
    source = ArraySource(pictures, name=hostile[1] + hostile[-1])
    policy = Policy(((RandomResizedCrop(96),),) * 8)
    page = tmp_path / "preview.html"
    page.write_text(render_preview(view_pairs(source, policy, 3), source, policy, seed=0, epoch=0))
    return page


@pytest.fixture
def operations_page(tmp_path: Path) -> Path:
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    examples = (Example(pixels, ("brightness 0.50", "123.45 × 67.89 at 10.11, 12.13")),) * 5
    line = Line("BrightnessContrast", "Turn `v` into " + "w" * 80, pixels, examples)
    page = tmp_path / "operations.html"
    page.write_text(render_operations([line], "a drawn scene"))
    return page


Browse = Callable[[Path], tuple[str, list[str]]]


def test_opens_from_disk_without_a_word(page: Path, browse: Browse) -> None:
    document, console = browse(page)
    assert "How to get it again" in document
    assert console == []


def test_policy_stops_scripts_and_requests(page: Path, browse: Browse) -> None:
    """The control: what the page must not do would show on the console."""
    injected = '<img alt="x" src="http://127.0.0.1:9/x.png"><script>document.title = "run"</script>'
    other = page.with_name("injected.html")
    other.write_text(page.read_text().replace("<main>", f"<main>{injected}"))
    document, console = browse(other)
    assert "<title>run</title>" not in document
    assert sum("Content Security Policy" in line for line in console) == 2


@pytest.mark.parametrize("name", ["preview_page", "operations_page"])
def test_other_pages_open_without_a_word(
    name: str, browse: Browse, request: pytest.FixtureRequest
) -> None:
    _, console = browse(request.getfixturevalue(name))
    assert console == []


@pytest.mark.parametrize(
    ("name", "width"),
    [
        *((name, 360) for name in ("page", "hostile_page", "preview_page", "operations_page")),
        *((name, 1280) for name in ("page", "preview_page", "operations_page")),
        ("page", 700),
    ],
)
def test_never_scrolls_sideways(
    name: str, width: int, browse: Browse, request: pytest.FixtureRequest
) -> None:
    page = request.getfixturevalue(name)
    frame = page.with_name("frame.html")
    frame.write_text(
        f'<iframe width="{width}" height="900" srcdoc="{html.escape(page.read_text())}"></iframe>'
        "<script>onload = () => { const inside = frames[0].document.documentElement;"
        "document.title = `${inside.clientWidth} ${inside.scrollWidth}` }</script>"
    )
    document, _ = browse(frame)
    found = re.search("<title>([0-9]+) ([0-9]+)</title>", document)
    assert found, "the frame was not measured"
    client, scroll = map(int, found.groups())
    assert width - 20 <= client <= width  # less a scroll bar
    assert scroll == client
