"""Every Python block of README and docs runs, those of a page one after the other.

What stands for something is replaced as `STANDS_FOR` says; what a page takes as given is in
`GIVEN`. Where a block is followed by one of text, it prints that text.
"""

import contextlib
import io
import sys
import tomllib

import numpy as np
import pages
import pytest
import torch
from torch import nn

from looktwice import augment
from looktwice.cli import main

STANDS_FOR = {
    '"FOLDER"': '"pictures"',
    '{"train.epochs": 20}': '{"augment.size": 16, "train.batch_size": 8, "train.steps": 2}',
    '{"train.epochs": 5}': '{"augment.size": 16, "train.batch_size": 8, "train.steps": 1}',
}
"""Text of a block, and what is run for it."""


def given_readme():
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3), dtype=np.uint8)
    return {"pictures": torch.from_numpy(images).permute(0, 3, 1, 2), "images": images}


def given_foreign():
    from pathlib import Path

    return {"Path": Path, "module": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())}


def given_embed():
    assert main(["embed", "runs/simclr-small-001", "--out", "x.parquet"]) == 0
    return {}


def given_sklearn():
    images = np.random.default_rng(0).integers(0, 256, (36, 20, 20, 3), dtype=np.uint8)
    return {"images": images, "labels": np.arange(36) % 3}


GIVEN = {
    "README.md": given_readme,
    "docs/embed.md": given_embed,
    "docs/foreign.md": given_foreign,
    "docs/sklearn.md": given_sklearn,
}
"""What a page takes as given: pictures, a module or a file of one's own."""

RUN_ELSEWHERE = {"docs/export.md": "tests/core/test_export.py, in a process without looktwice"}
"""Pages whose Python another test runs."""

BLOCKS = pages.blocks()
PYTHON = sorted({block.page for block in BLOCKS if block.language == "python"} - set(RUN_ELSEWHERE))


def printed_after(block):
    """Return the text block that follows, None where something else does."""
    following = BLOCKS[BLOCKS.index(block) + 1 :][:1]
    return following[0].text if following and following[0].language == "text" else None


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_a_page_runs(page, place, monkeypatch):
    monkeypatch.syspath_prepend(str(pages.ROOT / "examples"))
    monkeypatch.setitem(sys.modules, "docs_page", sys)
    names = {"__name__": "docs_page", **GIVEN.get(page, dict)()}
    for block in (b for b in BLOCKS if b.page == page and b.language == "python"):
        text = block.text
        for word, meant in STANDS_FOR.items():
            text = text.replace(word, meant)
        lines = "\n" * (block.line) + text  # a traceback tells the page's line
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(lines, str(pages.ROOT / page), "exec"), names)
        expected = printed_after(block)
        assert expected is None or printed.getvalue() == expected, block.name


READ_BY = {
    "docs/augmentation.md": lambda text: augment.from_toml(text, "page"),
    "docs/studies/README.md": lambda text: tomllib.loads(text)["axes"],
}


@pytest.mark.parametrize("block", pages.blocks("toml"), ids=lambda block: block.name)
def test_toml_is_read(block):
    READ_BY.get(block.page, tomllib.loads)(block.text)


def test_what_runs_elsewhere_does_not_grow():
    assert list(RUN_ELSEWHERE) == ["docs/export.md"]
