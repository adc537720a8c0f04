"""Batch-norm in groups against torch's own, one group after another."""

import copy

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import looktwice
from looktwice.errors import UsageError
from looktwice.models import (
    GroupedBatchNorm,
    Grouping,
    ResNetTiny,
    group_batch_norm,
    update_running_statistics,
)

BATCH_NORM_ACT = "mobilenetv3_small_050"  # timm's layers that normalise and activate


def grouped(network, num_groups):
    grouping = Grouping()
    grouping.num_groups = num_groups
    return group_batch_norm(copy.deepcopy(network), grouping)


def resnet_tiny():
    torch.manual_seed(0)
    network = ResNetTiny(1, small_stem=False, widths=(4, 6, 8)).double().train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return network


def pictures(count=12, side=8):
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(1)).double()


def gradients(network):
    return [p.grad for p in network.parameters()]


@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
def test_values_and_gradients_are_those_of_a_loop_over_groups(num_groups):
    plain = resnet_tiny()
    network = grouped(plain, num_groups)
    x = pictures().requires_grad_()
    own = pictures().requires_grad_()
    weights = torch.randn(12, plain.num_features, generator=torch.Generator().manual_seed(2))
    expected = torch.cat([plain(part) for part in x.chunk(num_groups)])
    (expected * weights).sum().backward()
    found = network(own)
    (found * weights).sum().backward()
    exact = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(found, expected, **exact)
    torch.testing.assert_close(own.grad, x.grad, **exact)
    for a, b in zip(gradients(network), gradients(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(5), nn.BatchNorm1d(5, affine=False)])
@pytest.mark.parametrize("num_groups", [1, 4])
def test_rows_without_sides_are_normalised_too(layer, num_groups):
    x = torch.randn(12, 5)
    expected = torch.cat([copy.deepcopy(layer)(part) for part in x.chunk(num_groups)])
    torch.testing.assert_close(grouped(layer, num_groups)(x), expected)


def statistics_of_groups(network, x, num_groups):
    """Mean over groups of each layer's mean and unbiased variance, by plain torch."""
    found = []
    for part in x.chunk(num_groups):
        once = copy.deepcopy(network)
        for module in once.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        once(part)
        found.append({k: b for k, b in once.named_buffers() if "running_" in k})
    return {key: sum(each[key] for each in found) / num_groups for key in found[0]}


@pytest.mark.parametrize("num_groups", [1, 3])
def test_running_statistics_move_once_towards_the_mean_over_groups(num_groups):
    plain = resnet_tiny()
    network = grouped(plain, num_groups)
    start = {k: b.clone() for k, b in plain.named_buffers()}
    towards = statistics_of_groups(plain, pictures(), num_groups)
    with torch.no_grad():
        network(pictures())
    for key, value in network.state_dict().items():
        assert "running_" not in key or torch.equal(value, start[key])
    update_running_statistics(network)
    buffers = dict(network.named_buffers())
    for key, value in towards.items():
        torch.testing.assert_close(buffers[key], 0.9 * start[key] + 0.1 * value)
    before = {k: b.clone() for k, b in buffers.items()}
    update_running_statistics(network)  # nothing recorded since
    assert all(torch.equal(b, before[k]) for k, b in buffers.items() if "running_" in k)


def test_names_of_tensors_and_evaluation_are_those_of_the_plain_network():
    plain = resnet_tiny()
    network = grouped(plain, 3)
    assert list(network.state_dict()) == list(plain.state_dict())
    assert any(isinstance(m, GroupedBatchNorm) for m in network.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    plain(pictures())
    network.load_state_dict(plain.state_dict())
    assert torch.equal(network.eval()(pictures()), plain.eval()(pictures()))


def test_timms_layers_that_also_activate_are_replaced_whole():
    torch.manual_seed(0)
    plain = timm.create_model(BATCH_NORM_ACT, num_classes=0, in_chans=1).double().train()
    network = grouped(plain, 1)
    assert list(network.state_dict()) == list(plain.state_dict())
    x = pictures(count=4, side=64)
    torch.testing.assert_close(network(x), plain(x), rtol=1e-12, atol=1e-12)
    network.load_state_dict(plain.state_dict())
    torch.testing.assert_close(network.eval()(x), plain.eval()(x), rtol=1e-12, atol=1e-12)


def test_a_learnt_activation_keeps_its_name():
    layer = timm.layers.BatchNormAct2d(3, act_layer=nn.PReLU)
    network = grouped(nn.Sequential(layer), 1)
    assert list(network.state_dict()) == list(nn.Sequential(layer).state_dict())


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(3, track_running_stats=False), nn.SyncBatchNorm(3)]
)
def test_layers_it_does_not_know_are_refused(layer):
    with pytest.raises(UsageError, match="cannot replace the layer"):
        grouped(nn.Sequential(layer), 1)


def test_groups_of_one_value_are_refused():
    with pytest.raises(UsageError, match="groups of one value .* raise train.bn_group"):
        grouped(nn.BatchNorm1d(3), 4)(torch.randn(4, 3))
    grouped(nn.BatchNorm2d(3), 4)(torch.randn(4, 3, 2, 2))


def test_a_trained_encoder_loads_into_timms_own_network(pretrain):
    run = pretrain(**{"model.backbone": BATCH_NORM_ACT, "train.bn_group": 8, "augment.size": 64,
                      "model.image_size": 64, "train.micro_batch": 8})  # fmt: skip
    plain = timm.create_model(BATCH_NORM_ACT, num_classes=0, in_chans=1)
    plain.load_state_dict(safetensors.torch.load_file(run.encoder_file))
    encoder = looktwice.load_encoder(run.path)
    images = np.random.default_rng(1).integers(0, 256, (3, 1, 64, 64), dtype=np.uint8)
    images = torch.from_numpy(images)
    with torch.no_grad():
        features = plain.eval()(encoder.normalize(images))
    torch.testing.assert_close(encoder(images), features, rtol=1e-4, atol=1e-5)
