"""Checkpoints come back bit for bit; damage is noticed before use."""

import json
import os
import resource

import pytest
import safetensors.torch
import torch
from torch import nn

from looktwice.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    prune_checkpoints,
    save_checkpoint,
)
from looktwice.errors import DamagedError, RunError
from looktwice.optim import build_optimizer
from looktwice.storage import append_line, write_atomic


def test_round_trip_is_exact(tmp_path):
    parts = {"a": {"x": torch.randn(3, 4), "n": torch.tensor(7)}, "b": {}}
    state = {"step": 3, "loss_sum": 0.1 + 0.2, "untrained": {"alignment": 1 / 3}}
    path = save_checkpoint(tmp_path, 3, parts, state)
    assert path.name == "step-00000003"
    loaded, loaded_state = load_checkpoint(path)
    assert loaded_state == state
    assert torch.equal(loaded["a"]["x"], parts["a"]["x"])
    assert torch.equal(loaded["a"]["n"], parts["a"]["n"])
    assert loaded["b"] == {}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
def test_optimisers_go_on_bit_for_bit(name):
    def make():
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        return module, build_optimizer(module, name=name, momentum=0.9, weight_decay=0.01)

    def step(module, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        for parameter in module.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    straight, straight_optimizer = make()
    for seed in range(4):
        step(straight, straight_optimizer, seed)

    module, optimizer = make()
    for seed in range(2):
        step(module, optimizer, seed)
    tensors = {key: t.clone() for key, t in optimizer_tensors(optimizer).items()}
    weights = {key: t.clone() for key, t in module.state_dict().items()}
    module, optimizer = make()
    module.load_state_dict(weights)
    load_optimizer_tensors(optimizer, tensors)
    for seed in range(2, 4):
        step(module, optimizer, seed)
    for a, b in zip(straight.parameters(), module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_flipped_or_lost_byte_is_noticed(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"a": {"x": torch.arange(4.0)}}, {"step": 1})
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for position in range(0, len(whole), 7):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << position % 8
            file.write_bytes(damaged)
            if file.name == "manifest.json" and json_equal(damaged, whole):
                continue
            with pytest.raises(RunError):
                load_checkpoint(path)
        file.write_bytes(whole[:-1])
        with pytest.raises(RunError):
            load_checkpoint(path)
        file.write_bytes(whole)
    load_checkpoint(path)


def json_equal(a, b):
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


def test_old_checkpoints_go_and_the_best_stays(tmp_path):
    for step in (1, 2, 3, 10, 20):
        save_checkpoint(tmp_path, step, {}, {"step": step})
    assert [p.name[-2:] for p in list_checkpoints(tmp_path)] == ["01", "02", "03", "10", "20"]
    prune_checkpoints(tmp_path, keep_last=2, keep=tmp_path / "step-00000002")
    assert [p.name[-2:] for p in list_checkpoints(tmp_path)] == ["02", "10", "20"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    target = tmp_path / "x.json"
    write_atomic(target, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*x\.json: No space left on device"):
        write_atomic(target, "new")
    with pytest.raises(RunError, match="No space left on device"):
        save_checkpoint(tmp_path, 1, {"a": {"x": torch.ones(2)}}, {"step": 1})
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_line_that_does_not_fit_leaves_nothing_of_itself(tmp_path):
    file = tmp_path / "lines"
    append_line(file, "first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # cuts a write as a full disk does
    try:
        with pytest.raises(RunError, match="cannot write .*lines: File too large"):
            append_line(file, "second line")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == "first\n"


def test_lines_are_appended_whole(tmp_path):
    for number in range(3):
        append_line(tmp_path / "log", f"line {number}")
    assert (tmp_path / "log").read_text() == "line 0\nline 1\nline 2\n"


def test_tied_weights_come_back(tmp_path):
    tied = torch.nn.Linear(3, 3)
    parts = {"m": {"a": tied.weight, "b": tied.weight, "c": tied.weight[1:]}}
    loaded, _ = load_checkpoint(save_checkpoint(tmp_path, 1, parts, {}))
    assert all(torch.equal(loaded["m"][name], parts["m"][name]) for name in "abc")


def test_a_pipe_in_the_manifests_place_is_not_waited_for(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"m": {}}, {})
    (path / "manifest.json").unlink()
    os.mkfifo(path / "manifest.json")
    with pytest.raises(DamagedError, match=r"manifest.json is missing"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["sgd", "adam", "lars"])
def test_an_optimiser_is_put_back_with_its_layout_in_memory(name):
    def made():
        torch.manual_seed(0)
        network = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
        optimizer = build_optimizer(network, name=name, momentum=0.9, weight_decay=0.1)
        return network, optimizer

    def step(network, optimizer):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()

    network, optimizer = made()
    step(network, optimizer)
    tensors = safetensors.torch.load(
        safetensors.torch.save({k: t.contiguous() for k, t in optimizer_tensors(optimizer).items()})
    )
    other, again = made()
    other.load_state_dict(network.state_dict())
    load_optimizer_tensors(again, tensors)
    strides = {k: t.stride() for k, t in optimizer_tensors(optimizer).items()}
    assert {k: t.stride() for k, t in optimizer_tensors(again).items()} == strides
    step(network, optimizer)
    step(other, again)
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
