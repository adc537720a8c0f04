from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import math
import re
import shlex
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from studies import results

from looktwice.evaluate.statistics import Estimate
from looktwice.report import charts, figures, numbers, words
from looktwice.report.pictures import thumbnail
from looktwice.report.record import RunRecord
from looktwice.report.study import render_study
from looktwice.study import Plan
from looktwice.study.results import AGREES, Difference, Verdict


@given(
    st.lists(st.tuples(st.floats(0, 300), st.floats(1, 60)), min_size=1, max_size=4),
)
def test_labels_are_kept_apart(labels: list[tuple[float, float]]) -> None:
    centres = [centre for centre, _ in labels]
    sizes = [size for _, size in labels]
    shifts = figures.spread(centres, sizes, 0, 300)
    placed = sorted(
        (centre, centre + shift - size / 2, centre + shift + size / 2)
        for centre, shift, size in zip(centres, shifts, sizes, strict=True)
    )
    edges = [edge for _, low, high in placed for edge in (low, high)]
    if len(set(centres)) == len(centres):
        assert all(b >= a - 1e-6 for a, b in itertools.pairwise(edges))
    assert min(edges) >= -1e-6
    assert max(edges) <= 300 + 1e-6


def test_labels_with_room_stay_where_they_are() -> None:
    assert figures.spread([100, 200], [50, 50], 0, 300) == [0, 0]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 6))
def test_ticks_are_round_and_within(low: float, span: float, about: int) -> None:
    axis = figures.Axis(low, low + span)
    ticks = axis.ticks(about)
    step = (axis.high - axis.low) / about
    assert 1 <= len(ticks) <= 2 * about + 1
    # Floats of this size are no finer: a span of 1e-6 at 1e6 is some thousand of them.
    finest = 4 * math.ulp(max(abs(axis.low), abs(axis.high)))
    slack = 1e-6 * step + finest
    assert all(axis.low - slack <= t <= axis.high + slack for t in ticks)
    if len(ticks) > 1 and step > 1000 * finest:
        assert re.match("[125]0*(e|$|[.]0)", f"{(ticks[-1] - ticks[0]) / (len(ticks) - 1):.0e}")


def _row(accuracy: float, half: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "interval": [accuracy - half, accuracy + half], "draws": 1}


def _evaluation(difference: float, half: float, classes: int = 10) -> dict[str, Any]:
    rows = {"encoder": _row(0.7 + difference, 0.02), "raw-pixels": _row(0.7, 0.02)}
    return {
        "data": {"test": 2000, "classes": [str(number) for number in range(classes)]},
        "protocols": [{"name": "labels-10", "title": "10 labels a class", "rows": rows}],
        "headline": {
            "protocol": "labels-10",
            "better_baseline": "raw-pixels",
            "difference": difference,
            "interval": [difference - half, difference + half],
            "accuracy": 0.7 + difference,
            "sd": None,
        },
    }


def test_dots_lie_where_the_axis_says() -> None:
    proof = figures.proof_figure(_evaluation(0.05, 0.01))
    # the axis runs from 65 to 80: the next 5 % beyond 68 and 77, with some room
    assert [text for _, text in proof.ticks] == ["66", "68", "70", "72", "74", "76", "78", "80"]
    assert [place for place, _ in proof.ticks] == pytest.approx(np.arange(1, 16, 2) / 15 * 100)
    row = proof.rows[0]
    assert (row.ours.low, row.ours.x, row.ours.high) == pytest.approx(
        (100 * 8 / 15, 100 * 10 / 15, 100 * 12 / 15)
    )
    assert row.baselines[0].x == pytest.approx(100 / 3)
    assert row.baselines[0].label == "● raw pixels 70.0"
    assert proof.description == "10 labels a class: this encoder 75.0 %, raw pixels 70.0 %"
    assert proof.note == "Off the axis: chance 10 %."
    assert proof.chance is None


def test_chance_is_drawn_where_it_is_near() -> None:
    evaluation = _evaluation(0.05, 0.01, classes=2)
    evaluation["protocols"][0]["rows"]["untrained"] = _row(0.51, 0.03)
    proof = figures.proof_figure(evaluation)
    assert proof.chance == (pytest.approx(100 * 5 / 35), "chance 50 %")
    assert proof.note == ""


def _run(evaluation: dict[str, Any] | None) -> RunRecord:
    return RunRecord(
        folder=Path("runs/it's"), epochs=({"epoch": 1, "loss": 4.0},), evaluation=evaluation,
        summary={"epochs": 20}, environment={}, config_text="", settings={"data.source": "my data"},
        departures=None, bad_files=(), checksums=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "half", "said", "code"),
    [
        (0.062, 0.01, "6.2 points above raw pixels, the better baseline.", "load_encoder"),
        (0.006, 0.01, "0.6 points above raw pixels, but the interval includes zero.", "pretrain"),
        (-0.006, 0.01, "0.6 points below raw pixels, but the interval includes zero.", "pretrain"),
        (-0.05, 0.01, "5.0 points below raw pixels.", "pretrain"),
    ],
)
def test_verdict(difference: float, half: float, said: str, code: str) -> None:
    verdict = words.verdict(_run(_evaluation(difference, half)))
    sentence = verdict.sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert sentence == f"With 10 labels a class: {70 + 100 * difference:.1f} %, {said}"
    assert code in verdict.code


def test_too_few_labels_are_told() -> None:
    evaluation = _evaluation(0.05, 0.01)
    evaluation["protocols"][0]["note"] = (
        "all that there are, in classes with fewer than 10: 'a' (3)"
    )
    caveat = words.verdict(_run(evaluation)).caveat
    assert caveat == "The labels were all that there are, in classes with fewer than 10: 'a' (3)."


def test_advice_can_be_pasted() -> None:
    code = words.verdict(_run(_evaluation(-0.05, 0.01))).code
    assert shlex.split(code)[2:6] == ["--config", "runs/it's/config.toml", "--epochs", "60"]
    assert "--out 'runs/it'\"'\"'s-longer'" in code
    assert words.verdict(_run(None)).code == "looktwice eval 'runs/it'\"'\"'s'"


@pytest.mark.parametrize(
    ("half", "places"), [(0.2, 0), (0.11, 0), (0.09, 1), (0.017, 1), (0.001, 1), (0.0005, 2)]
)
def test_rounding_follows_the_interval(half: float, places: int) -> None:
    assert numbers.decimals([0.5 - half, 0.5 + half]) == places


def test_numbers() -> None:
    assert numbers.points(-0.0312) == "−3.1"
    assert numbers.percent(0.7412) == "74.1"
    assert numbers.interval([-0.01, 0.02], 1, signed=True) == "−1.0 to +2.0"
    assert [numbers.short(v) for v in (0, 61.23, 4.9, 0.0123, 812345)] == [
        "0", "61.2", "4.90", "0.0123", "812,345",
    ]  # fmt: skip
    assert [numbers.duration(s) for s in (93.2, 600, 9000)] == ["93 s", "10 min", "2 h 30 min"]
    assert numbers.day("2025-11-22T10:14:03+00:00") == "22 November 2025"
    assert numbers.day("yesterday") == "yesterday"


@pytest.mark.parametrize(
    ("height", "width", "shown", "crisp"),
    [(28, 28, 84, True), (20, 20, 80, True), (32, 32, 64, True), (64, 64, 64, True),
     (3, 60, 120, True), (96, 96, 84, False), (300, 200, 56, False), (100, 4000, 168, False)],
)  # fmt: skip
def test_pictures_keep_their_pixels(height: int, width: int, shown: int, crisp: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    thumb = thumbnail(pixels)
    assert (thumb.width, thumb.crisp) == (shown, crisp)
    image = Image.open(io.BytesIO(base64.b64decode(thumb.uri.split(",")[1])))
    if crisp:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    else:
        assert image.width <= min(width, 2 * shown + 1)


@pytest.mark.parametrize("kind", ["dots", "scatter", "bars"])
def test_names_of_any_kind_leave_a_figure_whole(kind: str) -> None:
    names = ("d'image sans flou", "'DejaVu Sans' <b>", '-- style="a \'sans --> ;"')
    ElementTree.fromstring(charts.as_file(results(kind, names)))


def test_differences_have_the_unit_of_their_measure() -> None:
    found = results("dots", shipped="large-batch")
    away = Estimate(0.0041, 0.0002, (0.0035, 0.0047), 0.0002, 2.0, 3)
    claim = dataclasses.replace(found.study.claims[0], measure="gradient-end")
    verdict = Verdict(claim, AGREES, (Difference("a-b", "c", away, 0.0004),))
    plan = Plan(found.study, "x", (), 3, 100, Path())
    page = render_study(dataclasses.replace(found, verdicts=(verdict,)), plan, command="x")
    assert "a-b − c: +0.0041 [+0.0035 to +0.0047], above, p &lt; 0.001" in page
