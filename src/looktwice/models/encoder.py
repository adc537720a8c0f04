"""The encoder people take away: pictures in, features out, preprocessing included."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import safetensors
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looktwice.errors import RunError, UsageError
from looktwice.models.backbones import PUBLISHERS, build_backbone
from looktwice.tensors import tensor_bytes

FORMAT = "looktwice-encoder/1"
# Pictures centred on zero with about unit spread; batch-norm absorbs what a data set's own
# figures would change. Backbones that start from timm's weights carry theirs instead.
MEAN, STD = 0.5, 0.25
# Times the short side, what is resized of a picture's length: the central square, the filter's
# margin, and the whole of all ordinary shapes.
LONGEST = 8
# torchvision's figures (references/classification/presets.py), which the weights of most share.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def backbone_normalisation(
    backbone: nn.Module, init: str, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, std) per channel: those of the starting weights, else .5 and .25.

    Published weights say theirs, and so does an encoder file of ours; files of other libraries
    do not, and have ImageNet's.
    """
    if init.startswith(PUBLISHERS):
        said = getattr(backbone, "pretrained_cfg", {})
    else:
        said = (_header(Path(init)) or IMAGENET) if init else {}
    mean, std = said.get("mean", (MEAN,)), said.get("std", (STD,))
    if len(mean) == channels:
        return tuple(mean), tuple(std)
    return (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels


@dataclass(frozen=True)
class EncoderSpec:
    """All that is needed to build an encoder again, weights aside.

    Attributes:
        backbone: name for `build_backbone`.
        channels: 1 or 3.
        small_stem: whether the stem is the one for small pictures.
        image_size: side in pixels at which pictures enter the network.
        mean: per channel, in units of 0-1 pixels.
        std: per channel, in units of 0-1 pixels.
    """

    backbone: str
    channels: int
    small_stem: bool
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def check_image_size(image_size: int | None) -> None:
    """Raise UsageError where a side in pixels is none; None is taken."""
    if image_size is not None and image_size < 1:
        raise UsageError(f"--image-size is {image_size}; it must be 1 or more")


@final
class Encoder(nn.Module):
    """Maps pictures to features; always in eval mode, without gradients."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        shape = (1, spec.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(shape), persistent=False)

    def prepare(self, pictures: Tensor) -> Tensor:
        """Bring pictures (N, C, h, w) to (N, C, S, S): short side to S, then the centre.

        Bilinear and antialiased; the dtype is kept (uint8 or floating). A single channel is
        repeated for an encoder of colour pictures.

        Raises:
            ValueError: not four dimensions, or channels the encoder does not take.
        """
        if pictures.ndim != 4 or pictures.shape[1] not in (1, self.spec.channels):
            raise ValueError(
                f"pictures must be (N, {self.spec.channels}, H, W), not {tuple(pictures.shape)}"
            )
        pictures = pictures.expand(-1, self.spec.channels, -1, -1)
        return central_square(pictures, self.spec.image_size)

    def normalize(self, pictures: Tensor) -> Tensor:
        """Map uint8 (…, C, H, W) to floats around 0, on the pictures' own device and layout."""
        # In place, since each further tensor costs as much as the arithmetic.
        return pictures.to(torch.float32, copy=True).div_(255).sub_(self.mean).div_(self.std)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures (N, C, H, W) to features (N, D), float32.

        Args:
            pictures: uint8 in 0-255, or floating in 0-1; any height and width.

        Raises:
            ValueError: a wrong shape or dtype, or floats outside 0-1.
        """
        pictures = self.prepare(pictures)
        if pictures.dtype == torch.uint8:
            return self._features(self.normalize(pictures))
        if not pictures.is_floating_point():
            raise ValueError(f"pictures must be uint8 or floating, not {pictures.dtype}")
        if pictures.numel() and not (pictures.min() >= -1e-3 and pictures.max() <= 1.001):
            raise ValueError(
                "floating pictures must lie in 0-1, not in "
                f"{pictures.min():.3g} to {pictures.max():.3g}"
            )
        return self._features((pictures.float() - self.mean) / self.std)

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone(x.contiguous(memory_format=torch.channels_last))
        return features.float()

    def train(self, mode: bool = True) -> Encoder:  # noqa: ARG002
        """Stay in eval mode: batch-norm of a finished encoder must not move."""
        return super().train(False)


def central_square(pictures: Tensor, side: int) -> Tensor:
    """Resize pictures (N, C, h, w) to a short side of `side`, and crop the centre (N, C, S, S).

    Bilinear and antialiased; the dtype, uint8 or floating, is kept. Of pictures longer than
    `LONGEST` the ends are cut off first: resized as a whole they could fill any memory.
    """
    height, width = pictures.shape[2:]
    if (height, width) == (side, side):
        return pictures
    top, left = (max(0, (n - LONGEST * min(height, width)) // 2) for n in (height, width))
    pictures = pictures[:, :, top : height - top, left : width - left]
    height, width = pictures.shape[2:]
    scale = side / min(height, width)
    size = [max(side, round(height * scale)), max(side, round(width * scale))]
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return _resize(pictures, size)[:, :, top : top + side, left : left + side]


def _resize(pictures: Tensor, size: list[int]) -> Tensor:
    """Resize bilinearly, antialiased; only the CPU can do that to bytes themselves."""
    if pictures.dtype == torch.uint8 and pictures.device.type != "cpu":
        resized = F.interpolate(pictures.float(), size=size, mode="bilinear", antialias=True)
        return resized.round().clamp(0, 255).to(torch.uint8)
    return F.interpolate(pictures, size=size, mode="bilinear", antialias=True)


def encoder_bytes(backbone: nn.Module, spec: EncoderSpec) -> bytes:
    """Return the safetensors file of an encoder; equal weights give equal bytes."""
    header = json.dumps({"format": FORMAT, **dataclasses.asdict(spec)}, sort_keys=True)
    return tensor_bytes(backbone.state_dict(), {"looktwice": header})


def read_encoder(path: Path) -> Encoder:
    """Read an encoder file written from `encoder_bytes`.

    Raises:
        RunError: the file is missing, damaged, or not an encoder of this version.
    """
    try:
        header = _read_header(path)
    except FileNotFoundError:
        raise RunError(f"no encoder at {path}") from None
    except (OSError, safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is damaged or no safetensors file: {error}") from error
    if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
        raise RunError(f"{path} is not an encoder of this version of looktwice ({FORMAT})")
    try:
        spec = EncoderSpec(**{**header, "mean": tuple(header["mean"]), "std": tuple(header["std"])})
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: its header does not describe an encoder") from error
    backbone = build_backbone(
        spec.backbone, channels=spec.channels, small_stem=spec.small_stem, init=str(path)
    )
    return Encoder(backbone.to(memory_format=torch.channels_last), spec).eval()


def _read_header(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, "pt") as file:
        header: dict[str, Any] = json.loads((file.metadata() or {}).get("looktwice", "{}"))
    return header


def _header(path: Path) -> dict[str, Any]:
    """Return what an encoder file says of itself; nothing for files of other libraries."""
    try:
        return _read_header(path)
    except (OSError, safetensors.SafetensorError, json.JSONDecodeError):
        return {}
