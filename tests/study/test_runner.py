"""Running studies: the same table however they were interrupted, shared out or repeated."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from small_study import STUDY, made

from looktwice.cli import main
from looktwice.data import open_splits
from looktwice.errors import UsageError
from looktwice.study import as_json, open_study, plan, read_results, table
from looktwice.study.planning import shard


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, pictures):
    """A finished study: its folder, plan and results."""
    folder = tmp_path_factory.mktemp("undisturbed")
    planned, results, said, failed = made(folder / "s.toml", pictures, folder, text=STUDY)
    assert failed == {}
    return folder, planned, results, said


def numbers(results):
    """Everything of a table that does not depend on the clock."""
    return as_json(results) | {"rows": [_untimed(row) for row in as_json(results)["rows"]]}


def _untimed(row):
    kept = {k: v for k, v in row["measures"].items() if k in ("linear", "knn")}
    return row | {"measures": kept}


def test_a_study_has_every_variant_seed_and_baseline(undisturbed):
    _, _, results, said = undisturbed
    assert [row.name for row in results.rows] == ["0.5", "1"]
    assert [row.name for row in results.baselines] == ["raw-pixels", "untrained"]
    assert all(row.estimates["linear"].seeds == 2 for row in (*results.rows, *results.baselines))
    assert results.missing == 0
    assert "2 variants, 2 seeds, 4 runs to make: about" in said
    assert said.count("linear probe") == 4
    difference = results.rows[1].differences["linear"]
    ours, theirs = (row.estimates["linear"].mean for row in results.rows)
    assert difference.estimate.mean == pytest.approx(theirs - ours)


def test_baselines_are_measured_once_and_of_the_reference(undisturbed):
    _, planned, _, _ = undisturbed
    rows = {task.variant: task.measured().keys() for task in planned.tasks}
    assert rows["0.5"] == {"encoder", "raw-pixels", "untrained"}
    assert rows["1"] == {"encoder"}


def test_a_finished_study_makes_nothing_again(undisturbed, pictures):
    folder, planned, results, _ = undisturbed
    before = {
        task.folder: (task.folder / "summary.json").stat().st_mtime_ns for task in planned.tasks
    }
    begun = time.monotonic()
    _, again, said, _ = made(folder / "s.toml", pictures, folder)
    assert time.monotonic() - begun < 5
    assert "to make" not in said
    assert numbers(again) == numbers(results)
    assert before == {
        task.folder: (task.folder / "summary.json").stat().st_mtime_ns for task in planned.tasks
    }


def test_two_jobs_and_shards_give_the_same_table(undisturbed, pictures, tmp_path):
    _, _, results, _ = undisturbed
    text = STUDY.replace("steps = 6", "steps = 6, threads = 1")
    for share in ("1/2", "2/2"):
        _, found, _, _ = made(
            tmp_path / "s.toml", pictures, tmp_path, jobs=2, text=text, share=share
        )
    assert found.missing == 0
    for ours, theirs in zip(found.rows, results.rows, strict=True):
        # Two threads or one add in another order.
        assert ours.estimates["linear"].mean == pytest.approx(
            theirs.estimates["linear"].mean, abs=0.1
        )


@pytest.mark.parametrize("wrong", ["3/2", "0/2", "a/b", "1", "1/0"])
def test_shares_that_are_none(wrong):
    with pytest.raises(UsageError, match="i/n"):
        shard([], wrong)


def test_shards_are_all_runs_once():
    tasks = list(range(10))
    found = [task for i in (1, 2, 3) for task in shard(tasks, f"{i}/3")]
    assert sorted(found) == tasks


def test_killed_at_random_it_ends_with_the_same_table(undisturbed, pictures, tmp_path):
    _, _, results, _ = undisturbed
    generator = random.Random(0)
    (tmp_path / "s.toml").write_text(STUDY)
    command = [
        sys.executable, "-m", "looktwice", "study", "s.toml", "--data", str(pictures), "--seeds", "2",
        "--out", ".", "--json",
    ]  # fmt: skip
    kills = 0
    for _ in range(int(os.environ.get("LOOKTWICE_STUDY_KILLS", "3"))):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        time.sleep(generator.uniform(4, 12))
        kills += process.poll() is None
        how = generator.choice(("alone", "all", "ctrl-c"))
        if process.poll() is None and how == "all":
            os.killpg(process.pid, signal.SIGKILL)
        elif process.poll() is None and how == "ctrl-c":
            process.send_signal(signal.SIGINT)
            # The last is Python's own, where the command has not begun.
            assert process.wait(timeout=60) in (0, 130, -signal.SIGINT)
        process.kill()  # the processes below find that it is gone
        process.wait()
    assert kills > 0
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    planned = plan(
        open_study(str(tmp_path / "s.toml")), data=str(pictures), seeds=2, folder=tmp_path
    )
    assert numbers(read_results(planned)) == numbers(results)
    found = json.loads(done.stdout)
    assert found["missing_runs"] == 0


def test_a_run_that_fails_is_told_and_the_others_go_on(undisturbed, pictures, tmp_path):
    folder, planned, _, _ = undisturbed
    shutil.copytree(folder, tmp_path / "copy")
    first, second = (tmp_path / "copy" / "runs" / t.folder.name for t in planned.tasks[:2])
    shutil.rmtree(second)
    with (first / "config.toml").open("a") as config:
        config.write("[tomorrow]\nkey = 1\n")
    (first / "measures.json").unlink()
    _, results, said, failed = made(tmp_path / "copy" / "s.toml", pictures, tmp_path / "copy")
    assert list(failed) == [f"{planned.tasks[0].variant}, seed {planned.tasks[0].seed}"]
    (why,) = failed.values()
    assert "tomorrow" in why
    assert f"remove {first}: then the run is made anew" in why
    assert why in said
    assert (second / "measures.json").exists()
    assert results.missing == 1


def test_minutes_end_it_and_the_rest_is_said(pictures, tmp_path):
    _, results, said, _ = made(tmp_path / "s.toml", pictures, tmp_path, text=STUDY, minutes=1e-4)
    assert "4 runs were not begun; the same command makes them" in said
    assert results.rows == ()
    assert results.missing == 4
    assert table(results) == "no run is finished yet; the same command makes them"


def test_what_was_killed_before_it_was_a_run_is_begun_anew(undisturbed, pictures, tmp_path):
    folder, planned, results, _ = undisturbed
    shutil.copytree(folder, tmp_path / "copy")
    victim = tmp_path / "copy" / "runs" / planned.tasks[0].folder.name
    shutil.rmtree(victim)
    victim.mkdir()
    (victim / "environment.json").write_text("{")
    _, again, _, failed = made(tmp_path / "copy" / "s.toml", pictures, tmp_path / "copy")
    assert failed == {}
    assert numbers(again) == numbers(results)


def test_a_study_of_which_nothing_could_be_made_says_why_in_a_line(
    pictures, tmp_path, monkeypatch, capsys
):
    why = {"0.5, seed 0": "cannot write x: No space left on device"}
    monkeypatch.setattr("looktwice.study.run_study", lambda *_, **__: why)
    (tmp_path / "s.toml").write_text(STUDY)
    arguments = [str(tmp_path / "s.toml"), "-d", str(pictures), "-o", str(tmp_path / "out")]
    assert main(["study", *arguments]) == 1
    told = "looktwice: no run of the study could be made; the first: cannot write x: No space left on device\n"
    assert capsys.readouterr().err == told


def test_the_command_lists_refuses_and_prints_json(undisturbed, pictures, capsys, monkeypatch):
    folder, *_ = undisturbed
    monkeypatch.chdir(folder)
    assert main(["study"]) == 0
    listed = capsys.readouterr().out
    assert "temperature" in listed
    assert "policy" in listed
    for arguments, said in (
        (["temprature"], "Did you mean 'temperature'"),
        (["s.toml"], "no pictures named"),
        (["policy"], "no pictures named"),
        (["s.toml", "-d", str(pictures), "--seed", "3"], "--seeds"),
        (["s.toml", "-d", str(pictures), "--paper"], "leave --paper out"),
        (["s.toml", "-d", str(pictures), "--shard", "9"], "i/n"),
    ):
        assert main(["study", *arguments]) == 2, arguments
        assert said in capsys.readouterr().err
    assert main(["study", "s.toml", "-d", str(pictures), "--seeds", "2", "-o", ".", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["rows"]] == ["0.5", "1"]
    for name in ("results.json", "results.csv", "results.md", "figure.svg", "report.html"):
        assert (folder / "s" / name).stat().st_size > 100


def test_runs_made_beside_others_tell_no_times(undisturbed, pictures):
    _, planned, results, _ = undisturbed
    assert "seconds" in results.measures
    config = planned.tasks[-1].folder / "config.toml"
    before = config.read_text()
    threads = planned.tasks[-1].config.train.threads
    config.write_text(before.replace(f"threads = {threads}", f"threads = {threads + 1}"))
    try:
        assert "seconds" not in read_results(planned, timed=True).measures
    finally:
        config.write_text(before)
    assert "seconds" in read_results(planned, timed=True).measures


def test_what_was_measured_on_other_test_pictures_is_measured_anew(undisturbed, pictures, tmp_path):
    _, planned, _, _ = undisturbed
    others = tmp_path / "pictures"
    shutil.copytree(pictures, others)
    before = open_splits(others)
    classes = sorted(path for path in others.iterdir() if path.is_dir())
    moved = before.test.identifier(0)
    (others / moved).rename(next(c for c in classes if c.name not in moved) / "moved.png")
    assert open_splits(others).fingerprint() != before.fingerprint()
    task = planned.tasks[0]
    assert not task.missing()
    other = dataclasses.replace(task, pictures=open_splits(others).fingerprint())
    assert other.missing()["encoder"] == ["linear", "knn"]


def test_one_seed_is_valid_json(undisturbed, pictures, monkeypatch, capsys):
    folder, *_ = undisturbed
    monkeypatch.chdir(folder)
    assert main(["study", "s.toml", "-d", str(pictures), "--seeds", "1", "-o", ".", "--json"]) == 0
    strict = {"parse_constant": lambda name: pytest.fail(f"{name} is not JSON")}
    found = json.loads(capsys.readouterr().out, **strict)
    json.loads((folder / "s" / "results.json").read_text(), **strict)
    assert found["rows"][0]["measures"]["seconds"]["interval"] == [None, None]
