import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop as TorchCrop

from looktwice.augment import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Policy,
    RandomResizedCrop,
    policy,
)


def sample(chain, count, height=32, width=32, **key):
    key = {"seed": 7, "epoch": 1, "indices": np.arange(count)} | key
    return chain.sample(heights=np.full(count, height), widths=np.full(count, width), **key)


def torch_boxes(count, height, width, scale, ratio):
    torch.manual_seed(0)
    picture = torch.empty(3, height, width)
    return np.array([TorchCrop.get_params(picture, scale, ratio) for _ in range(count)])


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, [0.08, 1.0], [3 / 4, 4 / 3]),
        (224, 300, [0.2, 1.0], [3 / 4, 4 / 3]),
        (200, 90, [0.3, 1.0], [3 / 4, 4 / 3]),  # most fall back to the central crop
        (40, 64, [0.05, 0.3], [0.2, 5.0]),
    ],
    ids=str,
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale, ratio):
    crop = RandomResizedCrop(8, scale=tuple(scale), ratio=tuple(ratio))
    rows = sample(Policy(((crop,),)), 100_000, height, width)
    ours, theirs = rows[:, 0, 1:5], torch_boxes(4_000, height, width, scale, ratio)
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    areas, shapes = (
        (np.prod(b[:, 2:], axis=1) for b in (ours, theirs)),
        (b[:, 3] / b[:, 2] for b in (ours, theirs)),
    )
    assert stats.ks_2samp(*areas).pvalue > 1e-3
    assert stats.ks_2samp(*shapes).pvalue > 1e-3


@pytest.mark.parametrize(
    ("height", "width"), [(10, 100), (100, 10), (1, 50), (50, 1), (1, 1), (7, 9)]
)
def test_the_central_crop_when_no_try_fits(height, width):
    # An area of the whole picture in a narrow range of shapes fits only if the picture has it.
    scale, ratio = [1.0, 1.0], [0.75, 1.3]
    expected = TorchCrop.get_params(torch.empty(1, height, width), scale, ratio)
    if not 0.75 <= width / height <= 1.3:
        rows = sample(
            Policy(((RandomResizedCrop(4, tuple(scale), tuple(ratio)),),)), 50, height, width
        )
        assert (rows[:, 0, 1:5] == expected).all()
    else:
        box = sample(
            Policy(((RandomResizedCrop(4, tuple(scale), tuple(ratio)),),)), 500, height, width
        )[:, 0, 1:5]
        assert (box[:, 0] + box[:, 2] <= height).all()
        assert (box[:, 1] + box[:, 3] <= width).all()


def test_boxes_lie_inside_of_pictures_of_any_size():
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(1, 60, 5000), rng.integers(1, 60, 5000)
    chain = Policy(((RandomResizedCrop(8, scale=(0.001, 1.0), ratio=(0.05, 20.0)),),))
    rows = chain.sample(seed=1, epoch=0, indices=np.arange(5000), heights=heights, widths=widths)
    _, top, left, height, width = rows[:, 0].T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top + height <= heights).all()
    assert (left + width <= widths).all()


def test_factors_orders_and_probabilities():
    jitter = ColorJitter(0.4, 0.8, 1.5, 0.1, p=0.8)
    view = (
        RandomResizedCrop(8),
        jitter,
        Grayscale(0.2),
        GaussianBlur((0.1, 2.0), p=0.5),
        HorizontalFlip(0.3),
    )
    row = sample(Policy((view,)), 40_000)[:, 0]
    for slot, probability in [(5, 0.8), (11, 0.2), (12, 0.5), (14, 0.3)]:
        assert stats.binomtest(int(row[:, slot].sum()), len(row), probability).pvalue > 1e-3
    drawn = row[row[:, 5] == 1.0]
    for slot, low, high in [(6, 0.6, 1.4), (7, 0.2, 1.8), (8, 0.0, 2.5), (9, -0.1, 0.1)]:
        assert stats.kstest(drawn[:, slot], "uniform", (low, high - low)).pvalue > 1e-3
    counts = np.bincount(drawn[:, 10].astype(int), minlength=24)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    sigma = row[row[:, 12] == 1.0, 13]
    assert stats.kstest(sigma, "uniform", (0.1, 1.9)).pvalue > 1e-3
    assert (row[row[:, 5] == 0.0, 6:11] == 0.0).all()
    assert (
        np.abs(np.corrcoef(drawn[:, [1, 2, 3, 4, 6, 7, 8, 9, 10]].T) - np.eye(9))[4:].max() < 0.03
    )


def test_every_part_of_the_key_counts_and_nothing_else():
    chain = policy("simclr", size=16)
    base = sample(chain, 64)
    assert (base == sample(chain, 64)).all()
    assert (sample(chain, 64, indices=np.arange(63, -1, -1))[::-1] == base).all()
    assert (sample(chain, 1, indices=[17])[0] == base[17]).all()
    others = [
        sample(chain, 64, seed=8),
        sample(chain, 64, epoch=2),
        sample(chain, 64, seed=7 + 2**32),
        sample(chain, 64, indices=np.arange(64) + 64),
        sample(chain, 64, indices=np.arange(64) + 2**32),
    ]
    for other in others:
        assert (np.abs(other - base).reshape(64, -1).max(axis=1) > 0).all()
    assert (np.abs(base[:, 0] - base[:, 1]).max(axis=1) > 0).all()


def test_an_operation_more_changes_no_number_before_it():
    crop, jitter = RandomResizedCrop(16), ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)
    short = sample(Policy(((crop, jitter),)), 100)
    long = sample(Policy(((crop, jitter, Grayscale(), HorizontalFlip()),) * 2), 100)
    assert (long[:, 0, : short.shape[2]] == short[:, 0]).all()


def test_rows_stay_what_they_were():
    # A recorded row: a change here makes old runs impossible to repeat.
    key = {"seed": 2**64 - 1, "epoch": 2**32 - 1, "indices": [2**40 + 3]}
    row = policy("simclr", size=16).sample(heights=[100], widths=[80], **key)[0, 1]
    recorded = [
        1,
        35,
        12,
        49,
        56,
        0,
        1,
        0.429469083,
        0.947209886,
        1.11928146,
        0.026948876,
        18,
        0,
        1,
        1.01363770,
    ]
    assert row == pytest.approx(recorded, abs=1e-7)
