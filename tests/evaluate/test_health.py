"""The health of encoders whose answers are known."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from looktwice.augment import Policy
from looktwice.augment.operations import (
    CenterCrop,
    ColorJitter,
    Grayscale,
    HorizontalFlip,
    Hue,
    Invert,
    RandomResizedCrop,
    Resize,
)
from looktwice.data import ArraySource
from looktwice.errors import DataError, UsageError
from looktwice.evaluate import health, health_report
from looktwice.evaluate.statistics import mean_interval
from looktwice.models import Encoder, EncoderSpec

SIDE = 8


class Means(nn.Module):
    """Features that are known by hand: the mean of each colour, and of the left and right half."""

    def forward(self, x):
        halves = [half.mean(dim=(1, 2, 3)) for half in torch.chunk(x, 2, dim=3)]
        return torch.cat([x.mean(dim=(2, 3)), torch.stack(halves, dim=1)], dim=1)


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 5)


def encoder(backbone, channels=3):
    zero, one = (0.0,) * channels, (1.0,) * channels
    return Encoder(backbone, EncoderSpec("none", channels, True, SIDE, zero, one)).eval()


def pictures(count=600, channels=3, side=12):
    generator = np.random.default_rng(3)
    base = generator.integers(0, 200, (count, 1, 2, channels)).repeat(side, 1).repeat(side // 2, 2)
    return (base + generator.integers(0, 50, (count, side, side, channels))).astype(np.uint8)


POLICY = Policy(
    (
        (RandomResizedCrop(6), HorizontalFlip(0.5), Grayscale(0.2)),
        (RandomResizedCrop(6), HorizontalFlip(0.1), Grayscale(0.2), Invert(p=0.2)),
    )
)


def test_the_report_is_ready_for_json_and_for_a_terminal():
    source = ArraySource(pictures(), name="squares")
    project = nn.Linear(5, 3)
    report = health_report(
        encoder(Means()), source, POLICY, seed=1, untrained=encoder(Constant()), project=project
    )
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["pictures"], report["side"]) == (600, SIDE)
    assert report["features"]["dimensions"] == 5
    assert report["embeddings"]["dimensions"] == 3
    low, high = report["features"]["infonce"]["interval"]
    assert low < report["features"]["infonce"]["bound"] < high < math.log(64)
    assert report["untrained"]["collapsed_dimensions"] == 1.0
    assert report["untrained"]["infonce"]["bound"] == pytest.approx(0.0, abs=1e-12)
    told = health.lines(report)
    assert max(map(len, told[:-1])) <= 100
    assert any(line.startswith("infonce bound, of 4.16") for line in told)
    assert told[-1] == report["verdict"]
    assert told[-3].startswith("600 pictures of squares")


def test_each_operation_is_measured_alone_and_certain():
    source = ArraySource(pictures(), name="squares")
    report = health_report(encoder(Means()), source, POLICY, seed=1, untrained=encoder(Constant()))
    rows = {row["operation"]: row for row in report["invariance"]}
    assert list(rows) == ["crop", "flip", "gray", "invert"]  # one flip: p aside they are equal
    assert all(row["untrained"] is None for row in rows.values())
    assert all("p=1.0" in rows[name]["settings"] for name in ("flip", "gray", "invert"))
    assert 0 < rows["crop"]["encoder"] < 1

    # By hand, in float64: pictures of 8 x 8 from 12 x 12, flipped, or inverted.
    whole = encoder(nn.Flatten()).prepare(torch.from_numpy(pictures()).permute(0, 3, 1, 2))
    whole = whole.numpy().astype(np.float64) / 255

    def features(x):
        halves = x[..., : SIDE // 2].mean((1, 2, 3)), x[..., SIDE // 2 :].mean((1, 2, 3))
        rows = np.column_stack([x.mean((2, 3)), *halves])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    before = features(whole)
    count = len(before)
    different = ((before @ before.T).sum() - count) / (count * (count - 1))
    for name, changed in (("flip", whole[..., ::-1]), ("invert", 1 - whole)):
        same = (before * features(changed)).sum(1).mean()
        expected = (same - different) / (1 - different)
        assert rows[name]["encoder"] == pytest.approx(expected, abs=0.01), name


def test_an_encoder_of_colour_alone_does_not_see_a_flip():
    class Colours(nn.Module):
        def forward(self, x):
            return x.mean(dim=(2, 3))

    report = health_report(encoder(Colours()), ArraySource(pictures()), POLICY, seed=1)
    rows = {row["operation"]: row["encoder"] for row in report["invariance"]}
    assert rows["flip"] == pytest.approx(1.0, abs=1e-5)
    assert rows["gray"] < 0.9
    assert report["untrained"] is None
    assert report["verdict"] is None
    assert health.lines(report)[-1].startswith("the bound")


@pytest.mark.parametrize("crop", [CenterCrop(6, 8), Resize(6), RandomResizedCrop(6)])
def test_one_view_is_drawn_twice_and_grey_pictures_will_do(crop):
    jitter = ColorJitter(0.8, 0.0, 0.0, 0.0, p=0.5)
    source = ArraySource(pictures(70, 1))
    report = health_report(encoder(nn.Flatten(), 1), source, Policy(((crop, jitter),)), seed=0)
    assert report["features"]["positive_similarity"] < 1
    assert [row["operation"] for row in report["invariance"]] == [crop.name, jitter.name]
    assert report["features"]["infonce"]["interval"] is None  # one block has no spread


def test_the_order_of_a_source_changes_nothing_that_is_told_of_all_pairs():
    images = pictures(200)
    order = np.argsort(images.mean((1, 2, 3)))
    plain = Policy(((CenterCrop(SIDE),),))
    one, other = (
        health_report(encoder(Means()), ArraySource(each), plain, seed=0)["features"]
        for each in (images, images[order])
    )
    for name in health.MEASURES:
        assert one[name] == pytest.approx(other[name], abs=1e-6), name
    # Sorted pictures in blocks of their order would be hard to tell apart: they are shuffled.
    assert other["infonce"]["bound"] == pytest.approx(one["infonce"]["bound"], abs=0.15)


def test_at_most_2048_pictures_are_looked_at():
    source = ArraySource(pictures(2100, 1, 4))
    report = health_report(encoder(nn.Flatten(), 1), source, Policy(((Resize(4),),)), seed=0)
    assert report["pictures"] == 2048


def test_what_cannot_be_measured_is_told():
    grey = ArraySource(pictures(9, 1))
    with pytest.raises(UsageError, match="hue in view 0 needs pictures of 3 channels"):
        health_report(encoder(nn.Flatten(), 1), grey, POLICY.then(Hue()), seed=0)
    source = ArraySource(pictures(1), name="one")
    with pytest.raises(DataError, match="1 of the 1 pictures of 'one' can be read; health takes 2"):
        health_report(encoder(Means()), source, POLICY, seed=0)

    class Broken(nn.Module):
        def forward(self, x):
            return x.flatten(1) * torch.nan

    source = ArraySource(pictures(130))
    report = health_report(encoder(Broken()), source, POLICY, seed=0, untrained=encoder(Means()))
    assert report["features"]["uniformity"] is None
    assert report["features"]["infonce"]["bound"] is None
    assert report["verdict"].startswith("diverged")
    assert json.dumps(report, allow_nan=False)
    assert health.lines(report)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    for count in (8, 12, 32):
        hits = 0
        for seed in range(400):
            low, high = mean_interval(generator.normal(2.0, 1.0, count), seed)
            hits += low < 2.0 < high
        assert 0.92 < hits / 400 < 0.98, count
