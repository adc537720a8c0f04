"""Encoders that others trained: published ones, files of other libraries, modules in Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from looktwice.errors import UsageError
from looktwice.models.backbones import PUBLISHERS, build_backbone
from looktwice.models.encoder import (
    IMAGENET,
    Encoder,
    EncoderSpec,
    backbone_normalisation,
    check_image_size,
)
from looktwice.models.weights import fit_weights, has_small_stem, read_tensors

FOREIGN = (*PUBLISHERS, "solo-learn:")
SMALL_SIZE = 32  # CIFAR's side: what ResNets with a stem for small pictures are mostly trained at


def foreign_encoder(
    name: str,
    weights: Path | None = None,
    *,
    image_size: int | None = None,
    channels: int = 3,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    say: Callable[[str], None] = print,
) -> Encoder:
    """Build an encoder from a network of another library, published or from a file.

    Args:
        name: ``timm:NAME``, ``torchvision:NAME``, or ``solo-learn:NAME`` (torchvision's ResNet
            whose small stem pads by 2).
        weights: a checkpoint of any layout that `looktwice.models.weights` lists; None takes the
            published weights, which the library downloads unless it has them already. A ResNet's
            stem for small pictures shows in the file.
        image_size: side in pixels at which pictures enter the network. None: what the published
            network takes; 32 with the small stem.
        channels: 1 or 3.
        mean: per channel, in units of 0-1 pixels; None: the published figures, those of an
            encoder file of ours, or ImageNet's.
        std: likewise.
        say: gets one line before published weights are asked for, or after a file was read, that
            says what was loaded and what was left out.

    Raises:
        UsageError: an unknown name, no size, or a file that cannot be read or does not fit.
        RunError: published weights that cannot be fetched.
    """
    check_image_size(image_size)
    if not name.startswith(FOREIGN):
        raise UsageError(f"{name!r} is no network of {', '.join(FOREIGN)}")
    if weights is None:
        backbone, small_stem = _published(name, channels, say), False
    else:
        tensors = read_tensors(weights)
        plain = build_backbone(name, channels=channels, small_stem=False)
        small_stem = has_small_stem(plain, tensors)
        backbone = build_backbone(name, channels=channels, small_stem=small_stem)
        left_out = fit_weights(backbone, tensors, weights)
    own = backbone_normalisation(backbone, name if weights is None else str(weights), channels)
    size = image_size or (SMALL_SIZE if small_stem else backbone.pretrained_cfg["input_size"][-1])
    spec = EncoderSpec(name, channels, small_stem, size, mean or own[0], std or own[1])
    encoder = _encoder(backbone, spec)
    if weights is not None:
        say(_loaded_line(weights, spec, left_out))
    return encoder


def wrap_encoder(
    module: nn.Module,
    *,
    image_size: int,
    channels: int = 3,
    mean: tuple[float, ...] = IMAGENET["mean"],
    std: tuple[float, ...] = IMAGENET["std"],
) -> Encoder:
    """Make an encoder of any module that maps pictures to features.

    Args:
        module: maps floats (N, channels, image_size, image_size), normalised, to (N, D), or to
            (N, D, 1, 1) as lightly's backbones do. It is put into eval mode, and stays there.
        image_size: side in pixels at which pictures enter the module.
        channels: 1 or 3.
        mean: per channel, in units of 0-1 pixels; ImageNet's unless given.
        std: likewise.

    Returns:
        An encoder. Its file could not be read again: only the module's code knows the network.

    Raises:
        UsageError: the module does not take such pictures or does not give such features.
    """
    spec = EncoderSpec(f"wrapped:{type(module).__name__}", channels, False, image_size, mean, std)
    return _encoder(module, spec)


def _published(name: str, channels: int, say: Callable[[str], None]) -> Any:
    if not name.startswith(PUBLISHERS):
        raise UsageError(f"{name} has no published weights to fetch; give a file of weights")
    library = name.partition(":")[0]
    say(f"{name}: published weights, which {library} downloads unless it has them already")
    return build_backbone(name, channels=channels, small_stem=False, init=name)


def _encoder(backbone: nn.Module, spec: EncoderSpec) -> Encoder:
    if not len(spec.mean) == len(spec.std) == spec.channels:
        raise UsageError(
            f"mean {spec.mean} and std {spec.std} must have one figure for each of "
            f"{spec.channels} channels"
        )
    features = _look(backbone, spec)
    if features.ndim == 4 and features.shape[2:] == (1, 1):
        backbone = nn.Sequential(backbone, nn.Flatten(1))
    elif features.ndim != 2:
        raise UsageError(
            f"{spec.backbone} gives features of shape {tuple(features.shape)}, not (N, D)"
        )
    return Encoder(backbone.to(memory_format=torch.channels_last), spec).eval()


@torch.no_grad()
def _look(backbone: nn.Module, spec: EncoderSpec) -> Tensor:
    """Return the features of two blank pictures."""
    shape = (2, spec.channels, spec.image_size, spec.image_size)
    try:
        features: object = backbone.eval()(torch.zeros(shape))
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{spec.backbone} takes no {spec.image_size}-px pictures of {spec.channels} "
            f"channel(s) ({reason}); give the image size and the channels that it takes"
        ) from error
    if not isinstance(features, Tensor):
        raise UsageError(f"{spec.backbone} gives a {type(features).__name__}, not features (N, D)")
    return features


def _loaded_line(weights: Path, spec: EncoderSpec, left_out: list[str]) -> str:
    stem = ", small stem" if spec.small_stem else ""
    mean = ", ".join(f"{value:.3g}" for value in spec.mean)
    std = ", ".join(f"{value:.3g}" for value in spec.std)
    return (
        f"{weights}: all weights of {spec.backbone}{stem} loaded; left out: "
        f"{', '.join(left_out) or 'nothing'}; pictures enter at {spec.image_size} px, mean {mean}, "
        f"std {std}"
    )
