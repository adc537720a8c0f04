import json
from pathlib import Path

import numpy as np
import pytest
import torch

from looktwice.analysis import Analysis, Layout, Panel, Points, Seen
from looktwice.data import ArraySource, Splits
from looktwice.report.analysis import render_analysis

HOSTILE = (
    "</script><script>document.title = 'run'</script>",
    "<!-- <script> --!>",
    "\"><img src=x onerror='document.title = `run`'>",
    "{{ 7 * 7 }}",
    "\u202eevil\u202c \u2028 nul\x00",
    "stray \udcff surrogate",
    "l" * 5000,
)


def made(count=60, classes=("day", "night", "dusk"), names=None, labelled=True) -> Analysis:
    """An analysis as `analyze` makes one, of random places: pages need no training."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % len(classes) if labelled else np.full(count, -1)
    names = tuple(names or (f"picture {i}" for i in range(count)))
    flat = (generator.normal(size=(count, 2)) + 3 * labels[:, None] * [1, -1]).astype(np.float32)
    pixels = generator.integers(0, 256, (28, 28, 1), np.uint8)
    heat = np.linspace(0, 1, 784, dtype=np.float32).reshape(28, 28)
    seen = (
        Seen("a/run", pixels, heat, "similarity", "similarity 0.91"),
        Seen("a/run", pixels, heat, "class", "taken for night", right=False),
    )
    return Analysis(
        name="runs/demo",
        data="pictures",
        points=Points(
            split=np.zeros(count, np.int64),
            index=np.arange(count),
            names=names,
            labels=labels,
            class_names=classes if labelled else (),
            thumbnails=generator.integers(0, 256, (count, 28, 28, 1), np.uint8),
            features={"runs/demo": torch.zeros(count, 4)},
        ),
        layouts=(
            Layout("h", flat, 30.0, 0.61, 0.84 if labelled else None),
            Layout("z", -flat, 30.0, 0.55, 0.79 if labelled else None),
        ),
        chance=1 / len(classes) if labelled else None,
        panels=(Panel(classes[0], pixels, classes[-1], pixels, seen),),
        neighbours=None,
        encoders=("runs/demo",),
        total=count,
        seed=0,
        missing=(),
    )


def write(path: Path, analysis: Analysis) -> Path:
    source = ArraySource(np.zeros((1, 28, 28), np.uint8))
    path.write_text(render_analysis(analysis, Splits(source, source, None)), "utf-8")
    return path


def embedded(page: Path) -> dict:
    """The data that the page's script reads."""
    text = page.read_text("utf-8").split('class="map-data">')[1].split("</script>")[0]
    return json.loads(text)


@pytest.fixture
def make_analysis():
    return made


@pytest.fixture
def write_page():
    return write


@pytest.fixture
def page_data():
    return embedded


@pytest.fixture
def hostile_names():
    return HOSTILE
