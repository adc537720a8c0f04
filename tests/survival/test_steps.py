"""A step is taken whole or leaves no trace: when it is abandoned, and when it is not finite."""

import io
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from looktwice import train
from looktwice.build import build, settle
from looktwice.checkpoint import (
    generator_tensors,
    list_checkpoints,
    load_checkpoint,
    optimizer_tensors,
)
from looktwice.config import resolve
from looktwice.data import open_splits
from looktwice.errors import NotFiniteError, RunError, Stopped
from looktwice.methods.simclr import SimCLR
from looktwice.run import Run

SETTINGS = {
    "augment.size": 8,
    "model.image_size": 8,
    "train.batch_size": 16,
    "train.micro_batch": 4,
    "train.bn_group": 4,
    "train.steps": 12,
    "train.threads": 1,
    "train.checkpoint_every": 1,
    "train.keep_last": 100,
    "optim.warmup_epochs": 0.0,
    "data.source": "arrays",
    "data.threads": 0,
}
MOCO = {"method.name": "moco", "method.queue_size": 32}
CALLS = {"simclr": 1 + 4 + 4, "moco": 4 + 4 + 4}  # keys (of SimCLR: are there any?), both passes


def splits():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (100, 12, 12, 1), dtype=np.uint8)
    labels = np.arange(100) % 2
    return open_splits((images, labels), validation_fraction=0.1, test_fraction=0.1, seed=0)


def configuration(**settings):
    return resolve(recipe="simclr-tiny", flags={**SETTINGS, **settings}, environ={})


def start(folder, **settings):
    out = io.StringIO()
    train.start(configuration(**settings), folder, command="test", file=out, splits=splits())
    return Run(folder), out.getvalue()


class Dropping(nn.Module):
    """A backbone that draws random numbers, and so moves torch's generator."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.drop = backbone, nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.backbone(x))


def training_of(kind):
    settings = MOCO if kind == "moco" else {}
    if kind == "dropout":
        settings = {"train.micro_batch": 0, "train.bn_group": 16}
    pictures = splits()
    made = build(settle(configuration(**settings), pictures), pictures)
    if kind == "dropout":
        made.method.backbone = Dropping(made.method.backbone)
    made.method.train()
    return made


def state_of(training):
    parts = {
        "method": training.method.state_dict(),
        "optimizer": optimizer_tensors(training.optimizer),
        "generators": generator_tensors(),
    }
    return {(p, n): t.clone() for p, tensors in parts.items() for n, t in tensors.items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert not [name for name, tensor in a.items() if not torch.equal(tensor, b[name])]


def leaving_at(call):
    calls = SimpleNamespace(made=0)

    def obey():
        calls.made += 1
        if calls.made == call:
            raise Stopped(15)

    return obey, calls


@pytest.mark.parametrize("kind", ["simclr", "moco", "dropout"])
def test_an_abandoned_step_leaves_no_trace(kind):
    """At whichever piece it is left: the run goes on as if it had never been begun."""
    straight, disturbed = training_of(kind), training_of(kind)
    torch.manual_seed(0)
    generator = torch.get_rng_state()
    states = []
    for batch in straight.loader.batches(0, 4):
        train.train_step(straight, batch, 0.1)
        states.append(state_of(straight))
    torch.set_rng_state(generator)
    call = 0
    for batch, expected in zip(disturbed.loader.batches(0, 4), states, strict=True):
        before = state_of(disturbed)
        for _ in range(4):
            call = call % CALLS.get(kind, 2) + 1
            obey, calls = leaving_at(call)
            with pytest.raises(Stopped):
                train.train_step(disturbed, batch, 0.7, obey)
            assert calls.made == call
            assert_equal(state_of(disturbed), before)
        train.train_step(disturbed, batch, 0.1)
        assert_equal(state_of(disturbed), expected)


@pytest.mark.parametrize("kind", CALLS)
def test_it_can_be_left_before_every_piece(kind):
    training = training_of(kind)
    obey, calls = leaving_at(0)
    (batch,) = training.loader.batches(0, 1)
    train.train_step(training, batch, 0.1, obey)
    assert calls.made == CALLS[kind]


def spoilt(plain, kind):
    def loss(batch):
        value = plain(batch)
        if kind == "gradient":  # 0 × the infinite slope of a root at 0
            return value + 0 * (batch.online - batch.online.detach()).square().sum().sqrt()
        return value * float(kind)

    return loss


def test_a_step_that_is_not_finite_changes_nothing(cases):
    chance = random.Random(0)
    trainings = {kind: training_of(kind) for kind in ("simclr", "moco", "dropout")}
    for number in range(cases(24, 200)):
        training = trainings[chance.choice(sorted(trainings))]
        kind = chance.choice(("nan", "inf", "-inf", "gradient"))
        plain, before = training.method.loss, state_of(training)
        (batch,) = training.loader.batches(number, number + 1)
        training.method.loss = spoilt(plain, kind)
        with pytest.raises(NotFiniteError) as error:
            train.train_step(training, batch, 0.1)
        assert error.value.what == ("gradient" if kind == "gradient" else "loss")
        del training.method.loss
        assert_equal(state_of(training), before)
        train.train_step(training, batch, 0.1)
        assert all(tensor.isfinite().all() for tensor in state_of(training).values())


def spoil_steps(monkeypatch, kinds):
    """Spoil the loss of some steps, by number from 0, as kinds tells."""
    plain_step, plain_loss = train.train_step, SimCLR.loss

    def train_step(training, batch, *others):
        kind = kinds.get(batch.step)
        if kind:
            training.method.loss = spoilt(plain_loss.__get__(training.method), kind)
        try:
            return plain_step(training, batch, *others)
        finally:
            vars(training.method).pop("loss", None)

    monkeypatch.setattr(train, "train_step", train_step)


def weights(run, step):
    return load_checkpoint(run.checkpoints / f"step-{step:08d}")[0]["method"]


def test_bad_steps_are_skipped_written_down_and_survive_a_restart(tmp_path, monkeypatch):
    spoil_steps(monkeypatch, {2: "nan", 3: "gradient", 7: "inf"})
    run, out = start(tmp_path / "run", **{"train.max_skipped": 2})
    for before, after in ((2, 3), (3, 4), (7, 8)):
        old, new = weights(run, before), weights(run, after)
        assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())
    lines = [json.loads(line) for line in run.skipped_file.read_text().splitlines()]
    assert [(line["step"], line["not_finite"]) for line in lines] == [
        (3, "loss"), (4, "gradient"), (8, "loss"),
    ]  # fmt: skip
    (batch,) = training_of("simclr").loader.batches(7, 8)
    assert lines[2]["samples"] == batch.indices.tolist()
    source = splits().train
    assert lines[2]["names"] == [source.identifier(i) for i in lines[2]["samples"]]
    assert f"the loss is nan at step 3: not taken; its pictures: {run.skipped_file}" in out
    assert json.loads(run.summary_file.read_text())["skipped_steps"] == 3
    encoder, told = run.encoder_file.read_bytes(), run.skipped_file.read_bytes()
    run.summary_file.unlink()
    for path in list_checkpoints(run.checkpoints)[3:]:  # between the two bad steps
        path.rename(path.with_name(f"gone-{path.name}"))
    train.resume(run.path, file=io.StringIO(), splits=splits())
    assert (run.encoder_file.read_bytes(), run.skipped_file.read_bytes()) == (encoder, told)


def test_too_many_in_a_row_stop_the_run_with_the_last_good_state(tmp_path, monkeypatch):
    spoil_steps(monkeypatch, dict.fromkeys(range(5, 12), "nan"))
    settings = {"train.max_skipped": 2, "train.checkpoint_every": 0}
    with pytest.raises(RunError, match="3 steps in a row up to step 8 had a loss or a gradient"):
        start(tmp_path / "run", **settings)
    run = Run(tmp_path / "run")
    last = list_checkpoints(run.checkpoints)[-1]
    assert last.name == "step-00000008"
    monkeypatch.undo()
    good, _ = start(tmp_path / "good")
    expected = weights(good, 5)
    assert all(torch.equal(t, expected[n]) for n, t in load_checkpoint(last)[0]["method"].items())
    assert len(run.skipped_file.read_text().splitlines()) == 3


def test_weights_that_overflowed_never_take_a_good_checkpoints_place(tmp_path, monkeypatch):
    plain_step = train.train_step

    def overflowing(training, batch, *others):
        result = plain_step(training, batch, *others)
        if batch.step == 6:
            next(training.method.parameters()).data[0] = torch.inf
        return result

    monkeypatch.setattr(train, "train_step", overflowing)
    with pytest.raises(RunError, match="is not finite any more at step 7; the checkpoint before"):
        start(tmp_path / "run", **{"train.keep_last": 1})
    (last,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert last.name == "step-00000006"
