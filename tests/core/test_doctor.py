"""`looktwice doctor`: what it measures, what it advises, how a check that fails ends."""

import json
import math
from pathlib import Path

import numba
import pytest
import torch

from looktwice import doctor
from looktwice.cli import main
from looktwice.equivalence import Case, Difference, Layout

CASE = Case("simclr", "sgd", 8, torch.float64)
SINGLE = Case("moco", "lars", "global", torch.float32)
GOOD = Difference(CASE, Layout(2, 2), loss=0.0, gradient=1e-15, state=1e-14, error=None)
ROUNDED = Difference(SINGLE, Layout(4, 1), loss=0.0, gradient=1e-6, state=None, error=1.1)
BAD = Difference(CASE, Layout(1, 4), loss=0.0, gradient=1e-3, state=1e-14, error=None)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(doctor, "SGEMM_SECONDS", 0.02)
    monkeypatch.setattr(doctor, "AUGMENT_SECONDS", 0.02)


def test_it_finds_and_measures_what_is_here(quick, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LOOKTWICE_DATA", str(tmp_path))
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"looktwice", "python", "torchvision", "timm", "numba"} < found["versions"].keys()
    assert 1 <= found["usable_cores"] <= found["cores"]
    assert found["memory_gb"] > 0.1
    assert found["data"] == {"LOOKTWICE_DATA": str(tmp_path), "found": True}
    assert found["sgemm_gflops"] > 1
    cifar, moco = (found["augmentation"][name] for name in ("simclr-cifar", "moco-v2"))
    assert cifar["views_per_second_per_core"] > moco["views_per_second_per_core"] > 10
    for rate in (cifar, moco):
        assert rate["cores_needed"] == pytest.approx(
            rate["views_per_second_needed"] / rate["views_per_second_per_core"], rel=0.01, abs=0.01
        )


def test_lines_name_every_finding(quick, capsys, monkeypatch):
    monkeypatch.delenv("LOOKTWICE_DATA", raising=False)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for name in ("torch ", "cpu", "memory", "numba cache", "SGEMM", "23,000", "2,470", "not set"):
        assert name in text
    last = text.splitlines()[-1]
    assert last == "nothing to mend" or last.startswith("to do: ")


def test_views_needed_are_counted_in_forward_passes():
    # 100 pictures/s of three passes are 300 passes/s: 50 SimCLR pictures of two views each.
    assert doctor.views_needed(100, 6, 2) == 100
    # 75 MoCo pictures: a query of three passes, a key of one.
    assert doctor.views_needed(100, 4, 2) == 150


def test_multiplications_are_counted(monkeypatch):
    monkeypatch.setattr(doctor, "_best_seconds", lambda call, budget: 0.5)
    assert doctor.sgemm_gflops() == pytest.approx(2 * 1024**3 / 0.5 / 1e9)


def found(**changed):
    plain = {
        "cores": 8, "usable_cores": 8, "torch_threads": 8, "OMP_NUM_THREADS": None,
        "numba_cache": "here", "data": {"LOOKTWICE_DATA": None, "found": False},
    }  # fmt: skip
    return {**plain, **changed}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        ({"torch_threads": 1}, ["torch uses 1 of 8 cores; give --threads 0"]),
        ({"torch_threads": 1, "OMP_NUM_THREADS": "1"}, ["OMP_NUM_THREADS is 1: unset it"]),
        ({"usable_cores": 2, "torch_threads": 2}, ["may use 2 of 8 cores"]),
        ({"numba_cache": None}, ["set NUMBA_CACHE_DIR to a folder that can be written"]),
        ({"data": {"LOOKTWICE_DATA": "/x", "found": False}}, ["LOOKTWICE_DATA is /x, which is no"]),
    ],
)
def test_what_is_not_right_comes_with_a_remedy(changed, told):
    given = doctor.advice(found(**changed))
    assert len(given) == len(told)
    for text, part in zip(given, told, strict=True):
        assert part in text


def test_a_cache_that_cannot_be_written_is_none(monkeypatch):
    assert doctor.numba_cache() is None or Path(doctor.numba_cache()).is_absolute()

    plain = numba.njit(lambda: 0)  # compiled as where no folder can be written
    monkeypatch.setattr(doctor, "apply_rows", plain)
    assert doctor.numba_cache() is None


def test_a_check_that_holds_ends_well(monkeypatch, capsys):
    asked = []

    def measure(cases, **layouts):
        asked.append((len(cases), layouts))
        return iter([GOOD, ROUNDED])

    monkeypatch.setattr(doctor.equivalence, "measure", measure)
    assert main(["doctor", "--equivalence"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok simclr, sgd, bn_group 8, fp64")
    assert "2 processes × 1/2 at a time" in lines[0]
    assert "gradient 1e-15 ≤ 1e-12  state 1e-14 ≤ 1e-10" in lines[0]
    assert "gradient 1e-06 ≤ 1e-05  error 1.10 ≤ 3" in lines[1]
    assert lines[2].startswith("all 2 layouts give the gradients")
    assert main(["doctor", "--whole", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["holds"]
    assert result["layouts"][1]["error"] == 1.1
    sample, whole = asked
    assert sample[0] < whole[0]
    assert whole[1] == {}


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_check_that_does_not_hold_ends_with_1(monkeypatch, capsys, flags):
    monkeypatch.setattr(doctor.equivalence, "measure", lambda *_, **__: iter([GOOD, BAD]))
    assert main(["doctor", "--equivalence", *flags]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "1 of 2 layouts do not give the gradients" in captured.err
    if flags:
        assert json.loads(captured.out)["holds"] is False
    else:
        assert captured.out.splitlines()[1].startswith("NO simclr")


@pytest.mark.parametrize("wrong", ["loss", "gradient", "state", "error"])
def test_every_difference_is_held_to_its_limit(wrong):
    plain = {"loss": 0.0, "gradient": 0.0, "state": 0.0, "error": 1.0}
    assert Difference(CASE, Layout(2, 1), **plain).holds
    assert not Difference(CASE, Layout(2, 1), **{**plain, wrong: 4.0}).holds
    assert not Difference(CASE, Layout(2, 1), **{**plain, wrong: math.inf}).holds
    assert not Difference(CASE, Layout(2, 1), **{**plain, wrong: math.nan}).holds
