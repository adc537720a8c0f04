"""Backbones by name: ours, and every one that timm knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from looktwice.errors import UsageError, did_you_mean
from looktwice.models.resnet_tiny import ResNetTiny

OURS = {"resnet-tiny": ResNetTiny}
SMALL_VIEW = 64  # below this side a stem that shrinks fourfold leaves too little to look at


def build_backbone(name: str, *, channels: int, small_stem: bool, init: str = "") -> nn.Module:
    """Build a backbone that maps (N, channels, H, W) to features (N, num_features).

    Args:
        name: ``resnet-tiny``, or a timm model name; timm is imported only for the latter.
        channels: 1 or 3.
        small_stem: 3×3 convolution of stride 1 and no pooling first (SimCLR, appendix B.9).
        init: starting weights: ``timm:NAME`` (that model's published weights, which timm may
            download) or the path of a safetensors file; ``""`` starts from random numbers.

    Raises:
        UsageError: an unknown name, a stem that cannot be changed, or weights that do not fit.
    """
    if name in OURS:
        if init.startswith("timm:"):
            raise UsageError(f"model.init {init!r} needs a backbone of timm, not {name!r}")
        backbone: nn.Module = OURS[name](channels, small_stem=small_stem)
    else:
        backbone = _build_timm(name, channels, small_stem, init)
    if init and not init.startswith("timm:"):
        _load_weights(backbone, Path(init))
    return backbone


def feature_width(backbone: nn.Module, channels: int, sides: tuple[int, ...]) -> int:
    """Return the width D of features (N, D), by looking at some for pictures of these sides.

    Raises:
        UsageError: the backbone cannot take pictures of one of the sides.
    """
    training = backbone.training
    backbone.eval()
    for side in sides:
        try:
            with torch.no_grad():
                features: Tensor = backbone(torch.zeros(2, channels, side, side))
        except (AssertionError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"model.backbone takes no {side}-px pictures ({reason}); "
                "set --augment.size and --model.image-size to what it takes"
            ) from error
    backbone.train(training)
    return features.shape[1]


def default_small_stem(name: str, view_size: int) -> bool:
    """Return whether a backbone gets the small-image stem when nobody said.

    resnet-tiny is made for small pictures as it is, and only timm's ResNets have such a stem.
    """
    return bool(re.match(r"(wide_)?resnet\d", name)) and view_size < SMALL_VIEW


def _build_timm(name: str, channels: int, small_stem: bool, init: str) -> nn.Module:
    import timm  # seconds of import, paid only by those who ask for it

    weights = init.removeprefix("timm:") if init.startswith("timm:") else ""
    if weights and weights.split(".")[0] != name.split(".")[0]:
        raise UsageError(f"model.init {init!r} holds another network than model.backbone {name!r}")
    for wanted in filter(None, (name, weights)):
        if not timm.is_model(wanted.split(".")[0]):
            known = [*OURS, *timm.list_models()]
            near = did_you_mean(wanted, known) if len(known) else ""
            hint = near if "mean" in near else " `timm.list_models()` lists them."
            raise UsageError(f"unknown model.backbone {wanted!r}.{hint}")
    backbone: Any = timm.create_model(
        weights or name, pretrained=bool(weights), num_classes=0, in_chans=channels
    )
    if small_stem:
        _replace_stem(name, backbone, channels)
    module: nn.Module = backbone
    return module


def _replace_stem(name: str, backbone: Any, channels: int) -> None:
    from timm.models.resnet import ResNet

    is_resnet: bool = isinstance(backbone, ResNet)
    if not is_resnet:
        raise UsageError(
            f"model.stem small: {name} has no ResNet stem to replace; use model.stem standard"
        )
    stem = nn.Conv2d(channels, backbone.bn1.num_features, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    backbone.conv1 = stem
    backbone.maxpool = nn.Identity()


def _load_weights(backbone: nn.Module, path: Path) -> None:
    """Load a safetensors file of backbone weights; `encoder.safetensors` of a run is one."""
    if path.suffix != ".safetensors":
        raise UsageError(f"model.init {str(path)!r} is neither timm:NAME nor a .safetensors file")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(f"model.init: cannot read weights from {path}: {error}") from error
    expected = backbone.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            side = "lacks" if name not in tensors else "has, beyond the backbone,"
            raise UsageError(f"model.init: {path} {side} the tensor {name!r}: another network?")
        if expected[name].shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
            raise UsageError(f"model.init: {path}: tensor {name!r} has shape {shapes}")
    backbone.load_state_dict(tensors)
