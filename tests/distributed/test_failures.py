"""What cannot be trained ends all processes, with one line that says why."""

import json
import os
import re
import subprocess
import sys

import pytest

from looktwice import distributed, train
from looktwice.checkpoint import list_checkpoints
from looktwice.cli import main
from looktwice.data import open_splits
from looktwice.errors import DataError
from looktwice.run import Run

QUICK = ["--size", "8", "-b", "8", "--threads", "1", "--model.image-size", "8"]


def test_a_batch_that_processes_cannot_share_is_refused_once(pictures, torchrun, tmp_path):
    out = tmp_path / "run"
    done = torchrun(
        "pretrain", "-d", pictures, "-o", out, *QUICK[:2], *QUICK[4:], "-b", "9", "-m", "1"
    )
    assert done.ours == ["looktwice: train.batch_size 9 is no multiple of the 2 processes"], done
    assert re.search(r"rank +: 0 .*\s+exitcode +: 2 ", done.errors), done
    assert not out.exists()


def test_other_commands_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert main(["eval", "runs/one"]) == 2
    assert "looktwice eval runs in one process, not in 2;" in capsys.readouterr().err


def test_other_processes_print_nothing(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["pretrain", "--print-config"]) == 0
    assert capsys.readouterr().out == ""


def test_other_pictures_than_the_first_processs_are_refused(monkeypatch, pictures):
    splits = open_splits(str(pictures), validation_fraction=0.1, test_fraction=0.1, seed=0)
    train._same_pictures(splits)
    monkeypatch.setattr(distributed, "from_first", lambda own: own + "0")
    with pytest.raises(DataError, match="does not hold the same pictures here as for process 0"):
        train._same_pictures(splits)


def test_an_out_folder_that_cannot_be_made_is_told_once(pictures, torchrun):
    done = torchrun("pretrain", "-d", pictures, "-o", "/proc/run", *QUICK, "--steps", "3")
    (line,) = done.ours
    assert "cannot make /proc/run" in line, done


def test_minutes_and_bad_pictures_end_at_the_same_step(many_damaged_pictures, torchrun, tmp_path):
    run = Run(tmp_path / "run")
    done = torchrun(
        "pretrain", "-d", many_damaged_pictures, "-o", run.path, *QUICK,
        "--minutes", "0.02", "--data.max-bad", "0.9",
    )  # fmt: skip
    assert done.code == 0, done
    (steps,) = re.findall(r"minutes are ([\d,]+) steps", done.out)
    steps = int(steps.replace(",", ""))
    assert run.config().train.steps == steps
    assert list_checkpoints(run.checkpoints)[-1].name == f"step-{steps:08d}"
    found = json.loads(run.summary_file.read_text())["bad_pictures"]
    assert found == len(run.bad_files.read_text().splitlines()) > 0


def test_bad_pictures_of_all_processes_are_counted_together(
    damaged_pictures, torchrun, tmp_path, capsys
):
    """Two are too many: two processes that met one each stop where one process stops."""
    runs = Run(tmp_path / "alone"), Run(tmp_path / "together")
    arguments = [
        "pretrain", "-d", damaged_pictures, *QUICK, "--steps", "40", "--data.max-bad", "0.02",
        "--train.checkpoint-every", "1", "-o",
    ]  # fmt: skip
    assert main([str(a) for a in [*arguments, runs[0].path]]) == 1
    message = capsys.readouterr().err.rstrip()
    assert message.startswith("looktwice: 2 of the 58 pictures in ")
    done = torchrun(*arguments, runs[1].path)
    assert done.code != 0
    assert done.ours == [message], done
    saved = [[p.name for p in list_checkpoints(run.checkpoints)] for run in runs]
    assert saved[0] == saved[1]
    assert runs[0].bad_files.read_bytes() == runs[1].bad_files.read_bytes()


ABORTS = """
import atexit, os
from looktwice.launched import leave
atexit.register(os.abort)  # as threads of a connection that nobody closed do now and then
leave({code})
"""


@pytest.mark.parametrize(("world", "code", "ends"), [("2", 2, 2), ("1", 2, -6), ("2", 0, -6)])
def test_a_process_that_fails_among_others_ends_with_its_own_code(world, code, ends):
    """Alone, or after success, the interpreter ends as it always does."""
    environ = {**os.environ, "WORLD_SIZE": world}
    done = subprocess.run(
        [sys.executable, "-c", ABORTS.format(code=code)], env=environ, capture_output=True
    )
    assert done.returncode == ends, done
