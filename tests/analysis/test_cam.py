"""Grad-CAM against autograd by hand in fp64, and on networks where the answer is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from looktwice.analysis import class_cam, grad_cam, last_map, similarity_cam
from looktwice.errors import UsageError
from looktwice.models import Encoder, EncoderSpec, build_backbone, wrap_encoder


class Net(nn.Module):
    """Two convolutions and a mean; `maps` remembers the last feature map, with its graph."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        self.maps = self.second(torch.relu(self.first(x)))
        return self.pool(torch.relu(self.maps)).flatten(1)


def by_hand(net, x, score):
    """Equations 1 and 2 of arXiv 1610.02391, picture by picture, channel by channel."""
    rows = []
    for one in x:
        value = score(net(one[None]))[0]
        (gradient,) = torch.autograd.grad(value, net.maps)
        total = torch.zeros_like(net.maps[0, 0])
        for channel in range(net.maps.shape[1]):
            total = total + gradient[0, channel].mean() * net.maps[0, channel].detach()
        rows.append(total.clamp(min=0))
    return torch.stack(rows)


def test_equals_autograd_by_hand():
    torch.manual_seed(0)
    net = Net().double().eval()
    x = torch.rand(5, 1, 12, 12, dtype=torch.float64)
    other = torch.rand(1, 6, dtype=torch.float64)

    def score(h):
        return F.cosine_similarity(h, other)

    found = grad_cam(net, net.second, x, score)
    expected = by_hand(net, x, score)
    assert found.dtype == torch.float64
    assert expected.max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


class Corner(nn.Module):
    """Features are the means of two 4×4 maps, of which the first is bright in one corner only."""

    def __init__(self):
        super().__init__()
        self.map = nn.Conv2d(1, 2, 4, stride=4, bias=False)
        self.map.weight.data[0] = 1 / 16
        self.map.weight.data[1] = 0
        self.mask = torch.zeros(1, 2, 4, 4)
        self.mask[0, 0, 0, 3] = 1
        self.masked = nn.Identity()

    def forward(self, x):
        seen = self.masked(self.map(x) * self.mask)
        return torch.cat([seen.mean(dim=(2, 3))[:, :1], torch.ones(len(x), 1)], dim=1)


@pytest.fixture
def corner():
    return wrap_encoder(Corner(), image_size=16, channels=1, mean=(0.0,), std=(1.0,))


def test_looks_only_where_the_network_does(corner):
    pictures = torch.full((3, 1, 16, 16), 200, dtype=torch.uint8)
    cam = class_cam(corner, pictures, lambda h: h, torch.zeros(3, dtype=torch.int64))
    assert cam.shape == (3, 16, 16)
    assert cam[:, :4, 12:].min() > 0.3
    assert cam[:, 6:].abs().max() == 0
    assert cam[:, :, :10].abs().max() == 0
    assert (cam.amax(dim=(1, 2)) == 1).all()


def test_similarity_looks_at_what_both_share(corner):
    bright = torch.full((1, 1, 16, 16), 255, dtype=torch.uint8)
    dim = torch.full((1, 1, 16, 16), 40, dtype=torch.uint8)
    cam = similarity_cam(corner, dim, bright)[0]
    row, column = divmod(int(cam.argmax()), 16)
    assert row < 4
    assert column >= 12
    # The brighter one would be more like the dim one if it were dimmer: nothing speaks for it.
    assert similarity_cam(corner, bright, dim).abs().max() == 0
    assert similarity_cam(corner, dim, dim).abs().max() == 0


def encoder(name, size, channels=3):
    torch.manual_seed(0)
    backbone = build_backbone(name, channels=channels, small_stem=False).eval()
    spec = EncoderSpec(name, channels, False, size, (0.5,) * channels, (0.25,) * channels)
    return Encoder(backbone, spec)


@pytest.mark.parametrize(
    ("name", "size", "side", "module"),
    [
        ("resnet-tiny", 28, 4, "stage3"),
        ("timm:resnet10t", 64, 2, "layer4"),
        ("timm:resnet10t", 32, 2, "layer3"),  # the last map has one place only
        ("torchvision:resnet18", 64, 2, "layer4"),
    ],
)
def test_last_map_of_backbones(name, size, side, module):
    made = encoder(name, size)
    x = torch.rand(1, 3, size, size)
    layer = last_map(made.backbone, x)
    assert layer is made.backbone.get_submodule(module)
    assert grad_cam(made.backbone, layer, x, lambda h: h[:, 0]).shape == (1, side, side)
    pictures = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    cam = similarity_cam(made, pictures, pictures.flip(0))
    assert cam.shape == (2, size, size)
    assert cam.isfinite().all()
    assert not any(p.grad is not None for p in made.parameters())


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224"])
def test_tokens_are_refused_in_one_line(name):
    made = encoder(name, 224)
    with pytest.raises(UsageError, match="--no-cam") as caught:
        last_map(made.backbone, torch.rand(1, 3, 224, 224))
    assert "\n" not in str(caught.value)
