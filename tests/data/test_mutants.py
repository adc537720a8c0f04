"""A sample of the campaign on damaged and hostile files, and files that would run code."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__)
CAMPAIGN = HERE.parents[2] / "benchmarks" / "mutants.py"
HOSTILE = HERE.with_name("hostile_data.py")


def test_a_sample_of_the_campaign():
    command = [sys.executable, CAMPAIGN, "--mutants", "2000", "--cuts", "100", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert found["mutants"] == 2000
    assert found["bad"] > 1000
    assert found["by hand"] >= 60
    assert done.returncode == 0


def _hostile(mode, folder):
    command = [sys.executable, HOSTILE, mode, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_no_file_of_a_data_set_runs_code(tmp_path):
    found = _hostile("safe", tmp_path)
    assert len(found["cases"]) >= 100
    for case, (events, outcome) in found["cases"].items():
        assert events == [], case
        assert outcome == "opened" or ("\n" not in outcome and "unexpected" not in outcome), case
    assert not found["victim"]
    assert {outcome == "opened" for _, outcome in found["cases"].values()} == {True, False}


def test_the_hook_sees_code_that_runs(tmp_path):
    cases = _hostile("plain", tmp_path)["cases"]
    assert sum(bool(events) for events, _ in cases.values()) >= 25
