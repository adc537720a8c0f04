"""Policies as transforms in somebody else's DataLoader."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import FakeData

from looktwice.augment import policy
from looktwice.errors import UsageError

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (30, 40, 3), dtype=np.uint8)


class Same(Dataset):
    """The same picture under every index: views differ by their random numbers alone."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return torch.stack(self.transform(Image.fromarray(PIXELS)))


def views(workers, seed):
    torch.manual_seed(seed)
    loader = DataLoader(Same(policy("simclr", size=16).transform()), 6, num_workers=workers)
    return torch.cat([batch for _ in range(2) for batch in loader]).flatten(0, 1)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_no_two_views_alike_and_all_reproducible(workers):
    made = views(workers, 0)
    assert len({view.numpy().tobytes() for view in made}) == len(made) == 96
    assert (views(workers, 0) == made).all()
    assert (views(workers, 1) != made).any()


def test_spawned_workers_make_what_forked_ones_make():
    transform = policy("simclr-cifar", size=8).transform(scale=False)
    data = FakeData(6, (3, 12, 10), 2, transform)
    made = []
    for context in ("fork", "spawn"):
        torch.manual_seed(0)
        loader = DataLoader(data, 3, num_workers=2, multiprocessing_context=context)
        made.append(torch.cat([torch.stack(views) for views, _ in loader], dim=1))
    assert made[0].shape == (2, 6, 3, 8, 8)
    assert (made[0] == made[1]).all()


def test_every_kind_of_picture_gives_the_same_views():
    transform = pickle.loads(pickle.dumps(policy("simclr", size=16).transform(scale=False)))
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    made = []
    for picture in (PIXELS, Image.fromarray(PIXELS), tensor, tensor.contiguous()):
        torch.manual_seed(3)
        made.append(torch.stack(transform(picture)))
    assert all((one == made[0]).all() for one in made)
    assert made[0].dtype == torch.uint8
    torch.manual_seed(3)
    scaled = torch.stack(policy("simclr", size=16).transform()(PIXELS))
    assert scaled.dtype == torch.float32
    assert (scaled == made[0] / 255).all()


def test_grey_pictures_keep_their_channel_and_others_become_rgb():
    transform = policy("supervised", size=8).transform()
    assert transform(Image.fromarray(PIXELS[..., 0])).shape == (1, 8, 8)
    assert transform(PIXELS[..., 0]).shape == (1, 8, 8)
    assert transform(Image.fromarray(PIXELS).convert("RGBA")).shape == (3, 8, 8)


def test_views_of_two_sizes_come_in_their_order():
    transform = policy("multi-crop", size=16, small_size=8, small_views=2).transform()
    assert [view.shape[1] for view in transform(PIXELS)] == [16, 16, 8, 8]


@pytest.mark.parametrize(
    "picture", [PIXELS.astype(np.float32), torch.zeros(4, 9, 9, dtype=torch.uint8), "x.jpg", None]
)
def test_anything_else_is_refused_in_one_line(picture):
    with pytest.raises(UsageError) as caught:
        policy("simclr", size=16).transform()(picture)
    assert "\n" not in str(caught.value)
