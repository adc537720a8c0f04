"""Checkpoints whose bytes changed are never used, and the one before is; hostile ones run nothing."""

import io
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from looktwice import recovery
from looktwice.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from looktwice.console import TrainingConsole
from looktwice.errors import DamagedError, RunError
from looktwice.run import Run

HOSTILE = Path(__file__).with_name("hostile_checkpoints.py")


def checkpoint(folder, step):
    torch.manual_seed(step)
    parts = {"method": {"w": torch.randn(5, 7)}, "generators": {"cpu": torch.get_rng_state()[:64]}}
    return save_checkpoint(folder, step, parts, {"step": step, "best_knn": 0.25})


def flip(path, chance):
    file = chance.choice(sorted(path.iterdir()))
    data = bytearray(file.read_bytes())
    place = chance.randrange(len(data))
    data[place] ^= 1 << chance.randrange(8)
    file.write_bytes(data)


def cut(path, chance):
    file = chance.choice(sorted(path.iterdir()))
    data = file.read_bytes()
    file.write_bytes(data[: chance.randrange(len(data))])


def lose(path, chance):
    chance.choice(sorted(path.iterdir())).unlink()


def add(path, chance):
    name = chance.choice(("extra.safetensors", "extra.json", ".hidden", "folder", "manifest.json~"))
    if name == "folder":
        (path / name).mkdir()
    else:
        (path / name).write_bytes(chance.choice((b"", b"{}", (path / "state.json").read_bytes())))


def mix(path, chance):
    """A whole file of another checkpoint."""
    name = chance.choice(("method.safetensors", "state.json", "manifest.json"))
    shutil.copy(path.with_name("step-00000001") / name, path / name)


DAMAGES = (flip, flip, flip, flip, cut, cut, lose, add, mix)


def test_all_damage_is_noticed_and_no_other(tmp_path, cases):
    chance = random.Random(0)
    checkpoint(tmp_path, 1)
    path = checkpoint(tmp_path, 2)
    whole = {file.name: file.read_bytes() for file in path.iterdir()}
    for _ in range(cases(400, 10_000)):
        chance.choice(DAMAGES)(path, chance)
        with pytest.raises(DamagedError, match=r"^checkpoint \S+ is damaged: [^\n]+$"):
            load_checkpoint(path)
        shutil.rmtree(path)
        path.mkdir()
        for name, data in whole.items():
            (path / name).write_bytes(data)
    for _ in range(cases(50, 1000)):
        assert load_checkpoint(path)[1]["step"] == 2


@pytest.mark.parametrize("damage", set(DAMAGES), ids=lambda d: d.__name__)
def test_the_last_whole_one_is_taken_and_the_damaged_kept_aside(tmp_path, damage):
    run, out = Run(tmp_path), io.StringIO()
    for step in (1, 2, 3, 4):
        checkpoint(run.checkpoints, step)
    for step in (3, 4):
        damage(run.checkpoints / f"step-0000000{step}", random.Random(step))
    _, state = recovery.last_checkpoint(run, TrainingConsole(out))
    assert state["step"] == 2
    said = out.getvalue()
    assert said.count("is damaged: ") == said.count("going back to the one before it") == 2
    assert "step-00000004 is kept as damaged-step-00000004" in said
    assert [path.name[-1] for path in list_checkpoints(run.checkpoints)] == ["1", "2"]
    assert len(list(run.checkpoints.iterdir())) == 4


def test_a_run_none_of_whose_checkpoints_is_whole_is_not_begun_anew(tmp_path):
    run = Run(tmp_path)
    flip(checkpoint(run.checkpoints, 1), random.Random(0))
    with pytest.raises(RunError, match="none of the checkpoints in .* is whole; remove"):
        recovery.last_checkpoint(run, TrainingConsole(io.StringIO()))


def test_a_checkpoint_of_another_version_is_no_damage(tmp_path):
    run = Run(tmp_path)
    checkpoint(run.checkpoints, 1)
    save_checkpoint(run.checkpoints, 2, {}, {"format": "looktwice-checkpoint/9"})
    with pytest.raises(RunError, match="written by another version of looktwice"):
        recovery.last_checkpoint(run, TrainingConsole(io.StringIO()))


def test_hostile_checkpoints_and_configurations_run_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, str(HOSTILE), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["cases"]) >= 100
    for name, (events, error) in found["cases"].items():
        assert events == [], (name, events)
        assert error.startswith(("RunError: ", "DamagedError: ", "UsageError: ")), (name, error)
        assert "\n" not in error, name
    assert found["control"], "the hook sees nothing"
    assert not (tmp_path / "victim").exists()
