"""The page in a real browser, from disk; a machine without one fails here."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from looktwice.augment import Policy
from looktwice.data import Splits
from looktwice.report import write_report

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--log-level=0", "--dump-dom", "--virtual-time-budget=4000",
)  # fmt: skip


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[Path], tuple[str, list[str]]]:
    """Return what opens a page and gives its document and the console's lines."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    assert browser, "this test needs Chromium: apt install chromium"

    def open_page(page: Path) -> tuple[str, list[str]]:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [browser, *FLAGS, profile, page.resolve().as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return open_page


@pytest.fixture
def page(make_run: Callable[..., Path], splits: Splits, policy: Policy) -> Path:
    return write_report(make_run(), splits=splits, policy=policy)


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


@pytest.mark.parametrize(
    ("name", "width"), [("page", 360), ("page", 700), ("page", 1280), ("hostile_page", 360)]
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
