"""MoCo against algorithm 1 of its paper, written out."""

import copy
import math

import oracles
import pytest
import torch
from torch import nn

from looktwice.errors import UsageError
from looktwice.large_batch import LargeBatch
from looktwice.methods import Embedded, MoCo, momentum_at
from looktwice.run import read_metrics

BATCH, SIDE, DIM, TEMPERATURE, MOMENTUM = 4, 4, 5, 0.3, 0.7


def networks(*, normalised=False):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Flatten()]
    backbone = nn.Sequential(*(layers if normalised else [layers[0], layers[2]]))
    return backbone.double(), nn.Linear(6 * (SIDE - 2) ** 2, DIM).double()


def moco(*, queue_size=10, normalised=False, **options):
    made = MoCo(
        *networks(normalised=normalised), embedding_dim=DIM, temperature=TEMPERATURE,
        queue_size=queue_size, momentum=MOMENTUM, **options,
    )  # fmt: skip
    made.queue = nn.functional.normalize(made.queue.double(), dim=1)
    return made.train()


def floats(views):
    return views.double() / 255


def views_of(step, batch=BATCH, count=2):
    generator = torch.Generator().manual_seed(step)
    shape = (batch, count, 1, SIDE, SIDE)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def embedded(batch=BATCH, views=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    online, target = (
        torch.randn(batch, views, DIM, generator=generator, dtype=torch.float64) for _ in "qk"
    )
    return Embedded(online, nn.functional.normalize(target, dim=2))


def test_steps_are_those_of_algorithm_1():
    method = moco(queue_size=10)  # a batch of 4 does not divide it: the queue wraps around
    query_network = nn.Sequential(*copy.deepcopy((method.backbone, method.projection_head)))
    key_network = copy.deepcopy(query_network)
    queue = [row.clone() for row in method.queue]  # oldest first
    large_batch = LargeBatch(method, floats, batch_size=BATCH)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
    for step in range(7):
        views = views_of(step)
        loss, batch = large_batch.backward((views,), step=step)
        optimizer.step()
        method.after_step(batch, 1.0)

        q = nn.functional.normalize(query_network(floats(views[:, 0])), dim=1)
        with torch.no_grad():
            keys = [k / k.norm() for k in key_network(floats(views[:, 1]))]
        terms = []
        for i in range(BATCH):
            logits = [q[i] @ keys[i], *(q[i] @ old for old in queue)]
            total = sum(torch.exp(logit / TEMPERATURE) for logit in logits)
            terms.append(-torch.log(torch.exp(logits[0] / TEMPERATURE) / total))
        expected = sum(terms) / BATCH
        query_network.zero_grad()
        expected.backward()
        with torch.no_grad():
            for w in query_network.parameters():
                w -= 0.5 * w.grad
            for k, w in zip(key_network.parameters(), query_network.parameters(), strict=True):
                k.copy_(MOMENTUM * k + (1 - MOMENTUM) * w)
        queue = (queue + keys)[len(keys) :]

        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    own = [*method.backbone.parameters(), *method.projection_head.parameters()]
    for a, b in zip(own, query_network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    followers = method.momentum_encoder.parameters()
    for a, b in zip(followers, key_network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    oldest_first = method.queue.roll(-int(method.queue_end), 0)
    torch.testing.assert_close(oldest_first, torch.stack(queue), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("pairs", "views"),
    [
        (((0, 1), (1, 0)), 2),
        (tuple((i, j) for i in range(3) for j in range(3) if i != j), 3),
        (((0, 1), (1, 0), (2, 0), (2, 1)), 3),  # multi-crop: small views are queries alone
    ],
)
def test_the_loss_is_the_sum_over_queries_of_the_mean_over_keys(pairs, views):
    method = moco(pairs=pairs)
    batch = embedded(views=views)
    expected = 0.0
    for query in {q for q, _ in pairs}:
        found = [
            oracles.moco(batch.online[:, q], batch.target[:, k], method.queue, TEMPERATURE)
            for q, k in pairs
            if q == query
        ]
        expected += sum(found) / len(found)
    assert method.loss(batch).item() == pytest.approx(expected, rel=1e-12)
    alike = Embedded(torch.ones_like(batch.online), torch.ones_like(batch.target))
    method.queue.fill_(1.0)
    chance = method.chance_loss(BATCH)
    assert chance == pytest.approx(views * math.log(11))
    method.queue /= math.sqrt(DIM)
    assert method.loss(alike).item() == pytest.approx(chance)


def test_keys_of_all_views_enter_the_queue_and_leave_it_oldest_first():
    method = moco(queue_size=11, pairs=((0, 1), (1, 0)))
    entered = list(method.queue.clone())
    for step in range(4):
        batch = embedded(seed=step)
        method.after_step(batch, 1.0)
        entered += [*batch.target[:, 0], *batch.target[:, 1]]
    oldest_first = method.queue.roll(-int(method.queue_end), 0)
    assert torch.equal(oldest_first, torch.stack(entered[-11:]))


def test_the_loss_does_not_see_the_keys_of_its_own_batch_in_the_queue():
    method = moco()
    batch = embedded()
    before = method.queue.clone()
    method.loss(batch)
    assert torch.equal(method.queue, before)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_batch_larger_than_the_queue_is_refused(pretrain, symmetric):
    keys = 32 if symmetric else 16
    settings = {"method.name": "moco", "method.symmetric": symmetric}
    with pytest.raises(UsageError, match=rf"queue_size {keys - 1} cannot hold the {keys} keys"):
        pretrain(**settings, **{"method.queue_size": keys - 1})
    pretrain(**settings, **{"method.queue_size": keys})


def keys_of(method, views, *, bn_group, step=0, micro_batch=0):
    large_batch = LargeBatch(
        method, floats, batch_size=len(views), bn_group=bn_group, micro_batch=micro_batch
    )
    _, batch = large_batch.backward((views,), step=step)
    return batch.target[:, 0], large_batch._order(step)


def in_groups(network, pictures, order, group):
    """Keys by plain torch, group after group of the pictures in some order."""
    network = nn.Sequential(*copy.deepcopy(network)).train()
    keys = torch.empty(len(pictures), DIM, dtype=torch.float64)
    with torch.no_grad():
        for members in torch.split(order, group):
            keys[members] = nn.functional.normalize(network(pictures[members]), dim=1)
    return keys


def test_shuffled_keys_share_their_statistics_with_other_pictures_and_come_back_in_order():
    views = views_of(0, batch=16)
    plain = moco(normalised=True)
    network = plain.backbone, plain.projection_head
    second = floats(views[:, 1])
    unshuffled = in_groups(network, second, torch.arange(16), 4)
    found, _ = keys_of(moco(normalised=True, shuffle=False), views, bn_group=4)
    torch.testing.assert_close(found, unshuffled)
    for step in (0, 1):
        found, order = keys_of(moco(normalised=True), views, bn_group=4, step=step)
        assert sorted(order.tolist()) == list(range(16))
        torch.testing.assert_close(found, in_groups(network, second, order, 4))
        assert (found - unshuffled).abs().max() > 1e-3
    pieces, _ = keys_of(moco(normalised=True), views, bn_group=4, step=1, micro_batch=4)
    torch.testing.assert_close(pieces, found)


def test_without_batch_norm_shuffling_changes_no_key():
    views = views_of(0, batch=16)
    shuffled, _ = keys_of(moco(), views, bn_group=4)
    plain, _ = keys_of(moco(shuffle=False), views, bn_group=4)
    torch.testing.assert_close(shuffled, plain)


def test_other_steps_and_seeds_shuffle_otherwise():
    orders = []
    for seed, step in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        large_batch = LargeBatch(moco(), floats, batch_size=64, seed=seed)
        orders.append(tuple(large_batch._order(step).tolist()))
        assert orders[-1] == tuple(large_batch._order(step).tolist())
    assert len(set(orders)) == 4


def test_momentum_follows_its_schedule():
    for k in range(11):
        assert momentum_at(k / 10, 0.9, "constant") == 0.9
        cosine = 1 - (1 - 0.9) * (math.cos(math.pi * k / 10) + 1) / 2
        assert momentum_at(k / 10, 0.9, "cosine") == pytest.approx(cosine)
    method = moco(momentum_schedule="cosine")
    start = [p.clone() for p in method.momentum_encoder.parameters()]
    with torch.no_grad():
        for p in method.backbone.parameters():
            p += 1.0
    method.after_step(embedded(), 0.5)
    weight = method.momentum_encoder.network[0][0].weight
    torch.testing.assert_close(weight, start[0] + (1 - momentum_at(0.5, MOMENTUM, "cosine")))
    before = weight.clone()
    method.after_step(embedded(), 1.0)
    assert torch.equal(weight, before)


def test_nothing_is_learnt_by_the_momentum_encoder():
    assert not any(p.requires_grad for p in moco().momentum_encoder.parameters())


@pytest.mark.parametrize("policy", ["simclr", "triple-crop", "multi-crop"])
def test_it_trains(pretrain, policy):
    run = pretrain(**{"method.name": "moco", "augment.policy": policy, "method.queue_size": 200,
                      "train.bn_group": 8, "train.micro_batch": 8})  # fmt: skip
    record = read_metrics(run)[-1]
    queries = {"simclr": 1, "triple-crop": 3, "multi-crop": 8}[policy]
    assert record["chance_loss"] == pytest.approx(queries * math.log(201))
    assert 0 < record["loss"] < 10 * record["chance_loss"]
