"""What cannot be trained ends all processes, with one line that says why."""

import json
import re

from looktwice.checkpoint import list_checkpoints
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


def test_other_commands_are_refused_once(torchrun, tmp_path):
    done = torchrun("eval", tmp_path)
    (line,) = done.ours
    assert "looktwice eval runs in one process; start it without torchrun" in line
    assert re.search(r"exitcode +: 2 ", done.errors), done


def test_an_out_folder_that_cannot_be_made_is_told_once(pictures, torchrun):
    done = torchrun("pretrain", "-d", pictures, "-o", "/proc/run", *QUICK, "--steps", "3")
    (line,) = done.ours
    assert "cannot make /proc/run" in line, done


def test_minutes_and_bad_pictures_end_at_the_same_step(damaged_pictures, torchrun, tmp_path):
    run = Run(tmp_path / "run")
    done = torchrun(
        "pretrain", "-d", damaged_pictures, "-o", run.path, *QUICK,
        "--minutes", "0.02", "--data.max-bad", "0.5",
    )  # fmt: skip
    assert done.code == 0, done
    (steps,) = re.findall(r"minutes are ([\d,]+) steps", done.out)
    steps = int(steps.replace(",", ""))
    assert run.config().train.steps == steps
    assert list_checkpoints(run.checkpoints)[-1].name == f"step-{steps:08d}"
    assert len(run.bad_files.read_text().splitlines()) == json.loads(
        run.summary_file.read_text()
    )["bad_pictures"]  # fmt: skip


def test_bad_pictures_of_all_processes_are_counted_together(damaged_pictures, torchrun, tmp_path):
    # One of each process's own would be allowed.
    run = Run(tmp_path / "run")
    done = torchrun(
        "pretrain", "-d", damaged_pictures, "-o", run.path, *QUICK, "--steps", "40",
        "--data.max-bad", "0.02",
    )  # fmt: skip
    assert done.code != 0
    (line,) = done.ours
    assert re.search(
        r"looktwice: (process 1: )?2 of the \d+ pictures in .* cannot be read", line
    ), done
    assert run.bad_files.exists()
