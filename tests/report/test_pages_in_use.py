"""Pages of a run, a study and a comparison in a real browser, from disk, as people use them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looks import made_insight
from playwright.sync_api import Page
from studies import results
from test_comparison import with_hits

from looktwice.augment import Policy
from looktwice.data import ArraySource, Splits
from looktwice.report import write_report
from looktwice.report.comparison import compare_runs
from looktwice.report.study import render_study
from looktwice.study import Found, Plan

HOSTILE = (
    "</script><script>document.title = 'run'</script>",
    "<!-- <script> --!>",
    "</script><!--",
    '"onload="document.title = `run`',
    "\"><img src=x onerror='document.title = `run`'>",
    "{{ 7 * 7 }}",
    "\u202eevil\u202c \u2028 nul\x00",
    "two\nlines\tand a tab",
    "stray \udcff surrogate",
    "l" * 3000,
)
MANY = tuple(f"{number} {HOSTILE[number % len(HOSTILE)]}" for number in range(500))


Visit = Callable[..., Page]


def report_page(make_run: Callable[..., Path], policy: Policy, classes: tuple[str, ...]) -> Path:
    """The report of a run of 10,000 pictures, its map of 2,000 with names like its classes'."""

    def source(size: int) -> ArraySource:
        labels = np.arange(size) % len(classes)
        return ArraySource(np.full((size, 8, 8), 90, np.uint8), labels, class_names=classes)

    splits = Splits(source(7200), source(800), source(2000))
    names = [classes[i % len(classes)] for i in range(2000)]
    insight = made_insight(names, np.arange(2000) % len(classes), classes)
    return write_report(make_run("run", classes), splits=splits, policy=policy, insight=insight)


def study_page(folder: Path, kind: str, **changes: Any) -> Path:
    page = folder / f"{kind}.html"
    found = results(kind, **changes)
    plan = Plan(found.study, found.data, (), 3, 100, folder)
    page.write_text(render_study(found, plan, command="looktwice study x"), "utf-8")
    return page


def search_page(folder: Path, names: Sequence[str]) -> Path:
    """Write the page of a search whose proof compares the first two names."""
    page = folder / "search.html"
    proof = results("dots", names[:3])
    plan = Plan(proof.study, proof.data, (), 3, 100, folder)
    rungs = (tuple((name, 0.5) for name in names), ((names[1], 0.625), (names[0], 0.5)))
    policy = f"note = {''.join(names)!r}"
    gain = proof.rows[1].differences["knn"]
    found = Found(
        names[1], policy, gain, rungs, (10.0, 30.0), True, (plan, proof), folder / "r.toml"
    )
    page.write_text(
        render_study(proof, plan, command="looktwice study policy", search=found), "utf-8"
    )
    return page


@pytest.fixture
def pages(
    tmp_path: Path, make_run: Callable[..., Path], policy: Policy
) -> Callable[[bool], dict[str, Path]]:
    """Return a page of each kind, with tame names or hostile ones."""

    def make(hostile: bool) -> dict[str, Path]:
        classes = MANY if hostile else ("day", "night", "dusk")
        runs = [
            with_hits(make_run(f"{i}{HOSTILE[i].replace('/', '⁄')}" if hostile else f"run-{i}"), 0.8, own=i)
            for i in range(3)
        ]  # fmt: skip
        names = (*HOSTILE[:9], "$x$ 字") if hostile else tuple("abcd")
        return {
            "report": report_page(make_run, policy, classes),
            "comparison": compare_runs(runs, tmp_path / "comparison.html"),
            **{k: study_page(tmp_path, k, names=names) for k in ("dots", "scatter", "bars")},
            **{k: study_page(tmp_path, k) for k in ("lines", "heatmap")},
            "search": search_page(tmp_path, names),
        }

    return make


@pytest.mark.parametrize("hostile", [False, True])
def test_every_page_opens_without_a_word_and_never_scrolls_sideways(
    pages: Callable[[bool], dict[str, Path]], visit: Visit, hostile: bool
) -> None:
    for name, file in pages(hostile).items():
        for width, scheme in ((360, "dark"), (700, "light"), (1280, "light")):
            opened = visit(file, width, scheme)
            assert opened.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            assert "looktwice" in opened.title()
            assert opened.locator("img[src='x'], [onload], [onerror]").count() == 0


def test_the_report_of_hostile_names_is_in_use_within_two_seconds(
    make_run: Callable[..., Path], policy: Policy, visit: Visit
) -> None:
    file = report_page(make_run, policy, MANY)
    assert file.stat().st_size <= 8_000_000
    begun = time.perf_counter()
    opened = visit(file, 360)
    opened.locator(".map-stage").focus()
    opened.keyboard.press("ArrowRight")
    said = opened.locator(".map-status").text_content() or ""
    assert time.perf_counter() - begun < 2
    assert said
    assert opened.title() == "run – looktwice report"
    assert opened.locator("script").count() == 2
    text = opened.locator("main").inner_text()
    assert "</script><script>document.title = 'run'</script>" in text
    assert "stray \\udcff surrogate" in text
    assert "\\u202eevil\\u202c" in text


def test_filter_and_hover_work_in_the_report(
    make_run: Callable[..., Path], policy: Policy, visit: Visit
) -> None:
    opened = visit(report_page(make_run, policy, ("day", "night", "dusk")))
    stage = opened.locator(".map-stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box
    place = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    opened.mouse.move(*place)
    opened.locator(".map-tip").wait_for()
    shown = opened.locator(".map-class").text_content() or ""
    assert shown in ("day", "night", "dusk")
    opened.mouse.move(5, 5)
    for name in ("day", "night", "dusk"):
        opened.get_by_label(name).uncheck()
    opened.mouse.move(*place)
    assert not opened.locator(".map-tip").is_visible()


@pytest.mark.parametrize("kind", ["report", "comparison", "dots"])
def test_the_keyboard_reaches_all_there_is_to_use(
    pages: Callable[[bool], dict[str, Path]], visit: Visit, kind: str
) -> None:
    opened = visit(pages(False)[kind])
    usable = "summary, button, input, [tabindex='0'], a[href]"
    count = opened.locator(usable).evaluate_all(
        "all => all.filter(e => e.checkVisibility()).length"
    )
    reached = set()
    for _ in range(count + 3):
        opened.keyboard.press("Tab")
        reached.add(
            opened.evaluate(
                f"[...document.querySelectorAll(`{usable}`)].indexOf(document.activeElement)"
            )
        )
    assert len(reached - {-1}) == count
    assert count >= 1


def test_text_in_figures_never_runs_into_other_text(
    pages: Callable[[bool], dict[str, Path]], visit: Visit
) -> None:
    """No two texts of one study's figure or of a comparison's dots lie over each other."""
    overlaps = """() => [...document.querySelectorAll('svg.chart, .versus > svg')]
      .filter(svg => svg.checkVisibility()).flatMap(svg => {
        const all = [...svg.querySelectorAll('text')]
          .filter(t => !/rotate\\(-[1-9]/.test(t.getAttribute('transform')))
          .map(t => [t.textContent, t.getBoundingClientRect()]);
        return all.flatMap(([a, p], i) => all.slice(i + 1)
          .filter(([, q]) => p.left + 1 < q.right && q.left + 1 < p.right && p.top + 3 < q.bottom && q.top + 3 < p.bottom)
          .map(([b]) => `${a} | ${b}`));
      })"""
    found = {
        (name, width): colliding
        for name, file in pages(False).items()
        for width in (360, 1280)
        if (colliding := visit(file, width).evaluate(overlaps))
    }
    assert found == {}


def test_a_search_shows_what_it_tried_and_how_to_use_what_it_found(
    tmp_path: Path, visit: Visit
) -> None:
    page = visit(search_page(tmp_path, ["the start", "with blur", "without flip"]))
    assert page.locator("h1").inner_text().startswith("Found: with blur")
    rows = page.locator("section[aria-labelledby=tried] tbody tr")
    assert [row.split("\t") for row in rows.all_inner_texts()] == [
        ["with blur", "50.0", "62.5"],
        ["the start", "50.0", "50.0"],
        ["without flip", "50.0", "–"],
    ]
    assert (
        f"--config {tmp_path / 'r.toml'}"
        in page.locator("section[aria-labelledby=policy]").inner_text()
    )
