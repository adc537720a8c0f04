"""Backbones by name: ours, and every one that timm knows."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from looktwice.errors import RunError, UsageError, did_you_mean
from looktwice.models.resnet_tiny import ResNetTiny
from looktwice.models.weights import fit_weights, read_tensors

OURS: dict[str, Callable[..., nn.Module]] = {
    "resnet-tiny": ResNetTiny,
    "resnet-tiny-half": partial(ResNetTiny, widths=(16, 32, 64)),
    "resnet-tiny-double": partial(ResNetTiny, widths=(64, 128, 256)),
}
PUBLISHERS = ("timm:", "torchvision:")
"""What begins the name of a network, or of its published weights, in these libraries."""
SMALL_VIEW = 64  # below this side a stem that shrinks fourfold leaves too little to look at


def build_backbone(name: str, *, channels: int, small_stem: bool, init: str = "") -> nn.Module:
    """Build a backbone that maps (N, channels, H, W) to features (N, num_features).

    Args:
        name: ``resnet-tiny``; a timm model name, also as ``timm:NAME``; ``torchvision:NAME``; or
            ``solo-learn:NAME``, torchvision's with the small stem of that library. Libraries are
            imported only when asked for.
        channels: 1 or 3.
        small_stem: 3×3 convolution of stride 1 and no pooling first (SimCLR, appendix B.9).
        init: starting weights: ``timm:NAME`` or ``torchvision:NAME`` (that model's published
            weights, which the library may download) or the path of a file, our own or one of
            those `looktwice.models.weights` lists; ``""`` starts from random numbers.

    Raises:
        UsageError: an unknown name, a stem that cannot be changed, or weights that do not fit.
        RunError: published weights that cannot be fetched.
    """
    source, _, model = name.rpartition(":")
    published = init.startswith(PUBLISHERS)
    if published and (name in OURS or _model(init) != _model(name)):
        library, model = _model(init)
        wanted = model if library == "timm" else f"{library}:{model}"
        raise UsageError(
            f"model.init {init!r} holds another network than model.backbone {name!r}: give "
            f"--backbone {wanted} too"
        )
    weights = init.partition(":")[2] if published else ""
    if name in OURS:
        backbone = OURS[name](channels, small_stem=small_stem)
    elif source in ("", "timm"):
        backbone = _build_timm(model, channels, weights)
    elif source in ("torchvision", "solo-learn"):
        backbone = _build_torchvision(model, channels, weights)
    else:
        raise UsageError(
            f"unknown model.backbone {name!r}: before the colon goes timm, torchvision or "
            "solo-learn; a network of your own is wrapped in Python (wrap_encoder)"
        )
    if small_stem and name not in OURS:
        # vturrisi/solo-learn, solo/methods/base.py: kernel_size=3, stride=1, padding=2
        _replace_stem(name, backbone, channels, padding=2 if source == "solo-learn" else 1)
    if init and not published:
        fit_weights(backbone, read_tensors(Path(init)), Path(init))
    return backbone


def _model(name: str) -> tuple[str, str]:
    """Return (library, architecture) of a backbone or of published weights."""
    library, _, model = name.rpartition(":")
    return library or "timm", model.split(".")[0]


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
    return bool(re.match(r"(\S+:)?(wide_)?resnet\d", name)) and view_size < SMALL_VIEW


def _build_timm(name: str, channels: int, weights: str) -> nn.Module:
    import timm  # seconds of import, paid only by those who ask for it

    for wanted in filter(None, (name, weights)):
        if not timm.is_model(wanted.split(".")[0]):
            known = [*OURS, *timm.list_models()]
            near = did_you_mean(wanted, known) if len(known) else ""
            hint = near if "mean" in near else " `timm.list_models()` lists them."
            raise UsageError(f"unknown model.backbone {wanted!r}.{hint}")
    if weights and not timm.is_model_pretrained(weights):
        raise UsageError(f"timm has no published weights of {weights!r}; give a file of weights")
    with _fetching(f"timm:{weights}"):
        backbone: nn.Module = timm.create_model(
            weights or name, pretrained=bool(weights), num_classes=0, in_chans=channels
        )
    return backbone


def _build_torchvision(name: str, channels: int, weights: str) -> nn.Module:
    """Build a classifier of torchvision without its last linear layer.

    It carries what timm's networks carry as `pretrained_cfg`: size, mean, standard deviation and
    the name of the layer that was taken off.
    """
    from torchvision import models

    known = set(models.list_models(module=models)) - _SELF_NORMALISING
    if name not in known:
        raise UsageError(f"unknown torchvision:{name}.{did_you_mean(name, known)}")
    published = models.get_model_weights(name).DEFAULT
    with _fetching(f"torchvision:{name}"):
        backbone: Any = models.get_model(name, weights=published if weights else None)
    linear = [layer for layer, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UsageError(f"torchvision:{name} has no linear layer to take off for its features")
    backbone.set_submodule(linear[-1], nn.Identity())
    if channels != 3:
        if weights:
            raise UsageError(
                f"torchvision:{name}: published weights are for 3 channels, not {channels}; "
                "with 3 the encoder repeats the channel of grey pictures"
            )
        _replace_first_convolution(backbone, channels)
    expects = published.transforms()
    backbone.pretrained_cfg = {
        "input_size": (3, expects.crop_size[0], expects.crop_size[0]),
        "mean": tuple(expects.mean),
        "std": tuple(expects.std),
        "classifier": linear[-1],
    }
    module: nn.Module = backbone
    return module


# Their published weights change the pictures' normalisation in forward; random ones do not.
_SELF_NORMALISING = {"googlenet", "inception_v3"}


def _replace_first_convolution(backbone: nn.Module, channels: int) -> None:
    convolutions = ((n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d))
    name, first = next(convolutions)
    replacement = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    backbone.set_submodule(name, replacement)


@contextlib.contextmanager
def _fetching(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(
            f"cannot get the published weights of {what} ({reason}); "
            "fetch them where there is a network, or give a file of weights"
        ) from error


def _replace_stem(name: str, backbone: Any, channels: int, padding: int) -> None:
    from timm.models.resnet import ResNet
    from torchvision.models import ResNet as TorchvisionResNet

    is_resnet: bool = isinstance(backbone, (ResNet, TorchvisionResNet))
    if not is_resnet:
        raise UsageError(
            f"model.stem small: {name} has no ResNet stem to replace; use model.stem standard"
        )
    stem = nn.Conv2d(channels, backbone.bn1.num_features, 3, 1, padding, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    backbone.conv1 = stem
    backbone.maxpool = nn.Identity()
