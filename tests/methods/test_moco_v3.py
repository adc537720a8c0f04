"""MoCo v3 against ctr() of its paper's algorithm 1, written out."""

import math

import oracles
import pytest
import torch
from torch import nn

from looktwice.large_batch import LargeBatch
from looktwice.methods import Embedded, MoCoV3
from looktwice.run import read_metrics

DIM, TEMPERATURE = 5, 0.2


def moco_v3(**options):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(16, 6))
    made = MoCoV3(
        backbone, nn.Linear(6, DIM), nn.Linear(DIM, DIM), temperature=TEMPERATURE, momentum=0.9,
        **options,
    )  # fmt: skip
    return made.double().train()


def embedded(views=2):
    generator = torch.Generator().manual_seed(1)
    shape = (6, views, DIM)
    return Embedded(*(torch.randn(shape, generator=generator).double() for _ in "qk"))


@pytest.mark.parametrize(("views", "large"), [(2, 2), (3, 3), (4, 2)])
def test_the_loss_is_twice_tau_times_cross_entropy_summed_over_queries(views, large):
    pairs = tuple((i, j) for i in range(views) for j in range(large) if i != j)
    batch = embedded(views)
    method = moco_v3(pairs=pairs)
    expected = 0.0
    for i in range(views):
        found = [
            oracles.moco_v3(batch.online[:, i], batch.target[:, j], TEMPERATURE)
            for j in range(large)
            if j != i
        ]
        expected += sum(found) / len(found)
    assert method.loss(batch).item() == pytest.approx(expected, rel=1e-12)
    alike = Embedded(torch.ones_like(batch.online), torch.ones_like(batch.target))
    assert method.loss(alike).item() == pytest.approx(method.chance_loss(6))
    assert method.chance_loss(6) == pytest.approx(views * 2 * TEMPERATURE * math.log(6))


def test_queries_pass_the_predictor_and_keys_the_momentum_encoder():
    method = moco_v3()
    with torch.no_grad():
        for p in method.momentum_encoder.parameters():
            p.mul_(0.5)
    views = torch.randint(0, 256, (6, 2, 1, 4, 4), dtype=torch.uint8)
    large_batch = LargeBatch(method, lambda v: v.double() / 255, batch_size=6)
    loss, batch = large_batch.backward((views,), step=0)
    pictures = views.double() / 255
    for view in (0, 1):
        z = method.projection_head(method.backbone(pictures[:, view]))
        torch.testing.assert_close(batch.online[:, view], method.predictor(z).detach())
        key = method.momentum_encoder.network(pictures[:, view])
        torch.testing.assert_close(batch.target[:, view], key)
    expected = sum(
        oracles.moco_v3(batch.online[:, i], batch.target[:, 1 - i], TEMPERATURE) for i in (0, 1)
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert all(p.grad.abs().sum() > 0 for p in method.parameters() if p.requires_grad)
    assert all(p.grad is None for p in method.momentum_encoder.parameters())
    before = [p.clone() for p in method.momentum_encoder.parameters()]
    method.after_step(batch, 0.25)
    momentum = 1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2
    online = [*method.backbone.parameters(), *method.projection_head.parameters()]
    for old, new, own in zip(before, method.momentum_encoder.parameters(), online, strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * own)


@pytest.mark.parametrize("policy", ["simclr", "triple-crop", "multi-crop"])
def test_it_trains(pretrain, policy):
    run = pretrain(**{"method.name": "moco-v3", "augment.policy": policy, "model.head_norm": "all"})
    queries = {"simclr": 2, "triple-crop": 3, "multi-crop": 8}[policy]
    record = read_metrics(run)[-1]
    assert record["chance_loss"] == pytest.approx(queries * 2 * 0.5 * math.log(16))
    assert 0 < record["loss"] < 10 * record["chance_loss"]
