"""Learning with labels: the formulas, and what is refused."""

import math
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
import torch
from torch import nn

from looktwice import train
from looktwice.errors import UsageError
from looktwice.methods import Embedded, SupCon, Supervised
from looktwice.run import read_metrics

LABELS = torch.tensor([0, 1, 0, 2, 1, 0])


@pytest.mark.parametrize("views", [2, 3])
def test_supcon_is_equation_2_over_all_views(views):
    z = torch.randn(6, views, 5, generator=torch.Generator().manual_seed(0)).double()
    method = SupCon(nn.Identity(), nn.Identity(), num_views=views, temperature=0.3)
    rows = [z[i, v] for i in range(6) for v in range(views)]
    labels = [int(LABELS[i]) for i in range(6) for _ in range(views)]
    found = method.loss(Embedded(z, labels=LABELS)).item()
    assert found == pytest.approx(oracles.sup_con(rows, labels, 0.3), rel=1e-12)
    alike = method.loss(Embedded(torch.ones_like(z), labels=LABELS)).item()
    assert alike == pytest.approx(method.chance_loss(6)) == pytest.approx(math.log(6 * views - 1))


def test_supcon_with_one_picture_a_class_is_simclr():
    z = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0)).double()
    method = SupCon(nn.Identity(), nn.Identity(), num_views=2, temperature=0.3)
    found = method.loss(Embedded(z, labels=torch.arange(6))).item()
    assert found == pytest.approx(oracles.nt_xent(z[:, 0], z[:, 1], 0.3), rel=1e-12)


@pytest.mark.parametrize("views", [1, 2])
def test_cross_entropy_counts_each_view(views):
    logits = torch.randn(6, views, 3, generator=torch.Generator().manual_seed(0)).double()
    method = Supervised(nn.Identity(), nn.Identity(), num_classes=3)
    batch = Embedded(logits, labels=LABELS)
    rows = [(logits[i, v].tolist(), int(LABELS[i])) for i in range(6) for v in range(views)]
    expected = sum(oracles.cross_entropy(*row) for row in rows) / len(rows)
    assert method.loss(batch).item() == pytest.approx(expected, rel=1e-12)
    right = sum(row.index(max(row)) == label for row, label in rows)
    assert method.top1(batch) == pytest.approx(right / len(rows))
    assert method.chance_loss(6) == pytest.approx(math.log(3))


@pytest.mark.parametrize("name", ["supervised", "supcon"])
def test_labels_are_needed(pretrain, pictures, name, tmp_path):
    with pytest.raises(UsageError, match=f"method.name {name} needs labels, and these pictures"):
        pretrain(pictures[0], **{"method.name": name})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "policy"),
    [("supervised", p) for p in ("supervised", "simclr", "triple-crop", "multi-crop")]
    + [("supcon", p) for p in ("simclr", "triple-crop", "multi-crop")],
)
def test_it_trains(pretrain, name, policy):
    run = pretrain(**{"method.name": name, "augment.policy": policy})
    views = {"triple-crop": 3, "multi-crop": 8}.get(policy, 2)
    chance = math.log(4) if name == "supervised" else math.log(16 * views - 1)
    record = read_metrics(run)[-1]
    assert record["chance_loss"] == pytest.approx(chance)
    assert 0 < record["loss"] < 10


def test_labels_follow_their_pictures(pretrain):
    """Pictures that show their label are told apart; with labels mixed up they could not be."""
    labels = np.arange(80) % 4
    images = (
        np.zeros((80, 14, 14, 1), np.uint8) + (labels * 80).astype(np.uint8)[:, None, None, None]
    )
    run = pretrain(
        (images, labels),
        **{"method.name": "supervised", "augment.policy": "supervised", "train.steps": 60,
           "optim.base_lr": 0.5},
    )  # fmt: skip
    assert read_metrics(run)[-1]["top1"] > 0.9


def test_what_stands_in_for_a_bad_picture_keeps_its_own_label():
    training = SimpleNamespace(
        splits=SimpleNamespace(train=SimpleNamespace(labels=np.arange(10) % 4)),
        method=SimpleNamespace(uses_labels=True),
        device="cpu",
    )
    batch = SimpleNamespace(indices=np.array([2, 5, 7]), shown=np.array([2, 6, 7]))
    assert train._labels(training, batch).tolist() == [2, 2, 3]
