"""Foreign encoders: layouts of other libraries, built as their code builds them, run by hand."""

import copy
import pickle
from functools import partial

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from looktwice.errors import DataError, LooktwiceError, RunError, UsageError
from looktwice.estimator import load_encoder, open_encoder
from looktwice.foreign import load_weights
from looktwice.models import (
    EncoderSpec,
    backbone_normalisation,
    build_backbone,
    encoder_bytes,
    foreign_encoder,
    wrap_encoder,
)

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def shaken(network, seed=0):
    """Give every tensor its own numbers: fresh batch-norms are all alike and hide a mix-up."""
    generator = torch.Generator().manual_seed(seed)
    for value in network.state_dict().values():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            scaled = (noise - 0.5) * 0.1 if value.ndim > 1 else noise + 0.5
            value.copy_(scaled)
        else:
            value.fill_(7)
    return network.eval()


def resnet(*, small=False, padding=1, seed=0, num_classes=10, **options):
    network = torchvision.models.resnet18(num_classes=num_classes, **options)
    if small:
        network.conv1 = nn.Conv2d(3, 64, 3, 1, padding, bias=False)
        network.maxpool = nn.Identity()
    return shaken(network, seed)


@torch.no_grad()
def by_hand(network, pictures):
    """Run torchvision's layers one by one, as the reproductions' own code does.

    In the encoder's own memory layout: another adds in another order, 1e-6 of the norm apart.
    """
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)
    x = ((pictures / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = layer(x)
    return torch.flatten(network.avgpool(x), 1)


def head():
    return nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))


class Holder(nn.Module):
    """A module of named parts, as every library's model is one."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def children(network):
    return nn.Sequential(*list(network.children())[:-1])


def plain(network):
    return network.state_dict()


def majic(network):
    return {n: t for n, t in network.state_dict().items() if not n.startswith("fc.")}


def lightly_simclr(network):
    return Holder(backbone=children(network), projection_head=head()).state_dict()


def lightly_moco_in_lightning(network):
    parts = {"backbone": children(network), "projection_head": head()}
    second = {
        "backbone_momentum": children(resnet(seed=1)),
        "projection_head_momentum": head(),
    }
    state = Holder(**parts, **second).state_dict()
    return {"epoch": 3, "pytorch-lightning_version": "2.6.0", "state_dict": state, "callbacks": {}}


def lightly_backbone(network):
    return children(network).state_dict()


def lightly_dino(network):
    student, teacher = children(network), children(resnet(seed=1))
    return Holder(student_backbone=student, teacher_backbone=teacher).state_dict()


def with_mlp(network):
    network = copy.deepcopy(network)
    network.fc = head()
    return network


def moco(network):
    model = Holder(encoder_q=with_mlp(network), encoder_k=with_mlp(resnet(seed=1)))
    model.register_buffer("queue", torch.randn(128, 64))
    model.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    state = Holder(module=model).state_dict()
    best = torch.tensor(0.5)
    return {
        "epoch": 200, "arch": "resnet18", "state_dict": state,
        "best_acc1": best, "optimizer": optimizer.state_dict(),
    }  # fmt: skip


def moco_cifar(network):
    """Build the layers as the ModelBase of facebookresearch/moco's CIFAR-10 notebook does."""

    def base(network):
        layers = []
        for module in network.children():
            if isinstance(module, nn.Linear):
                layers.append(nn.Flatten(1))
            if not isinstance(module, nn.Identity):  # there: MaxPool2d
                layers.append(module)
        return Holder(net=nn.Sequential(*layers))

    model = Holder(encoder_q=base(network), encoder_k=base(resnet(small=True, seed=1)))
    return {"epoch": 200, "state_dict": model.state_dict()}


def moco_v3(network):
    model = Holder(base_encoder=with_mlp(network), momentum_encoder=with_mlp(resnet(seed=1)))
    return {"arch": "resnet18", "state_dict": Holder(module=model).state_dict()}


def sthalles(network):
    return {"epoch": 100, "state_dict": Holder(backbone=with_mlp(network)).state_dict()}


def park_cheol(network):
    network = copy.deepcopy(network)
    network.fc = nn.Identity()
    model = Holder(encoder=network, proj_head=head())
    return {"epoch": 5, "G_A2B": Holder(module=model).state_dict()}


def solo_learn(network):
    network = copy.deepcopy(network)
    network.fc = nn.Identity()
    model = Holder(
        backbone=network,
        classifier=nn.Linear(512, 10),
        projector=head(),
        momentum_backbone=resnet(seed=1),
    )
    return {"epoch": 1, "state_dict": model.state_dict()}


def supcontrast(network):
    state = {n.replace("downsample", "shortcut"): t for n, t in majic(network).items()}
    inside = {f"encoder.module.{name}": tensor for name, tensor in state.items()}
    return {"epoch": 1, "model": {**inside, "head.0.weight": torch.zeros(512, 512)}}


def compiled(network):
    return {f"_orig_mod.{name}": tensor for name, tensor in network.state_dict().items()}


def half(network):
    return {n: t.half() if t.is_floating_point() else t for n, t in plain(network).items()}


LAYOUTS = [
    (plain, False, "fc"),
    (majic, True, "nothing"),
    (lightly_simclr, False, "projection_head"),
    (lightly_moco_in_lightning, False, "backbone_momentum, projection_head"),
    (lightly_backbone, False, "nothing"),
    (lightly_dino, False, "teacher_backbone"),
    (moco, False, "encoder_k, encoder_q.fc, queue, queue_ptr"),
    (moco_cifar, True, "encoder_k, encoder_q.net.9"),
    (moco_v3, False, "base_encoder.fc, momentum_encoder"),
    (sthalles, False, "backbone.fc"),
    (park_cheol, False, "proj_head"),
    (solo_learn, False, "classifier, momentum_backbone, projector"),
    (supcontrast, True, "head"),
    (compiled, False, "fc"),
]


def pictures(side):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=generator)


def write(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
@pytest.mark.parametrize(("layout", "small", "left_out"), LAYOUTS)
def test_every_layout_gives_the_features_of_the_network_it_holds(
    tmp_path, capsys, layout, small, left_out, name
):
    network = resnet(small=small)
    path = write(tmp_path, layout(network))
    encoder = open_encoder(name, weights=path, image_size=48)
    assert encoder.spec.small_stem is small
    expected = by_hand(network, pictures(48))
    torch.testing.assert_close(encoder(pictures(48)), expected, rtol=1e-6, atol=1e-6)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"left out: {left_out}" in said


def test_the_stem_of_solo_learn_is_named_or_refused(tmp_path):
    network = resnet(small=True, padding=2)
    path = write(tmp_path, solo_learn(network))
    with pytest.raises(UsageError, match="pads by 2 pixels: name the network solo-learn:resnet18"):
        open_encoder("torchvision:resnet18", weights=path)
    encoder = open_encoder("solo-learn:resnet18", weights=path)
    assert encoder.spec.image_size == 32
    expected = by_hand(network, pictures(32))
    torch.testing.assert_close(encoder(pictures(32)), expected, rtol=1e-6, atol=1e-6)
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(encoder_bytes(encoder.backbone, encoder.spec))
    assert torch.equal(load_encoder(file)(pictures(32)), encoder(pictures(32)))


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"]
)
def test_timm_networks_come_back_from_their_own_file(tmp_path, name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=7).eval()
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    encoder = open_encoder(f"timm:{name}", weights=path)
    side = network.pretrained_cfg["input_size"][-1]
    assert encoder.spec.image_size == side
    with torch.no_grad():
        x = (pictures(side) / 255 - MEAN) / STD
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
    torch.testing.assert_close(encoder(pictures(side)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("vit_b_32", lambda n: n.heads.head),
        ("mobilenet_v3_small", lambda n: n.classifier[3]),
        ("convnext_tiny", lambda n: n.classifier[2]),
    ],
)
def test_torchvision_networks_give_what_enters_their_last_layer(tmp_path, name, last):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    entered = []
    last(network).register_forward_hook(lambda module, inputs, output: entered.append(inputs[0]))
    with torch.no_grad():
        network((pictures(224) / 255 - MEAN) / STD)
    encoder = open_encoder(f"torchvision:{name}", weights=write(tmp_path, network.state_dict()))
    torch.testing.assert_close(encoder(pictures(224)), entered[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_a_foreign_encoder_survives_its_own_file(tmp_path, name):
    path = write(tmp_path, moco_cifar(resnet(small=True)))
    encoder = open_encoder(name, weights=path)
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(encoder_bytes(encoder.backbone, encoder.spec))
    again = open_encoder(str(file))
    assert again.spec == encoder.spec
    assert again.spec.backbone == name
    assert torch.equal(again(pictures(32)), encoder(pictures(32)))
    assert open_encoder(str(file), image_size=40).spec.image_size == 40
    with pytest.raises(UsageError, match=r"takes pictures of 3 channel\(s\)"):
        open_encoder(str(file), channels=1)


def test_figures_of_normalisation_are_told_kept_or_imagenets(tmp_path):
    network = resnet(small=True)
    path = write(tmp_path, plain(network))
    told = foreign_encoder("timm:resnet18", path, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert (told.spec.mean, told.spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(encoder_bytes(told.backbone, told.spec))
    assert foreign_encoder("timm:resnet18", file).spec.mean == (0.1, 0.2, 0.3)
    with pytest.raises(UsageError, match="one figure for each of 3 channels"):
        foreign_encoder("timm:resnet18", path, mean=(0.5,))


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_grey_networks_are_asked_for_by_channels(tmp_path, name):
    network = shaken(timm.create_model("resnet18", num_classes=0, in_chans=1))
    path = write(tmp_path, network.state_dict())
    grey = pictures(48)[:, :1]
    encoder = open_encoder(name, weights=path, channels=1, image_size=48)
    with torch.no_grad():
        expected = network((grey / 255 - MEAN.mean()) / STD.mean())
    torch.testing.assert_close(encoder(grey), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="made for pictures of 1 channels, not of 3"):
        open_encoder(name, weights=path)


def test_a_training_run_starts_from_foreign_files(tmp_path):
    network = resnet(small=True)
    path = write(tmp_path, moco_cifar(network))
    for name in ("resnet18", "timm:resnet18", "torchvision:resnet18"):
        backbone = build_backbone(name, channels=3, small_stem=True, init=str(path)).eval()
        backbone = backbone.to(memory_format=torch.channels_last)
        with torch.no_grad():
            x = (pictures(32) / 255 - MEAN) / STD
            features = backbone(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(features, by_hand(network, pictures(32)), rtol=1e-6, atol=1e-6)
        figures = backbone_normalisation(backbone, str(path), 3)
        assert figures == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with pytest.raises(UsageError, match=r"its stem is the small one \(model.stem small\)"):
        build_backbone("resnet18", channels=3, small_stem=False, init=str(path))
    with pytest.raises(UsageError, match="holds another network than"):
        build_backbone("resnet18", channels=3, small_stem=False, init="torchvision:resnet18")


def test_any_module_can_be_wrapped():
    network = resnet()
    encoder = wrap_encoder(children(network).train(), image_size=48)
    torch.testing.assert_close(
        encoder(pictures(48)), by_hand(network, pictures(48)), rtol=1e-6, atol=1e-6
    )
    grey = wrap_encoder(nn.Flatten(1), image_size=2, channels=1, mean=(0.0,), std=(2.0,))
    assert grey(torch.ones(1, 1, 2, 2)).tolist() == [[0.5] * 4]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(3, 4, 3), r"gives features of shape \(2, 4, 6, 6\), not \(N, D\)"),
        (nn.Linear(7, 2), r"takes no 8-px pictures of 3 channel\(s\)"),
        (nn.LSTM(8, 2), "takes no 8-px pictures"),
        (nn.MaxPool2d(2, return_indices=True), "gives a tuple, not features"),
    ],
)
def test_modules_that_give_no_features_are_refused(module, message):
    with pytest.raises(UsageError, match=message) as refused:
        wrap_encoder(module, image_size=8)
    assert "\n" not in str(refused.value)


def test_a_wrapped_encoder_says_that_its_file_cannot_be_read(tmp_path):
    encoder = wrap_encoder(nn.Sequential(nn.Flatten(1), nn.Linear(12, 2)), image_size=2)
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(encoder_bytes(encoder.backbone, encoder.spec))
    with pytest.raises(UsageError, match="a network of your own is wrapped in Python"):
        load_encoder(file)


def without(name, network):
    return {key: tensor for key, tensor in network.state_dict().items() if key != name}


def generator_in_sequential(network):
    """Number the parts as nn.Sequential does where ReLU and pooling are no modules."""
    parts = (network.conv1, network.bn1, network.layer1, network.layer2, network.layer3)
    return Holder(backbone=nn.Sequential(*parts, network.layer4)).state_dict()


def not_finite(network):
    state = network.state_dict()
    state["bn1.running_var"][3] = float("nan")
    return state


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


REFUSED = [
    (partial(without, "layer3.1.bn2.running_var"), "lacks the tensor 'layer3.1.bn2.running_var'"),
    (lambda n: torchvision.models.resnet34().state_dict(), "beyond the backbone, the tensor 'layer1.2"),
    (lambda n: children(torchvision.models.resnet34()).state_dict(), "beyond the backbone, the tensor '4.2.conv1.weight'"),
    (lambda n: torchvision.models.resnet50().state_dict(), "beyond the backbone, the tensor 'layer1.0.conv3"),
    (lambda n: n.state_dict() | {"bn1.bias": torch.ones(7)}, r"'bn1.bias' has shape \(7,\), not \(64,\)"),
    (lambda n: {"stem.weight": torch.ones(2)}, "lacks the tensor 'conv1.weight': another network"),
    (lambda n: {"state_dict": {}, "epoch": 3}, "holds no tensors, at its top or under state_dict"),
    (lambda n: {}, "it holds nothing"),
    (lambda n: [torch.ones(2)], "holds list, not weights by name"),
    (lambda n: n, "it names 'torchvision.models.resnet.ResNet'"),
    (not_finite, "'bn1.running_var' holds NaN or infinity"),
    (generator_in_sequential, "no ReLU after its first batch-norm"),
    (lambda n: {"w": torch.ones(2), "by": Harm()}, "it names 'print'"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path, capsys, content, message):
    path = write(tmp_path, content(resnet()))
    with pytest.raises(LooktwiceError, match=message) as refused:
        open_encoder("torchvision:resnet18", weights=path)
    assert "\n" not in str(refused.value)
    assert "harm" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "data",
    [b"", b"text", pickle.dumps(Harm()), b"PK\x03\x04" + b"x" * 40, b"\x80\x02" + b"\xff" * 20,
     (50).to_bytes(8, "little") + b"{nonsense"],
)  # fmt: skip
def test_damaged_and_hostile_bytes_are_refused_in_one_line(tmp_path, capsys, data):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    with pytest.raises(DataError, match="is not loaded") as refused:
        load_weights(path)
    assert "\n" not in str(refused.value)
    assert "harm" not in capsys.readouterr().out
    with pytest.raises(UsageError, match="is not loaded"):
        build_backbone("resnet-tiny", channels=1, small_stem=False, init=str(path))


def test_a_truncated_file_is_refused_in_one_line(tmp_path):
    path = write(tmp_path, resnet().state_dict())
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(DataError, match="no whole file") as refused:
        load_weights(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match="No such file or directory"):
        load_weights(tmp_path / "none.pth")


def test_mocos_small_vit_is_refused_for_its_heads(tmp_path):
    network = timm.create_model("vit_small_patch16_224", num_classes=0)
    path = write(tmp_path, moco_v3_of(network))
    with pytest.raises(UsageError, match="12 heads where timm's has 6"):
        open_encoder("timm:vit_small_patch16_224", weights=path)


@pytest.mark.parametrize("size", [0, -5])
def test_a_size_that_is_none_is_refused(tmp_path, size):
    path = tmp_path / "encoder.safetensors"
    spec = EncoderSpec("resnet-tiny", 1, False, 28, (0.5,), (0.25,))
    network = build_backbone("resnet-tiny", channels=1, small_stem=False)
    path.write_bytes(encoder_bytes(network, spec))
    for target in (str(path), "timm:resnet18"):
        with pytest.raises(UsageError, match=f"--image-size is {size}; it must be 1 or more"):
            open_encoder(target, image_size=size)


def moco_v3_of(network):
    return {"state_dict": Holder(module=Holder(base_encoder=network)).state_dict()}


@pytest.mark.parametrize(
    ("target", "weights", "message"),
    [
        ("timm:resnet19", "there", "unknown model.backbone 'resnet19'. Did you mean"),
        ("torchvision:resnet19", "there", "unknown torchvision:resnet19. Did you mean"),
        ("torchvision:inception_v3", "there", "unknown torchvision:inception_v3"),
        ("torchvision:squeezenet1_0", "there", "no linear layer to take off"),
        ("solo-learn:resnet18", None, "has no published weights to fetch"),
        ("timm:resnet18d.none_in1k", None, "timm has no published weights of"),
        ("resnet18", None, "no run, encoder file or network 'resnet18'"),
        ("resnet18", "there", "weights need a network, as in timm:resnet18"),
        ("there", None, "does not say its network: give that"),
    ],
)
def test_targets_that_cannot_be_opened(tmp_path, target, weights, message):
    path = write(tmp_path, {"w": torch.ones(1)})
    target = str(path) if target == "there" else target
    with pytest.raises(UsageError, match=message) as refused:
        open_encoder(target, weights=path if weights else None)
    assert "\n" not in str(refused.value)


def test_what_is_published_is_announced_and_its_absence_told(monkeypatch, capsys):
    def no_network(*args, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", no_network)
    monkeypatch.setattr(torchvision.models, "get_model", no_network)
    for name in ("timm:resnet18", "torchvision:resnet18"):
        with pytest.raises(RunError, match=f"cannot get .* {name} .no route.") as refused:
            open_encoder(name)
        assert "\n" not in str(refused.value)
        assert capsys.readouterr().out.startswith(f"{name}: published weights, which")


def test_published_figures_come_with_published_weights(monkeypatch, capsys):
    """The libraries' own loaders, with their download replaced by a file made here."""
    network = resnet(num_classes=1000)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **o: network.state_dict())
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *a, **o: network.state_dict()
    )
    encoder = open_encoder("torchvision:resnet18", image_size=48)
    expected = by_hand(network, pictures(48))
    torch.testing.assert_close(encoder(pictures(48)), expected, rtol=1e-6, atol=1e-6)
    assert encoder.spec.mean == (0.485, 0.456, 0.406)
    with pytest.raises(UsageError, match="published weights are for 3 channels, not 1"):
        open_encoder("torchvision:resnet18", channels=1)
