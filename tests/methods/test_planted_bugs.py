"""Ten mistakes that others shipped, each planted: the checks must notice every one of them."""

import filecmp
import io
import math
import shutil

import oracles
import planted
import pytest
import torch
from torch import nn

from looktwice import build, equivalence, train
from looktwice import optim as optimisers
from looktwice.checkpoint import list_checkpoints
from looktwice.data import open_splits
from looktwice.equivalence import Layout
from looktwice.methods import Embedded, MoCo
from looktwice.run import Run, read_metrics

PROCESSES = 2


def difference(method, layout, found):
    case = planted.case(method)
    whole = equivalence.take_steps(case, 1, planted.STEPS)
    return equivalence._difference(case, layout, found, whole, whole["gradient"])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What two processes found with each mistake, and without."""
    folder = tmp_path_factory.mktemp("planted")
    planted.run(planted.work, PROCESSES, folder)
    return {path.stem: torch.load(path) for path in folder.iterdir()}


@pytest.mark.parametrize("method", ["simclr", "moco-v3"])
def test_without_a_mistake_two_processes_agree_with_one(results, method):
    assert difference(method, Layout(PROCESSES, 1), results[f"control-{method}"]).holds


@pytest.mark.parametrize("plant", planted.IN_PROCESSES, ids=lambda plant: plant.__name__)
def test_mistakes_between_processes_are_caught(results, plant):
    method = planted.IN_PROCESSES[plant]
    found = difference(method, Layout(PROCESSES, 1), results[f"{plant.__name__}-{method}"])
    assert not found.holds
    assert found.gradient > 1e-3  # no matter of rounding


def test_a_gradient_off_by_the_world_size_is_off_by_just_that(results):
    found = results["gradient_off_by_the_world_size-simclr"]
    control = results["control-simclr"]
    torch.testing.assert_close(found["gradient"] * PROCESSES, control["gradient"])
    assert torch.equal(found["loss"], control["loss"])


def caught(check, plant):
    """Assert that a check passes, and that it fails with a mistake planted."""
    check()
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        with pytest.raises(AssertionError):
            check()
    check()


def test_own_keys_among_the_negatives_are_caught():
    def check():
        method = MoCo(
            nn.Identity(), nn.Identity(), embedding_dim=5, temperature=0.2, queue_size=11,
            momentum=0.9,
        )  # fmt: skip
        method.queue = nn.functional.normalize(method.queue.double(), dim=1)
        q, k = torch.randn(2, 4, 1, 5, dtype=torch.float64)
        k = nn.functional.normalize(k, dim=2)
        expected = oracles.moco(q[:, 0], k[:, 0], method.queue.clone(), 0.2)
        assert method.loss(Embedded(q, k)).item() == pytest.approx(expected)

    caught(check, planted.own_keys_among_the_negatives)


def test_a_queue_that_is_not_restored_is_caught(pretrain, pictures, tmp_path):
    whole = pretrain(**{"method.name": "moco", "method.queue_size": 40, "train.steps": 6,
                        "train.checkpoint_every": 1, "train.keep_last": 10,
                        "train.monitor_every": 100})  # fmt: skip
    splits = open_splits(pictures)

    def check():
        copy = Run(tmp_path / "copy")
        shutil.rmtree(copy.path, ignore_errors=True)
        shutil.copytree(whole.path, copy.path)
        copy.summary_file.unlink()
        copy.encoder_file.unlink()
        for checkpoint in list_checkpoints(copy.checkpoints)[3:]:
            shutil.rmtree(checkpoint)
        train.resume(copy.path, file=io.StringIO(), splits=splits)
        assert filecmp.cmp(copy.encoder_file, whole.encoder_file, shallow=False)

    caught(check, planted.queue_not_restored)


def test_statistics_updated_in_both_passes_are_caught():
    def check():
        found = equivalence.take_steps(planted.case("simclr"), 2, planted.STEPS)
        assert difference("simclr", Layout(1, 2), found).holds

    caught(check, planted.statistics_updated_in_both_passes)


def lars_on_biases_too(patch):
    def build_optimizer(module, *, name, momentum, weight_decay):
        from timm.optim.lars import Lars

        return Lars(module.parameters(), lr=0.0, momentum=momentum, weight_decay=weight_decay,
                    trust_coeff=0.001, always_adapt=True)  # fmt: skip

    patch.setattr(optimisers, "build_optimizer", build_optimizer)


@pytest.mark.parametrize("weight_decay", [1e-6, 0.1])
def test_lars_on_biases_and_normalisation_is_caught(weight_decay):
    def check():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
        slow = {name: p.detach().clone() for name, p in module.named_parameters()}
        oracle = oracles.Lars(momentum=0.9, weight_decay=weight_decay)
        optimizer = optimisers.build_optimizer(
            module, name="lars", momentum=0.9, weight_decay=weight_decay
        )
        for group in optimizer.param_groups:
            group["lr"] = 0.7
        for _ in range(5):
            gradients = {name: torch.randn_like(p) for name, p in slow.items()}
            for name, p in module.named_parameters():
                p.grad = gradients[name].clone()
            optimizer.step()
            oracle.step(slow, gradients, 0.7)
        for name, p in module.named_parameters():
            # timm adds 1e-8 to a norm
            torch.testing.assert_close(p.detach(), slow[name], rtol=1e-7, atol=1e-9)

    caught(check, lars_on_biases_too)


def scaled_twice(patch):
    plain = optimisers.peak_learning_rate

    def peak_learning_rate(base_lr, batch_size, scaling):
        return plain(plain(base_lr, batch_size, scaling), batch_size, scaling)

    patch.setattr(build.optimisers, "peak_learning_rate", peak_learning_rate)


def test_a_learning_rate_scaled_twice_is_caught(pretrain, tmp_path, monkeypatch):
    rates = []
    plain_step = train.train_step

    def train_step(training, batch, *others):
        result = plain_step(training, batch, *others)
        rates.append({group["lr"] for group in training.optimizer.param_groups})
        return result

    monkeypatch.setattr(train, "train_step", train_step)

    def check():
        rates.clear()
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        run = pretrain(**{"train.steps": 20, "optim.base_lr": 0.4, "optim.warmup_epochs": 0.5,
                          "train.monitor_every": 100})  # fmt: skip
        peak, warm_up, expected = 0.4 * 16 / 256, 2, []
        for step in range(20):
            if step < warm_up:
                expected.append(peak * (step + 1) / warm_up)
            else:
                share = (step - warm_up) / (20 - warm_up)
                expected.append(peak * (1 + math.cos(math.pi * share)) / 2)
        assert all(len(rate) == 1 for rate in rates)
        assert [rate for (rate,) in rates] == pytest.approx(expected)
        assert read_metrics(run)[-1]["learning_rate"] == pytest.approx(expected[-1])

    caught(check, scaled_twice)


def test_ten_mistakes_are_planted():
    alone = [planted.own_keys_among_the_negatives, planted.queue_not_restored,
             planted.statistics_updated_in_both_passes, lars_on_biases_too, scaled_twice]  # fmt: skip
    assert len({*planted.IN_PROCESSES, *alone}) == 10
