"""Training: exact resume from every step, the same bits for any loader, and what a run leaves."""

import filecmp
import io
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import looktwice
from looktwice import storage, train
from looktwice.checkpoint import (
    generator_tensors,
    list_checkpoints,
    load_checkpoint,
    load_generator_tensors,
)
from looktwice.config import resolve, to_toml, with_values
from looktwice.data import open_splits
from looktwice.errors import DataError, PeerError, RunError, Stopped, UsageError
from looktwice.large_batch import LargeBatch
from looktwice.run import IN_MEMORY, Run, check_free, exclusive
from looktwice.stopping import stop_request

SETTINGS = {
    "augment.size": 8,
    "model.image_size": 8,
    "train.batch_size": 16,
    "train.steps": 24,
    "train.threads": 1,
    "train.checkpoint_every": 1,
    "train.monitor_every": 1,
    "train.keep_last": 100,
    "data.source": "arrays",
}


def pictures(count=125, seed=0):
    """Half of them bright on the left, half on the right; labels say which."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = generator.integers(0, 120, (count, 12, 12, 1), dtype=np.uint8)
    images[labels == 0, :, :6] += 100
    images[labels == 1, :, 6:] += 100
    return images, labels


def splits():
    return open_splits(pictures(), validation_fraction=0.1, test_fraction=0.1, seed=0)


def start(folder, **settings):
    config = resolve(recipe="simclr-tiny", flags={**SETTINGS, **settings}, environ={})
    return train.start(config, folder, command="test", file=io.StringIO(), splits=splits())


def untimed(run):
    records = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "time"} for record in records]


def state_of(run):
    parts, state = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
    for timed in ("seconds", "waited"):
        state.pop(timed)
    return parts, state


def assert_equal_runs(a, b):
    assert filecmp.cmp(a.encoder_file, b.encoder_file, shallow=False)
    assert untimed(a) == untimed(b)
    (parts_a, state_a), (parts_b, state_b) = state_of(a), state_of(b)
    assert state_a == state_b
    for part, tensors in parts_a.items():
        assert tensors.keys() == parts_b[part].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, parts_b[part][name]), (part, name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return start(tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_leaves_what_it_promises(undisturbed):
    names = {path.name for path in undisturbed.path.iterdir()}
    assert names == {
        "config.toml", "environment.json", "metrics.jsonl", "train.log", "checkpoints",
        "encoder.safetensors", "summary.json",
    }  # fmt: skip
    records = untimed(undisturbed)
    assert [(r["epoch"], r["step"]) for r in records] == [(0, 0), (1, 6), (2, 12), (3, 18), (4, 24)]
    assert records[0]["loss"] is None
    assert records[1]["chance_loss"] == pytest.approx(np.log(31))
    summary = json.loads(undisturbed.summary_file.read_text())
    assert (summary["steps"], summary["pictures"]) == (24, 384)
    assert len(undisturbed.log_file.read_text().splitlines()) == 5
    features = looktwice.load_encoder(undisturbed.path)(torch.rand(3, 1, 12, 12))
    assert features.shape == (3, 768)


def test_the_best_epochs_encoder_can_be_loaded(undisturbed, tmp_path):
    records = [r for r in untimed(undisturbed) if r["step"]]
    step = max(records, key=lambda r: (r["knn"], -r["step"]))["step"]
    assert json.loads(undisturbed.summary_file.read_text())["best_step"] == step
    parts, _ = load_checkpoint(undisturbed.checkpoints / f"step-{step:08d}")
    best = looktwice.load_encoder(undisturbed.path, best=True)
    for name, tensor in best.backbone.state_dict().items():
        assert torch.equal(tensor, parts["method"][f"backbone.{name}"])
    copy = Run(tmp_path / "copy")
    shutil.copytree(undisturbed.path, copy.path)
    copy.summary_file.write_text('{"best_step": null}')
    with pytest.raises(RunError, match="has no best epoch"):
        looktwice.load_encoder(copy.path, best=True)


@pytest.mark.parametrize("step", range(25))
def test_resume_after_any_step_ends_with_the_same_bits(undisturbed, tmp_path, step):
    copy = Run(tmp_path / "copy")
    shutil.copytree(undisturbed.path, copy.path)
    copy.encoder_file.unlink()
    copy.summary_file.unlink()
    rare = with_values(copy.config(), {"train.checkpoint_every": 100})  # disks are slow
    copy.config_file.write_text(to_toml(rare))
    for checkpoint in list_checkpoints(copy.checkpoints)[step:]:
        shutil.rmtree(checkpoint)
    torch.manual_seed(12345)  # the state of the process must not matter
    train.resume(copy.path, file=io.StringIO(), splits=splits())
    assert_equal_runs(undisturbed, copy)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_loader_threads_change_nothing(undisturbed, tmp_path, threads):
    assert_equal_runs(undisturbed, start(tmp_path / "run", **{"data.threads": threads}))


def test_a_deterministic_run_takes_such_operations_alone_and_here_ends_with_the_same_bits(
    undisturbed, tmp_path, monkeypatch
):
    seen, backward = [], LargeBatch.backward

    def watched(*args, **kwargs):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return backward(*args, **kwargs)

    monkeypatch.setattr(LargeBatch, "backward", watched)
    assert_equal_runs(undisturbed, start(tmp_path / "run", **{"train.deterministic": True}))
    assert seen == [True] * 24
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_that_has_no_deterministic_form_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("x_cuda does not have a deterministic implementation, but you set it.")

    monkeypatch.setattr(LargeBatch, "backward", refuse)
    with pytest.raises(UsageError, match=r"^train.deterministic cannot be kept: x_cuda does not"):
        start(tmp_path / "run", **{"train.deterministic": True})
    with pytest.raises(RuntimeError, match="x_cuda"):
        start(tmp_path / "other")


def test_a_second_seed_is_another_run(undisturbed, tmp_path):
    other = start(tmp_path / "run", **{"train.seed": 1})
    assert untimed(other)[1]["loss"] != untimed(undisturbed)[1]["loss"]


@pytest.mark.parametrize("request_", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_abandons_the_step_saves_and_resumes_exactly(
    undisturbed, tmp_path, monkeypatch, request_
):
    plain_step = train.train_step

    def interrupted_step(training, batch, *others):
        if batch.step == 9:
            os.kill(os.getpid(), request_)
        return plain_step(training, batch, *others)

    monkeypatch.setattr(train, "train_step", interrupted_step)
    run = Run(tmp_path / "run")
    with pytest.raises(Stopped) as stopped:
        start(run.path, **{"train.checkpoint_every": 100, "train.keep_last": 2})
    assert stopped.value.number == request_
    monkeypatch.setattr(train, "train_step", plain_step)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert list_checkpoints(run.checkpoints)[-1].name == "step-00000009"
    assert not run.encoder_file.exists()
    assert not [t for t in threading.enumerate() if "loader" in t.name]
    train.resume(run.path, file=io.StringIO(), splits=splits())
    assert filecmp.cmp(undisturbed.encoder_file, run.encoder_file, shallow=False)
    assert untimed(undisturbed) == untimed(run)


def test_a_second_ctrl_c_interrupts_at_once_and_a_second_sigterm_does_not():
    with stop_request() as stop:
        assert not stop.asked()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_came_while_another_process_ended_is_obeyed():
    def told_to_end():
        with stop_request():
            os.kill(os.getpid(), signal.SIGINT)
            raise PeerError("another process ended first")

    with pytest.raises(KeyboardInterrupt):
        told_to_end()


def test_a_finished_run_is_left_alone(undisturbed):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.path.rglob("*")}
    out = io.StringIO()
    train.resume(undisturbed.path, file=out)
    assert "is finished: all 24 steps" in out.getvalue()
    assert before == {p: p.stat().st_mtime_ns for p in undisturbed.path.rglob("*")}


def test_resume_refuses_other_pictures(undisturbed, tmp_path):
    shutil.copytree(undisturbed.path, tmp_path / "copy")
    shutil.rmtree(list_checkpoints(tmp_path / "copy" / "checkpoints")[-1])
    (tmp_path / "copy" / "summary.json").unlink()
    other = open_splits(pictures(seed=1), validation_fraction=0.1, test_fraction=0.1, seed=0)
    with pytest.raises(RunError, match="arrays does not hold the pictures"):
        train.resume(tmp_path / "copy", file=io.StringIO(), splits=other)


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_taken(undisturbed, tmp_path):
    copy = Run(tmp_path / "copy")
    shutil.copytree(undisturbed.path, copy.path)
    copy.summary_file.unlink()
    (list_checkpoints(copy.checkpoints)[-1] / "method.safetensors").write_bytes(b"x")
    out = io.StringIO()
    train.resume(copy.path, file=out, splits=splits())
    assert "does not match its checksum; going back" in out.getvalue()
    assert "goes on at step 23 of 24" in out.getvalue()
    assert_equal_runs(undisturbed, copy)


def test_lines_that_a_disk_hurt_cost_no_others(undisturbed, tmp_path):
    copy = Run(tmp_path / "copy")
    shutil.copytree(undisturbed.path, copy.path)
    copy.summary_file.unlink()
    lines = copy.metrics_file.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"epoch"', b'"epo\xffch')
    lines[-1] = b"\0" * 40 + b"\n"
    copy.metrics_file.write_bytes(b"".join(lines))
    train.resume(copy.path, file=io.StringIO(), splits=splits())
    assert [r["step"] for r in untimed(copy)] == [0, 6, 18, 24]
    whole = untimed(undisturbed)
    assert untimed(copy)[-1] | {"loss": 0, "top1": 0} == whole[-1] | {"loss": 0, "top1": 0}
    assert copy.summary_file.exists()


def test_two_processes_never_train_in_one_folder(undisturbed, tmp_path):
    copy = Run(tmp_path / "copy")
    shutil.copytree(undisturbed.path, copy.path)
    copy.summary_file.unlink()
    with exclusive(copy), pytest.raises(RunError, match="is being trained by another process"):
        train.resume(copy.path, file=io.StringIO(), splits=splits())


def test_generators_go_on_where_they_stood():
    torch.manual_seed(3)
    torch.rand(5)
    states = {name: state.clone() for name, state in generator_tensors().items()}
    expected = torch.rand(7)
    torch.manual_seed(4)
    load_generator_tensors(states)
    assert torch.equal(torch.rand(7), expected)


def test_minutes_become_steps_that_are_stored(tmp_path):
    run = start(tmp_path / "run", **{"train.steps": 0, "train.minutes": 0.03})
    config = run.config()
    assert config.train.steps > 0
    assert config.train.minutes == 0
    assert untimed(run)[-1]["step"] == config.train.steps


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(RunError, match=r"4 steps in a row up to step|is not finite any more"):
        start(tmp_path / "run", **{"optim.base_lr": 1000.0, "optim.warmup_epochs": 0.0,
              "augment.jitter_p": 0.0, "train.steps": 400, "train.checkpoint_every": 0,
              "optim.name": "sgd", "optim.weight_decay": 1.0, "train.max_skipped": 3})  # fmt: skip
    parts, _ = load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert all(t.isfinite().all() for t in parts["method"].values())


def test_a_run_that_finds_no_room_to_begin_can_be_given_the_same_folder_again(
    tmp_path, monkeypatch
):
    def full(path, content):
        if path.name == "config.toml":
            raise RunError("cannot write config.toml: No space left on device")
        storage.write_atomic(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("looktwice.run.write_atomic", full)
        with pytest.raises(RunError, match="No space left"):
            start(tmp_path / "run")
    assert not any((tmp_path / "run").iterdir())
    check_free(tmp_path / "run")


def test_of_two_starts_with_one_folder_the_second_changes_nothing(tmp_path, monkeypatch):
    """One finds the folder free, and another one is faster."""

    def slow(command):
        (tmp_path / "run" / "config.toml").write_text("the other's")
        return {"command": command}

    monkeypatch.setattr("looktwice.run.environment", slow)
    with pytest.raises(RunError, match="holds a run already and is left as it is"):
        start(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.toml"]
    assert (tmp_path / "run" / "config.toml").read_text() == "the other's"


def test_a_run_called_new_is_in_nobodys_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "new").mkdir(parents=True)
    (tmp_path / "runs" / "new" / "config.toml").write_text("")
    check_free(None)
    shutil.rmtree("runs")
    Path("runs").write_text("a file")
    with pytest.raises(RunError, match="runs is not a folder; choose another --out"):
        check_free(None)


@pytest.mark.parametrize("damage", ["", "[]", "{}", None])
def test_a_run_whose_pictures_are_not_known_says_so(undisturbed, tmp_path, damage):
    shutil.copytree(undisturbed.path, tmp_path / "run")
    file = tmp_path / "run" / "environment.json"
    file.unlink() if damage is None else file.write_text(damage)
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunError, match=r"environment.json does not tell which pictures"):
        train.resume(tmp_path / "run", file=io.StringIO(), splits=splits())


def test_existing_runs_and_files_are_never_overwritten(undisturbed, tmp_path):
    with pytest.raises(RunError, match="holds a run already and is left as it is"):
        start(undisturbed.path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="exists already and is left as it is"):
        start(tmp_path / "full")
    with pytest.raises(RunError, match="is not a folder"):
        start(tmp_path / "full" / "thesis.tex" / "run")


def test_a_start_that_was_killed_before_it_was_a_run_can_be_repeated(tmp_path):
    for name in ("environment.json", ".environment.json.1-0123abcd", ".config.toml.1-0123abcd"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("{")
    run = start(tmp_path / "run", **{"train.steps": 1})
    assert run.encoder_file.exists()
    assert not list(run.path.glob(".*"))


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="batch_size 4096 is larger than the 102 training"):
        start(tmp_path / "run", **{"train.batch_size": 4096})
    assert not (tmp_path / "run").exists()


def test_pretrain_takes_arrays_and_returns_the_run(tmp_path):
    out = io.StringIO()
    settings = {k: v for k, v in SETTINGS.items() if k != "data.source"}
    run = looktwice.pretrain(
        pictures(), recipe="simclr-tiny", out=tmp_path / "run", file=out,
        settings={**settings, "train.steps": 3},
    )  # fmt: skip
    assert run == tmp_path / "run"
    assert "k-NN" in out.getvalue()
    unlabelled = looktwice.pretrain(
        pictures()[0], recipe="simclr-tiny", out=tmp_path / "two", file=io.StringIO(),
        settings={**settings, "train.steps": 3},
    )  # fmt: skip
    assert untimed(Run(unlabelled))[-1]["knn"] is None
    assert untimed(Run(unlabelled))[-1]["health"] is not None


def test_pictures_given_in_memory_are_asked_for_on_resume(undisturbed, tmp_path):
    copy = Run(tmp_path / "copy")
    shutil.copytree(undisturbed.path, copy.path)
    copy.summary_file.unlink()
    copy.config_file.write_text(copy.config_file.read_text().replace('"arrays"', f'"{IN_MEMORY}"'))
    with pytest.raises(DataError, match="give them again, in Python"):
        train.resume(tmp_path / "copy", file=io.StringIO())
