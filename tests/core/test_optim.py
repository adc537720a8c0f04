"""Schedules against closed forms; LARS against SimCLR's formula written out in fp64."""

import math

import pytest
import torch
from torch import nn

from looktwice.optim import build_optimizer, learning_rate, peak_learning_rate, warmup_steps


def test_scaling_rules():
    assert peak_learning_rate(0.3, 4096, "linear") == pytest.approx(4.8)
    # SimCLR B.1: 0.075 × √4096 = 4.8, the same rate at its reference batch.
    assert peak_learning_rate(1.2, 4096, "sqrt") == pytest.approx(0.075 * math.sqrt(4096))
    assert peak_learning_rate(0.3, 4096, "none") == 0.3


def test_rate_warms_up_and_follows_half_a_cosine():
    def rate(step):
        return learning_rate(step, total_steps=110, warmup_steps=10, peak_lr=2.0)

    assert [rate(s) for s in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert rate(10) == pytest.approx(2.0)
    assert rate(60) == pytest.approx(1.0)
    assert rate(85) == pytest.approx(2.0 * (1 + math.cos(0.75 * math.pi)) / 2)
    assert 0 < rate(109) < 0.001
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=2.0), T_max=100
    )
    assert rate(10) == pytest.approx(reference.get_last_lr()[0])


def test_warm_up_is_capped_at_a_tenth_of_a_short_run():
    assert warmup_steps(10, steps_per_epoch=30, total_steps=10_000) == 300
    assert warmup_steps(10, steps_per_epoch=30, total_steps=200) == 20
    assert warmup_steps(0, steps_per_epoch=30, total_steps=200) == 0


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
def test_biases_and_normalisation_are_not_decayed(name):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = build_optimizer(module, name=name, momentum=0.9, weight_decay=0.5)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert [decay[id(p)] for p in module.parameters()] == [0.5, 0.0, 0.0, 0.0]


def test_lars_equals_its_formula_and_leaves_biases_to_plain_momentum():
    torch.manual_seed(0)
    module = nn.Linear(5, 3).double()
    weight, bias = module.weight.detach().clone(), module.bias.detach().clone()
    optimizer = build_optimizer(module, name="lars", momentum=0.9, weight_decay=0.01)
    buffers = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step, rate in enumerate([0.5, 0.5, 0.25]):
        for group in optimizer.param_groups:
            group["lr"] = rate
        module.weight.grad = torch.full_like(weight, 0.1 * (step + 1))
        module.bias.grad = torch.full_like(bias, 0.2)
        grad = module.weight.grad
        trust = 0.001 * weight.norm() / (grad.norm() + 0.01 * weight.norm() + 1e-8)
        buffers[0] = 0.9 * buffers[0] + trust * (grad + 0.01 * weight)
        buffers[1] = 0.9 * buffers[1] + module.bias.grad
        weight, bias = weight - rate * buffers[0], bias - rate * buffers[1]
        optimizer.step()
        torch.testing.assert_close(module.weight.detach(), weight, rtol=1e-12, atol=0)
        torch.testing.assert_close(module.bias.detach(), bias, rtol=1e-12, atol=0)


def test_lars_moves_biases_that_start_at_zero():
    module = nn.BatchNorm1d(4)
    optimizer = build_optimizer(module, name="lars", momentum=0.9, weight_decay=0.01)
    optimizer.param_groups[1]["lr"] = 0.1
    module.weight.grad = module.bias.grad = torch.ones(4)
    optimizer.step()
    assert (module.bias == -0.1).all()
