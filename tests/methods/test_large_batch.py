"""Gradient caching against plain autograd over the whole batch."""

import copy

import pytest
import timm
import torch
from torch import nn

from looktwice.errors import NotFiniteError, UsageError
from looktwice.large_batch import LargeBatch
from looktwice.methods import Embedded, Method, SimCLR, Supervised
from looktwice.models import GroupedBatchNorm, ResNetTiny, build_head

BATCH, GROUP, SIDE = 16, 4, 32


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=8, depth=2, embed_dim=24, num_heads=2,
        num_classes=0, in_chans=1,
    )  # fmt: skip


def convnext(**options):
    return timm.create_model(
        "convnext_atto",
        depths=(1, 1, 1, 1),
        dims=(4, 4, 8, 8),
        num_classes=0,
        in_chans=1,
        **options,
    )


def resnet_tiny():
    return ResNetTiny(1, small_stem=False, widths=(4, 6, 8))


def distance(z0, z1):
    """Couples every picture with every other."""
    return torch.logsumexp(z0 @ z1.T, dim=1).mean() - (z0 * z1).sum(1).mean()


def simclr(backbone, norm="hidden"):
    torch.manual_seed(0)
    network = backbone()
    head = build_head(
        "mlp", num_features=network.num_features, num_layers=2, width=8, embedding_dim=6, norm=norm
    )
    return SimCLR(network, head, loss=distance, chance=float).double().train()


def floats(views):
    return views.double() / 255


def views_of(step=0, batch=BATCH):
    generator = torch.Generator().manual_seed(step)
    shape = (batch, 2, 1, SIDE, SIDE)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def cached(method, **options):
    return LargeBatch(method, floats, batch_size=BATCH, **options)


def assert_same_gradients(method, other):
    for (name, a), (_, b) in zip(method.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-13, msg=name)


@pytest.mark.parametrize("micro_batch", [0, 8, 4, 1])
@pytest.mark.parametrize("backbone", [vit, convnext])
def test_pieces_give_the_gradient_of_the_whole_batch(backbone, micro_batch):
    whole = simclr(backbone, norm="none")
    method = copy.deepcopy(whole)
    pictures = floats(views_of()).flatten(0, 1)
    z = whole.project(pictures).view(BATCH, 2, -1)
    expected = distance(z[:, 0], z[:, 1])
    expected.backward()
    loss, batch = cached(method, micro_batch=micro_batch).backward((views_of(),), step=0)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(batch.online, z.detach(), rtol=1e-11, atol=1e-13)
    assert_same_gradients(method, whole)


@pytest.mark.parametrize("micro_batch", [0, 8, 4])
def test_pieces_of_batch_norm_groups_give_the_gradient_of_the_whole_batch(micro_batch):
    whole = simclr(resnet_tiny)
    method = copy.deepcopy(whole)
    z = torch.cat(
        [
            whole.project(floats(part).flatten(0, 1)).view(GROUP, 2, -1)
            for part in views_of().split(GROUP)
        ]
    )
    expected = distance(z[:, 0], z[:, 1])
    expected.backward()
    large_batch = cached(method, micro_batch=micro_batch, bn_group=GROUP)
    loss, _ = large_batch.backward((views_of(),), step=0)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    assert_same_gradients(method, whole)


def running(method):
    return {k: b.clone() for k, b in method.named_buffers() if "running_" in k}


@pytest.mark.parametrize("micro_batch", [0, 8, 4])
def test_running_statistics_get_one_update_a_step(micro_batch):
    plain = simclr(resnet_tiny)
    method = copy.deepcopy(plain)
    towards = []
    for part in views_of().split(GROUP):
        once = copy.deepcopy(plain)
        for module in once.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        once.project(floats(part).flatten(0, 1))
        towards.append(running(once))
    large_batch = cached(method, micro_batch=micro_batch, bn_group=GROUP)
    before = running(method)
    large_batch.backward((views_of(),), step=0)
    for key, value in running(method).items():
        mean = sum(each[key] for each in towards) / len(towards)
        torch.testing.assert_close(value, 0.9 * before[key] + 0.1 * mean)
    assert {int(b) for k, b in method.named_buffers() if k.endswith("tracked")} == {1}


def test_the_first_pass_leaves_no_trace(monkeypatch):
    method = simclr(resnet_tiny)
    large_batch = cached(method, micro_batch=4, bn_group=GROUP)
    before = running(method)
    seen = []
    first_pass = large_batch._first_pass

    def spied(parts):
        z = first_pass(parts)
        layers = [m for m in method.modules() if isinstance(m, GroupedBatchNorm)]
        seen.append(all(layer.recorded.eq(0).all() for layer in layers))
        seen.append(all(torch.equal(b, before[k]) for k, b in running(method).items()))
        seen.append(not z.requires_grad)
        return z

    monkeypatch.setattr(large_batch, "_first_pass", spied)
    large_batch.backward((views_of(),), step=0)
    assert seen == [True, True, True]


def test_labels_and_views_of_several_sizes_come_in_pieces_too():
    torch.manual_seed(0)
    whole = Supervised(resnet_tiny(), nn.Linear(56, 3), num_classes=3).double().train()
    method = copy.deepcopy(whole)
    views = views_of(), views_of(1)[:, :, :, :8, :8]
    labels = torch.arange(BATCH) % 3
    parts = [cached(m, micro_batch=b, bn_group=4) for m, b in ((whole, 0), (method, 4))]
    losses = [part.backward(views, labels, step=0)[0] for part in parts]
    torch.testing.assert_close(*losses)
    assert_same_gradients(method, whole)


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        (vit, {"micro_batch": 5}, "micro_batch 5 does not divide the 16 .* one of 16, 8, 4, 2, 1"),
        (resnet_tiny, {"micro_batch": 8, "bn_group": 16}, "cannot be computed in pieces"),
        (resnet_tiny, {"micro_batch": 8}, r"train.bn_group global\) cannot be computed in pieces"),
        (resnet_tiny, {"bn_group": 5}, "bn_group 5 does not divide the 16 pictures"),
        (resnet_tiny, {"micro_batch": 4, "bn_group": 8}, "bn_group 8 does not divide the 4"),
        (resnet_tiny, {"bn_group": 32}, "bn_group 32 does not divide the 16"),
        (lambda: convnext(drop_path_rate=0.1), {"micro_batch": 8}, "found DropPath"),
        (lambda: convnext(drop_rate=0.1), {"micro_batch": 8}, "found Dropout"),
        (
            lambda: timm.create_model(
                "vit_tiny_patch16_224", img_size=16, patch_size=4, depth=1, embed_dim=12,
                num_heads=2, num_classes=0, in_chans=1, patch_drop_rate=0.5,
            ),
            {"micro_batch": 8},
            "found PatchDropout",
        ),
    ],
)  # fmt: skip
def test_layouts_that_would_change_the_result_are_refused(backbone, options, message):
    norm = "hidden" if backbone is resnet_tiny else "none"
    with pytest.raises(UsageError, match=message):
        cached(simclr(backbone, norm=norm), **options)


def test_random_layers_are_welcome_where_nothing_is_computed_twice():
    cached(simclr(lambda: convnext(drop_path_rate=0.1), norm="none"))
    cached(simclr(convnext, norm="none"), micro_batch=4)  # a probability of 0 draws nothing


def test_without_batch_norm_the_group_does_not_matter():
    cached(simclr(vit, norm="none"), micro_batch=4, bn_group="global")


def test_a_piece_larger_than_the_share_is_the_share():
    """So that a run of one process whose piece was its batch goes on in two."""
    assert cached(simclr(vit, norm="none"), micro_batch=64).micro_batch == 16
    cached(simclr(vit, norm="none"), bn_group=5)


class Idle(Method):
    """A method whose loss has a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(SIDE * SIDE, 3)
        self.scale = nn.Parameter(torch.ones(()))

    def project(self, pictures):
        return self.backbone(pictures.flatten(1))

    def loss(self, batch: Embedded):
        return self.scale * batch.online.square().mean()

    def chance_loss(self, batch_size):
        return 0.0


def test_parameters_of_the_loss_are_refused():
    large_batch = cached(Idle().double())
    with pytest.raises(UsageError, match="Idle: parameter 'scale' has no part in embed"):
        large_batch.backward((views_of(),), step=0)


def test_a_loss_that_is_not_finite_sets_no_gradient():
    method = simclr(resnet_tiny)
    large_batch = cached(method, micro_batch=8, bn_group=8)
    with torch.no_grad():
        method.projection_head[-1].weight.fill_(torch.inf)
    before = running(method)
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        large_batch.backward((views_of(),), step=0)
    assert all(p.grad is None for p in method.parameters())
    assert all(torch.equal(b, before[k]) for k, b in running(method).items())


class Held:
    """A tensor that a graph keeps, counted while it is kept."""

    live = peak = 0

    def __init__(self, tensor):
        self.tensor = tensor
        Held.live += tensor.nbytes
        Held.peak = max(Held.peak, Held.live)

    def __del__(self):
        Held.live -= self.tensor.nbytes


def peak_of_graph(micro_batch):
    method = simclr(resnet_tiny)
    weights = {p.data_ptr() for p in method.parameters()}
    large_batch = cached(method, micro_batch=micro_batch, bn_group=2)
    Held.live = Held.peak = 0

    def pack(tensor):
        return tensor if tensor.data_ptr() in weights else Held(tensor)

    def unpack(held):
        return held.tensor if isinstance(held, Held) else held

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        large_batch.backward((views_of(),), step=0)
    assert Held.live == 0
    return Held.peak


def test_one_piece_alone_holds_its_graph():
    whole = peak_of_graph(0)
    assert peak_of_graph(8) < 0.55 * whole
    assert peak_of_graph(4) < 0.3 * whole
    assert peak_of_graph(2) < 0.17 * whole
