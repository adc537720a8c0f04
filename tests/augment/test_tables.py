"""Policies as TOML and back; an operation of one's own, written as the documentation shows it."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from looktwice.augment import Policy, from_tables, from_toml, policy, to_tables, to_toml
from looktwice.augment.named import DERIVED, NAMED
from looktwice.errors import UsageError

JITTER = """[[views]]
operations = [{{ name = "crop", size = 8 }}, {{ name = "jitter", schedule = {} }}]"""
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "augmentation.md"


@given(st.sampled_from([*NAMED, *DERIVED]), st.integers(4, 300))
def test_toml_brings_back_the_same_policy(name, size):
    chain = policy(name, size=size)
    assert from_toml(to_toml(chain)) == chain
    assert from_tables(to_tables(chain)) == chain


def test_fields_left_out_take_their_defaults():
    text = '[[views]]\noperations = [{ name = "crop", size = 8 }, { name = "flip" }]'
    assert from_toml(text) == policy("supervised", size=8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[views]", "not valid TOML"),
        ("views = 3", "consists of"),
        ("[[views]]\ncount = 2", "list of operations"),
        ('[[views]]\ncount = 0\noperations = [{ name = "crop", size = 8 }]', "count"),
        ('[[views]]\ncount = 10000000000\noperations = [{ name = "crop", size = 8 }]', "count"),
        ('[[views]]\noperations = [{ name = ["crop"] }]', "no operation is called"),
        *(
            (JITTER.format(bad), "schedule must be pairs")
            for bad in ("[[50, 1.5, 2]]", "[[50]]", "[50]", '"ab"')
        ),
        ('[[views]]\nn = 0\noperations = [{ name = "crop", size = 8 }]', "'n'"),
        ('[[views]]\noperations = [{ name = "crop" }]', "size"),
        ('[[views]]\noperations = [{ name = "crap", size = 8 }]', "'crop'"),
        ('[[views]]\noperations = [{ name = "crop", sise = 8 }]', "'size'"),
        ('[[views]]\noperations = [{ name = "crop", size = 8, scale = [1.0, 0.2] }]', "scale"),
        ('[[views]]\noperations = ["crop"]', "'crop'"),
        ('[[views]]\noperations = [{ name = "flip" }]', "begin with its only crop"),
    ],
)
def test_bad_files_are_told_in_one_line(text, words):
    with pytest.raises(UsageError) as caught:
        from_toml(text, "mine.toml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_documentation_s_own_operation(monkeypatch):
    """It is at most 30 lines, does what it says, and can be stored and read back."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENTATION.read_text("utf-8"), re.DOTALL)
    code = next(block for block in blocks if "(Operation)" in block)
    assert len(code.splitlines()) <= 30
    space = {"__name__": __name__}
    exec(compile(code, str(DOCUMENTATION), "exec"), space)
    own = space["Scanlines"]
    chain = policy("supervised", size=20).without("flip").then(own(p=1.0))
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)
    rows = chain.sample(seed=0, epoch=0, indices=range(6), heights=[20] * 6, widths=[20] * 6)
    made = chain.apply(images, rows)
    plain = Policy((chain.views[0][:1],)).apply(images, rows[:, :, :5])
    for n in range(6):
        drawn = dict(chain.describe(rows[n, 0], 0))["scanlines"]
        expected = plain[n, 0].copy()
        every = int(drawn["every"])
        expected[every - 1 :: every] = (expected[every - 1 :: every] * drawn["shade"]).astype(
            np.uint8
        )
        assert (made[n, 0] == expected).all()
    assert from_toml(to_toml(chain)) == chain
    assert tomllib.loads(to_toml(chain))["views"][0]["operations"][1]["name"] == "scanlines"
