"""Killed and stopped runs end with the bits they would have had: a sample of `make campaign`."""

import os
import re
import subprocess
import sys
from pathlib import Path

METHODS = ("simclr", "moco")
FILE = Path(__file__).parents[2] / "benchmarks" / "survival.py"


def campaign(*arguments):
    done = subprocess.run(
        [sys.executable, str(FILE), *arguments], capture_output=True, text=True, timeout=900,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^  (.+?) {2,}([\d.]+)", done.stdout, re.MULTILINE)
    return {what: float(number) for what, number in found}, done


def test_forty_kills():
    found, done = campaign("kills", "--kills", "40")
    kinds = [f"kills, {method}-{layout}" for layout in ("folder", "tar") for method in METHODS]
    assert found["kills"] == sum(found[kind] for kind in kinds) == 40, done
    assert all(found[kind] for kind in kinds)
    assert found["inside a save"] > 13
    assert found["most steps lost"] <= 3
    assert found["runs compared"] >= 10
    assert found["wrong"] == 0


def test_twenty_requests_to_stop():
    found, done = campaign("signals", "--signals", "20")
    assert found["stopped and saved"] >= 20, done  # the last run is finished
    assert found["slowest end, s"] < 5
    assert found["wrong"] == 0


def test_two_kills_of_one_process_of_two():
    found, done = campaign("ranks", "--ranks", "2")
    assert found["kills"] == 2, done
    assert found["wrong"] == 0
