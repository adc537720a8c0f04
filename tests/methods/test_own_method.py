"""A method of one's own, as in docs/own_method.md: BYOL in examples/byol.py."""

import filecmp
import functools
import io
import math
import shutil
from pathlib import Path

import planted
import pytest
import torch
from torch import nn

import looktwice
from looktwice import build, equivalence
from looktwice.checkpoint import list_checkpoints
from looktwice.data import open_splits
from looktwice.equivalence import Layout
from looktwice.errors import UsageError
from looktwice.evaluate import evaluate_run
from looktwice.methods import Embedded
from looktwice.run import Run, read_metrics

BYOL = functools.partial(planted.byol().BYOL, embedding_dim=16)
EVERY_STEP = {"train.steps": 6, "train.checkpoint_every": 1, "train.keep_last": 10}


@pytest.fixture
def run(pretrain):
    return pretrain(method=BYOL, **EVERY_STEP, **{"train.bn_group": 8, "train.micro_batch": 8})


def cut_at(run, step, folder):
    """Copy a run as it was after some step."""
    copy = Run(folder / f"cut-{step}")
    shutil.copytree(run.path, copy.path)
    copy.summary_file.unlink()
    copy.encoder_file.unlink()
    for checkpoint in list_checkpoints(copy.checkpoints)[step:]:
        shutil.rmtree(checkpoint)
    return copy


def test_the_example_is_short():
    assert len(Path(planted.byol().__file__).read_text().splitlines()) <= 60


def test_the_loss_is_equation_2():
    p, z = torch.randn(2, 5, 2, 16, dtype=torch.float64)
    expected = 0.0
    for one, other in ((0, 1), (1, 0)):
        for i in range(5):
            a, b = p[i, one] / p[i, one].norm(), z[i, other] / z[i, other].norm()
            expected += float((a - b).square().sum()) / 5
    method = BYOL(nn.Identity(), nn.Identity())
    assert method.loss(Embedded(p, z)).item() == pytest.approx(expected, rel=1e-12)


def test_it_trains_and_its_name_is_kept(run):
    record = read_metrics(run)[-1]
    assert record["chance_loss"] == 4.0
    assert math.isfinite(record["loss"])
    assert run.config().method.name == "own"
    assert looktwice.load_encoder(run.path)(torch.rand(2, 1, 14, 14)).shape == (2, 768)


@pytest.mark.parametrize("step", [0, 1, 4])
def test_it_resumes_to_the_same_bits(run, pictures, tmp_path, step):
    copy = cut_at(run, step, tmp_path)
    splits = open_splits(pictures)
    looktwice.resume(str(copy.path), method=BYOL, splits=splits, file=io.StringIO())
    assert filecmp.cmp(copy.encoder_file, run.encoder_file, shallow=False)


def test_resume_asks_for_what_is_missing_and_refuses_what_is_too_much(
    run, pretrain, pictures, tmp_path
):
    splits = open_splits(pictures)
    with pytest.raises(UsageError, match=r"method.name own: .* `method` of .* looktwice.resume$"):
        looktwice.resume(cut_at(run, 3, tmp_path).path, splits=splits, file=io.StringIO())
    named = cut_at(pretrain(out="named", **EVERY_STEP), 2, tmp_path)
    with pytest.raises(UsageError, match="method.name simclr: but a method of one's own is given"):
        looktwice.resume(named.path, method=BYOL, splits=splits, file=io.StringIO())
    with pytest.raises(UsageError, match="method.name moco: but a method of one's own is given"):
        pretrain(method=BYOL, out="both", **{"method.name": "moco"})
    assert not (tmp_path / "both").exists()


def test_the_command_cannot_know_it(capsys):
    from looktwice.cli import main

    arguments = ["pretrain", "-d", "fashion-mnist-10k", "-r", "simclr-tiny", "--method", "own"]
    assert main(arguments) == 2
    assert "it is given in Python, as `method` of looktwice.pretrain" in capsys.readouterr().err


def test_evaluation_needs_no_method(run, pictures):
    result = evaluate_run(run.path, splits=open_splits(pictures), device="cpu")
    assert result["data"]["classes"]
    config = run.config()
    torch.manual_seed(99)
    encoder = build.untrained_encoder(config, open_splits(pictures).train.channels)
    training = build.build(config, open_splits(pictures), BYOL)
    for name, value in training.method.backbone.state_dict().items():
        assert torch.equal(value, encoder.backbone.state_dict()[name])


@pytest.mark.parametrize("processes", [1, 2])
def test_it_has_the_same_gradient_on_every_layout(processes, tmp_path, monkeypatch):
    planted.run(planted.work_byol, processes, tmp_path)
    planted.byol_instead(monkeypatch)
    whole = equivalence.take_steps(planted.case("byol"), 1, planted.STEPS)
    for pieces in (1, 2, 4):
        found = torch.load(tmp_path / f"byol-{pieces}.pt")
        layout = Layout(processes, pieces)
        difference = equivalence._difference(
            planted.case("byol"), layout, found, whole, whole["gradient"]
        )
        assert difference.holds, difference
    assert whole["gradient"].norm() > 1e-3


def test_a_calibrated_run_trains_it_too(pretrain):
    run = pretrain(method=BYOL, **{"train.steps": 0, "train.minutes": 0.02})
    assert run.config().train.steps > 0


def test_the_loop_tells_step_and_progress(pretrain, monkeypatch):
    steps, progress = [], []
    backward = build.LargeBatch.backward

    class Listening(planted.byol().BYOL):
        def after_step(self, batch, share):
            progress.append(share)

    def spied(self, views, labels=None, *, step, **others):
        steps.append(step)
        return backward(self, views, labels, step=step, **others)

    monkeypatch.setattr(build.LargeBatch, "backward", spied)
    pretrain(method=functools.partial(Listening, embedding_dim=16), **{"train.steps": 5})
    assert steps == [0, 1, 2, 3, 4]
    assert progress == [0.2, 0.4, 0.6, 0.8, 1.0]
