"""Checkpoints whose bytes changed are never used, and the one before is; hostile ones run nothing."""

import io
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from looktwice import recovery
from looktwice.checkpoint import (
    checkpoint_name,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from looktwice.cli import main
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with pictures of two classes and a run of two steps on them."""
    folder = tmp_path_factory.mktemp("trained")
    generator = np.random.default_rng(0)
    for name in ("day", "night"):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 256, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number}.png")
    quick = ["--size", "8", "-b", "8", "--steps", "2", "--threads", "1", "--model.image-size", "8"]
    given = ["pretrain", "-d", str(folder / "pictures"), "-o", str(folder / "run"), *quick]
    assert main(given) == 0
    return folder


def newer_config(run):
    text = run.config_file.read_text()
    run.config_file.write_text(text.replace("[train]\n", "[train]\nnew = 1\n"))


def newer_encoder(run):
    data = run.encoder_file.read_bytes()
    assert data.count(b"looktwice-encoder/1") == 1
    run.encoder_file.write_bytes(data.replace(b"looktwice-encoder/1", b"looktwice-encoder/9"))


def newer_checkpoint(run):
    parts, state = load_checkpoint(run.checkpoints / checkpoint_name(2))
    save_checkpoint(run.checkpoints, 2, parts, state | {"format": "looktwice-checkpoint/9"})
    run.encoder_file.unlink()  # not finished: `resume` has to read it
    run.summary_file.unlink()


READ = {
    newer_config: ("embed", "search", "export", "eval", "report", "resume", "analyze"),
    newer_encoder: ("embed", "search", "export", "eval", "analyze"),
    newer_checkpoint: ("resume",),
}
SAID = {
    newer_config: "unknown key 'train.new'",
    newer_encoder: "is not an encoder of this version of looktwice",
    newer_checkpoint: "written by another version of looktwice",
}


@pytest.mark.parametrize("newer", READ, ids=lambda newer: newer.__name__)
def test_a_run_of_a_newer_version_is_one_line_and_left_as_it_is(trained, tmp_path, capsys, newer):
    run, out = Run(tmp_path / "run"), str(tmp_path / "out.npy")
    shutil.copytree(trained / "run", run.path)
    newer(run)
    more = {
        "embed": ["--out", out],
        "search": [str(trained / "pictures" / "day" / "0.png")],
        "export": ["--to", "hf", "--out", out],
    }
    before = contents(tmp_path)
    for command in READ[newer]:
        code = main([command, str(run.path), *more.get(command, [])])
        error = capsys.readouterr().err
        assert (code in (1, 2), error.count("\n"), SAID[newer] in error) == (True, 1, True), error
        assert contents(tmp_path) == before, command


def contents(folder):
    """Return everything in a folder and below it: the bytes of files, None for folders."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
