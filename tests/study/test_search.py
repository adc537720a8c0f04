"""The search for a policy: its changes, how it goes on from rung to rung, and what it writes."""

import io

import numpy as np
import pytest
from PIL import Image

from looktwice.augment import from_toml, policy
from looktwice.config import load
from looktwice.errors import UsageError
from looktwice.run import build_policy
from looktwice.study import Search, search
from looktwice.study.edits import as_settings, edited, edits
from looktwice.study.search import START, _best, _next

SIMCLR = policy("simclr", size=16, gray_p=0.2, blur_p=0.0)


def by_name(start=SIMCLR, channels=3):
    return {edit.name: edit for edit in edits(start, channels, 24)}


def test_changes_leave_out_what_is_there_and_add_what_is_not():
    names = by_name()
    assert {"without flip", "without jitter", "without gray", "with blur", "with solarize"} <= set(
        names
    )
    assert not {"with flip", "with jitter", "without blur", "crops from 0.08"} & set(names)
    assert {
        "views of 8 px",
        "views of 12 px",
        "views of 24 px",
        "jitter × 0.5",
        "crops from 0.2",
    } <= set(names)
    plain = policy("simclr", size=16, gray_p=0.0, blur_p=0.0)
    grey = by_name(plain, channels=1)
    assert "with gray" not in grey
    assert "with sepia" not in grey
    edited(plain, tuple(grey.values())[:1]).check_channels(1)


def test_every_change_does_what_it_says_and_can_be_trained_with():
    for name, edit in by_name().items():
        changed = edit.change(SIMCLR)
        assert changed != SIMCLR, name
        assert set(as_settings(changed)) == {"augment.views"}
    names = by_name()
    assert names["views of 8 px"].change(SIMCLR).size == 8
    jitter = next(s for s in names["jitter × 2"].change(SIMCLR).views[0] if s.name == "jitter")
    assert (jitter.brightness, jitter.hue) == (1.6, 0.4)
    assert names["crops from 0.2"].change(SIMCLR).views[0][0].scale == (0.2, 1.0)


def test_the_best_go_on_with_the_start_and_their_combinations():
    edit = by_name()
    candidates = {START: ()} | {name: (edit[name],) for name in
                  ("with blur", "crops from 0.2", "crops from 0.5", "without flip", "with clahe")}  # fmt: skip
    scores = (("with blur", 0.9), ("crops from 0.2", 0.8), ("crops from 0.5", 0.75), (START, 0.7),
              ("without flip", 0.6), ("with clahe", 0.5))  # fmt: skip
    found = _next(candidates, scores, 5)
    assert list(found)[:3] == ["with blur", "crops from 0.2", "crops from 0.5"]
    assert START in found
    assert "with blur, crops from 0.2" in found
    assert "crops from 0.2, crops from 0.5" not in found, "two crops exclude each other"
    assert "without flip" not in found
    assert not any("without flip" in name for name in found), "it was worse than the start"


def test_the_best_is_of_the_last_rung_that_finished_anything():
    assert _best([(("a", 0.2), ("b", 0.1)), ()]) == "a"
    assert _best([(("a", 0.9),), (("b", 0.1),)]) == "b"
    assert _best([()]) == START


@pytest.fixture
def quick(monkeypatch):
    """Three changes, one rung but one, and one seed for the proof."""
    all_edits = search.edits
    lengths = iter((0.5, 0.7))  # as if the machine were slower the second time
    some = ("with blur", "crops from 0.5", "without flip")
    monkeypatch.setattr(search, "edits", lambda *a: [e for e in all_edits(*a) if e.name in some])
    monkeypatch.setattr(search, "KEPT", (0.5,))
    monkeypatch.setattr(search, "PROOF_SEEDS", (101,))
    monkeypatch.setattr(search, "_OVERHEAD", 0.0)
    monkeypatch.setattr(Search, "_epochs", lambda *_: next(lengths))


def run_search(data, folder, **options):
    settings = {"augment.size": 8, "model.image_size": 8, "train.batch_size": 16}
    settings |= options.pop("settings", {})
    said = io.StringIO()
    search = Search(
        recipe="simclr-tiny", data=str(data), minutes=5, folder=folder, jobs=2, settings=settings,
        file=said, **options,
    )  # fmt: skip
    return search.run(), said.getvalue()


def test_a_search_ends_with_a_policy_its_gain_and_a_recipe(quick, pictures, tmp_path):
    found, said = run_search(pictures, tmp_path)
    assert "4 candidates, at first for 0.5 epochs each, chosen on validation by 10 labels" in said
    assert set(dict(found.rungs[0])) == {START, "with blur", "crops from 0.5", "without flip"}
    assert len(found.rungs) == 2
    assert found.epochs == pytest.approx((0.5, 1.5))
    assert build_policy(load(found.recipe).augment) == from_toml(found.policy)
    assert (found.recipe.parent / "policy.toml").read_text().startswith(f"# {found.sentence}")
    again, said = run_search(pictures, tmp_path)
    assert "runs to make" not in said, "what is there was made again"
    assert again.rungs == found.rungs
    assert again.recipe == found.recipe
    if found.name == START:
        assert found.gain is None
        assert "better on validation than the policy as it is" in found.sentence
    else:
        assert found.proof is not None
        assert found.gain.name == found.name
        assert found.name in found.sentence


def test_without_labels_the_rank_chooses_and_nothing_is_called_proven(quick, tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "flat").mkdir()
    for number in range(60):
        pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "flat" / f"{number}.png")
    found, said = run_search(tmp_path / "flat", tmp_path / "out")
    assert "effective rank, as there are no labels" in said
    assert not found.by_labels
    assert found.gain is None
    assert "above" not in found.sentence
    if found.name != START:
        assert "no labels to prove it with" in found.sentence


def test_too_little_time_and_a_length_are_refused(pictures, tmp_path):
    with pytest.raises(UsageError, match="the length of its runs follows from --minutes"):
        run_search(pictures, tmp_path, settings={"train.epochs": 3.0})
    with pytest.raises(UsageError, match=r"--minutes 5 are too few for one epoch .* at least"):
        run_search(pictures, tmp_path)
