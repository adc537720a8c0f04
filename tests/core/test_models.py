"""Networks: shapes, stems, heads, and an encoder that survives its file."""

import dataclasses
import json

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from looktwice.errors import RunError, UsageError
from looktwice.estimator import load_encoder
from looktwice.models import (
    Encoder,
    EncoderSpec,
    build_backbone,
    build_head,
    default_small_stem,
    encoder_bytes,
    feature_width,
)
from looktwice.models import encoder as encoders
from looktwice.models.encoder import FORMAT

SPEC = EncoderSpec("resnet-tiny", 1, False, 28, (0.5,), (0.25,))


def make_encoder(spec=SPEC):
    torch.manual_seed(0)
    backbone = build_backbone(spec.backbone, channels=spec.channels, small_stem=spec.small_stem)
    return Encoder(backbone, spec).eval()


def test_resnet_tiny_is_the_network_described():
    backbone = build_backbone("resnet-tiny", channels=1, small_stem=False)
    assert sum(p.numel() for p in backbone.parameters()) == 306_784
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [32, 32, 32, 64, 64, 64, 128, 128, 128]
    assert convolutions[0].stride == (2, 2)
    assert backbone(torch.zeros(2, 1, 20, 20)).shape == (2, 768)


@pytest.mark.parametrize("side", [1, 5, 16, 28, 33])
def test_resnet_tiny_takes_any_side(side):
    assert build_backbone("resnet-tiny", channels=3, small_stem=True)(
        torch.zeros(2, 3, side, side)
    ).shape == (2, 768)


def test_timm_resnets_get_the_small_stem():
    backbone = build_backbone("resnet18", channels=3, small_stem=True)
    assert backbone.conv1.stride == (1, 1)
    assert backbone.conv1.kernel_size == (3, 3)
    assert isinstance(backbone.maxpool, nn.Identity)
    assert backbone.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 512)
    assert default_small_stem("resnet18", 32)
    assert not default_small_stem("resnet18", 96)
    assert not default_small_stem("resnet-tiny", 20)


def test_the_width_of_features_is_what_comes_out():
    backbone = build_backbone("mobilenetv3_small_050", channels=3, small_stem=False)
    assert feature_width(backbone, 3, (32,)) == backbone.eval()(torch.zeros(1, 3, 32, 32)).shape[1]
    vit = build_backbone("vit_tiny_patch16_224", channels=3, small_stem=False)
    with pytest.raises(UsageError, match="takes no 32-px pictures"):
        feature_width(vit, 3, (32,))


def test_unknown_backbones_and_stems_are_refused():
    with pytest.raises(UsageError, match="unknown model.backbone 'resnet19'. Did you mean"):
        build_backbone("resnet19", channels=3, small_stem=False)
    with pytest.raises(UsageError, match="has no ResNet stem to replace"):
        build_backbone("mobilenetv3_small_050", channels=3, small_stem=True)


@pytest.mark.parametrize(
    ("kind", "linears", "shape"), [("none", 0, 8), ("linear", 1, 5), ("mlp", 3, 5)]
)
def test_heads(kind, linears, shape):
    head = build_head(kind, num_features=8, num_layers=3, width=6, embedding_dim=5)
    assert head(torch.randn(4, 8)).shape == (4, shape)
    assert sum(isinstance(m, nn.Linear) for m in head.modules()) == linears


def test_an_encoder_file_gives_the_same_features_and_the_same_bytes(tmp_path):
    encoder = make_encoder()
    data = encoder_bytes(encoder.backbone, encoder.spec)
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(data)
    loaded = load_encoder(path)
    pictures = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    torch.testing.assert_close(loaded(pictures), encoder(pictures))
    assert loaded.spec == encoder.spec
    assert encoder_bytes(loaded.backbone, loaded.spec) == data


def test_tied_weights_come_back():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    written = safetensors.torch.load(encoder_bytes(network, SPEC))
    assert written.keys() == network.state_dict().keys()
    assert all(torch.equal(written[name], t) for name, t in network.state_dict().items())


def test_bytes_and_floats_give_the_same_features():
    encoder = make_encoder()
    pictures = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    features = encoder(pictures)
    assert features.shape == (5, 768)
    assert features.dtype == torch.float32
    torch.testing.assert_close(encoder(pictures.float() / 255), features)
    by_hand = encoder.backbone((pictures.float() / 255 - 0.5) / 0.25)
    torch.testing.assert_close(features, by_hand)


def test_other_sizes_are_resized_by_the_short_side_and_cropped():
    encoder = make_encoder()
    wide = torch.randint(0, 256, (2, 1, 56, 100), dtype=torch.uint8)
    expected = F.interpolate(wide, size=(28, 50), mode="bilinear", antialias=True)[..., 11:39]
    assert torch.equal(encoder.prepare(wide), expected)
    for height, width in [(1, 1), (3, 90), (28, 29), (500, 375)]:
        assert encoder(torch.zeros(1, 1, height, width)).shape == (1, 768)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("turned", [False, True])
def test_of_a_very_long_picture_the_middle_alone_is_resized(monkeypatch, dtype, turned):
    resize, sizes = encoders._resize, []

    def recording(pictures, size):
        sizes.append(size)
        assert max(size) <= 9 * 28, "the whole picture would be resized"
        return resize(pictures, size)

    monkeypatch.setattr(encoders, "_resize", recording)
    thread = torch.zeros(1, 1, 1, 65_000, dtype=dtype)
    thread = thread.mT if turned else thread
    assert encoders.central_square(thread, 28).shape == (1, 1, 28, 28)
    for shape, same in (((40, 317), True), ((40, 1000), False)):
        rows, columns = (torch.arange(length) for length in shape)
        waves = torch.cos(rows / 9)[:, None] + torch.sin(columns / 20)
        picture = (waves * 60 + 128).to(dtype)[None, None]
        width = round(shape[1] * 28 / 40)
        whole = F.interpolate(picture, size=(28, width), mode="bilinear", antialias=True)
        left = (width - 28) // 2
        expected = whole[..., left : left + 28]
        found = encoders.central_square(picture.mT if turned else picture, 28)
        found = found.mT if turned else found
        apart = (found.float() - expected.float()).abs().max()
        assert apart <= (0 if same and not turned else 2)
    assert len(sizes) == 3


def test_colour_encoders_take_grey_and_grey_ones_refuse_colour():
    grey = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    coloured = make_encoder(EncoderSpec("resnet-tiny", 3, False, 28, (0.5,) * 3, (0.25,) * 3))
    torch.testing.assert_close(coloured(grey), coloured(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match=r"pictures must be \(N, 1, H, W\), not \(2, 3, 28, 28\)"):
        make_encoder()(grey.repeat(1, 3, 1, 1))


def test_an_encoder_stays_in_eval_mode():
    encoder = make_encoder()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    encoder.train()
    encoder(torch.rand(4, 1, 28, 28))
    assert not any(m.training for m in encoder.modules())
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (torch.full((1, 1, 28, 28), 200.0), "must lie in 0-1, not in 200 to 200"),
        (torch.full((1, 1, 28, 28), float("nan")), "must lie in 0-1"),
        (torch.zeros(1, 1, 28, 28, dtype=torch.int64), "uint8 or floating"),
        (torch.zeros(1, 28, 28), r"must be \(N, 1, H, W\)"),
    ],
)
def test_wrong_pictures_are_refused(pictures, message):
    with pytest.raises(ValueError, match=message):
        make_encoder()(pictures)


def test_starting_weights_are_loaded_or_refused(tmp_path):
    encoder = make_encoder()
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(encoder_bytes(encoder.backbone, encoder.spec))
    torch.manual_seed(1)
    again = build_backbone("resnet-tiny", channels=1, small_stem=False, init=str(path))
    for name, value in again.state_dict().items():
        assert torch.equal(value, encoder.backbone.state_dict()[name])
    with pytest.raises(UsageError, match=r"tensor 'stem.0.weight' has shape \(32, 1, 3, 3\)"):
        build_backbone("resnet-tiny", channels=3, small_stem=False, init=str(path))
    with pytest.raises(UsageError, match="another network"):
        build_backbone("resnet18", channels=1, small_stem=False, init=str(path))
    with pytest.raises(UsageError, match="cannot be read"):
        build_backbone(
            "resnet-tiny", channels=1, small_stem=False, init=str(tmp_path / "no.safetensors")
        )
    with pytest.raises(UsageError, match="cannot be read"):
        build_backbone("resnet-tiny", channels=1, small_stem=False, init="weights.pt")
    with pytest.raises(UsageError, match="give --backbone resnet18 too"):
        build_backbone("resnet-tiny", channels=1, small_stem=False, init="timm:resnet18")


def test_other_files_are_no_encoders(tmp_path):
    with pytest.raises(RunError, match="no encoder at"):
        load_encoder(tmp_path / "none.safetensors")
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.ones(1)}))
    with pytest.raises(RunError, match="not an encoder of this version"):
        load_encoder(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(RunError, match="damaged or no safetensors file"):
        load_encoder(path)
    path.write_bytes(
        safetensors.torch.save({"a": torch.ones(1)}, {"looktwice": json.dumps({"format": "x"})})
    )
    with pytest.raises(RunError, match="not an encoder of this version"):
        load_encoder(path)
    tensors = make_encoder().backbone.state_dict()
    said = {"format": FORMAT, **dataclasses.asdict(SPEC)}
    for wrong in (said | {"new": 1}, {k: v for k, v in said.items() if k != "mean"}):
        path.write_bytes(safetensors.torch.save(tensors, {"looktwice": json.dumps(wrong)}))
        with pytest.raises(RunError, match="damaged: its header does not describe an encoder"):
            load_encoder(path)
    path.write_bytes(safetensors.torch.save(tensors, {"looktwice": "[]"}))
    with pytest.raises(RunError, match="not an encoder of this version"):
        load_encoder(path)
    with pytest.raises(RunError, match="there is no such folder"):
        load_encoder(tmp_path / "run")
