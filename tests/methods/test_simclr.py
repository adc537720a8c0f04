"""SimCLR's loss for two, three and many views, and its training."""

import math

import oracles
import pytest
import torch
from torch import nn

from looktwice.config import MethodConfig
from looktwice.errors import UsageError
from looktwice.methods import Embedded, Parts, build_method
from looktwice.run import read_metrics


def build(name="simclr", settings=None, **parts):
    config = MethodConfig(name=name, temperature=0.3, **(settings or {}))
    given = {
        "backbone": nn.Flatten(),
        "projection_head": nn.Identity(),
        "predictor": nn.Identity,
        "classifier": lambda n: nn.Linear(5, n),
        "embedding_dim": 5,
        "num_views": 2,
        "num_full": 2,
        "num_classes": 0,
        "batch_size": 6,
    }
    return build_method(config, Parts(**{**given, **parts}))


@pytest.mark.parametrize(
    ("num_views", "num_full", "pairs"),
    [
        (2, 2, [(0, 1)]),
        (3, 3, [(0, 1), (0, 2), (1, 2)]),
        (4, 2, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]),  # small views never meet
    ],
)
def test_the_loss_is_the_mean_of_nt_xent_over_pairs_of_views(num_views, num_full, pairs):
    z = torch.randn(6, num_views, 5, generator=torch.Generator().manual_seed(0)).double()
    method = build(num_views=num_views, num_full=num_full)
    expected = sum(oracles.nt_xent(z[:, i], z[:, j], 0.3) for i, j in pairs) / len(pairs)
    assert method.loss(Embedded(z)).item() == pytest.approx(expected, rel=1e-12)
    alike = method.loss(Embedded(torch.ones_like(z))).item()
    assert alike == pytest.approx(method.chance_loss(6)) == pytest.approx(math.log(11))


@pytest.mark.parametrize("loss", ["margin", "nt-logistic"])
def test_with_semi_hard_negatives_no_loss_is_that_of_guessing(loss):
    """All alike, no negative is farther than the positive: a collapse would look perfect."""
    method = build(settings={"loss": loss, "semi_hard": True})
    assert method.chance_loss(6) is None
    assert build(settings={"loss": loss}).chance_loss(6) > 0


@pytest.mark.parametrize("name", ["moco", "moco-v3"])
@pytest.mark.parametrize(("num_views", "num_full"), [(2, 1), (3, 1), (4, 2), (2, 2), (3, 3)])
def test_the_task_is_never_to_find_oneself(name, num_views, num_full):
    """Of features that are a view's alone, none finds another view's."""
    torch.manual_seed(0)
    method = build(name, num_views=num_views, num_full=num_full, embedding_dim=25,
                   backbone=nn.Sequential(nn.Flatten(), nn.Linear(25, 25)),
                   settings={"queue_size": 4096})  # fmt: skip
    views = [torch.randn(64, 1, 1, 5, 5) for _ in range(num_views)]
    groups = tuple(torch.cat(v, dim=1) for v in (views[:num_full], views[num_full:]) if v)
    with torch.no_grad():
        batch = Embedded(method.embed(groups), method.embed_target(groups))
    assert method.top1(batch) < 0.2
    assert math.isfinite(method.loss(batch).item())


def test_views_of_several_sizes_are_embedded_in_order():
    method = build(num_views=3, num_full=1)
    large, small = torch.randn(4, 1, 1, 5, 5), torch.randn(4, 2, 1, 5, 5)
    z = method.embed((large, small))
    assert z.shape == (4, 3, 25)
    assert torch.equal(z[:, 0], large[:, 0].flatten(1))
    assert torch.equal(z[:, 2], small[:, 1].flatten(1))


@pytest.mark.parametrize("policy", ["simclr", "triple-crop", "multi-crop"])
def test_it_trains(pretrain, policy):
    run = pretrain(**{"augment.policy": policy, "train.bn_group": 4, "train.micro_batch": 8})
    record = read_metrics(run)[-1]
    assert record["chance_loss"] == pytest.approx(math.log(31))
    assert 0 < record["loss"] < 10


@pytest.mark.parametrize("name", ["simclr", "moco", "moco-v3", "supcon"])
def test_one_view_is_no_task(pretrain, name, tmp_path):
    with pytest.raises(UsageError, match=rf"method.name {name} needs two views of each picture"):
        pretrain(**{"method.name": name, "augment.policy": "supervised"})
    assert not (tmp_path / "run").exists()
