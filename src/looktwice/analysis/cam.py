"""Where in a picture a score comes from: Grad-CAM, by captum.

Selvaraju et al., arXiv 1610.02391, equations 1 and 2: each channel of the last feature map is
weighted by the mean of the score's gradient over that map; what is positive of the sum is kept.
An encoder has no classes, so the score is the cosine of its features with those of another
picture; a linear probe's classes are scores too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looktwice.errors import UsageError
from looktwice.models import Encoder

EQUAL = 1e-6
"""Of a cosine: nearer to 1 than this, in float32, features have the same direction."""

Score = Callable[[Tensor], Tensor]


def similarity_cam(encoder: Encoder, pictures: Tensor, others: Tensor) -> Tensor:
    """Show what in each picture makes its features those of another: of a neighbour, or a view.

    Args:
        encoder: whose features; it needs a feature map, see `last_map`.
        pictures: uint8 (N, C, H, W).
        others: uint8 (N, C, H, W), the picture to compare each with. A picture with itself gives
            zeros: its cosine is at its highest, so no gradient is left.

    Returns:
        float32 (N, S, S), S the side at which pictures enter; 0 to 1, the most of each picture 1;
        all 0 where nothing speaks for the similarity.

    Raises:
        UsageError: the encoder has no feature map.
    """
    known, own = (encoder(many.to(encoder.mean.device)) for many in (others, pictures))
    equal = F.cosine_similarity(own, known) > 1 - EQUAL
    cam = _shown(encoder, pictures, lambda h: F.cosine_similarity(h, known))
    # At the highest cosine the gradient is rounding, and would be scaled up to a whole map.
    return torch.where(equal.cpu()[:, None, None], 0.0, cam)


def class_cam(encoder: Encoder, pictures: Tensor, scores: Score, classes: Tensor) -> Tensor:
    """Show what in each picture speaks for a class.

    Args:
        encoder: whose features the scores are of.
        pictures: uint8 (N, C, H, W).
        scores: maps features (N, D) to (N, num_classes), differentiably.
        classes: int64 (N,), the class to explain of each picture.

    Returns, Raises:
        As `similarity_cam`.
    """

    def score(h: Tensor) -> Tensor:
        found = scores(h)
        return found.gather(1, classes[:, None].to(found.device))[:, 0]

    return _shown(encoder, pictures, score)


def check_map(encoder: Encoder) -> None:
    """Raise UsageError where an encoder has no feature map, before anything is computed."""
    side, channels = encoder.spec.image_size, encoder.spec.channels
    last_map(encoder.backbone, torch.zeros(1, channels, side, side, device=encoder.mean.device))


def _shown(encoder: Encoder, pictures: Tensor, score: Score) -> Tensor:
    x = encoder.normalize(encoder.prepare(pictures.to(encoder.mean.device)))
    layer = last_map(encoder.backbone, x[:1])
    cam = grad_cam(encoder.backbone, layer, x, score)[:, None]
    cam = F.interpolate(cam, size=x.shape[2:], mode="bilinear")[:, 0].cpu()
    most = cam.amax(dim=(1, 2), keepdim=True)
    return torch.where(most > 0, cam / most.clamp(min=torch.finfo(cam.dtype).tiny), 0.0)


def grad_cam(backbone: nn.Module, layer: nn.Module, x: Tensor, score: Score) -> Tensor:
    """Return Grad-CAM (N, h, w), 0 or more, at the size of a layer's map, in the dtype of x.

    Args:
        backbone: maps x to features (N, D), each row by itself (eval mode).
        layer: a module of it with output (N, C, h, w).
        x: (N, channels, H, W), normalised.
        score: maps features to (N,), each row by itself.
    """
    from captum.attr import LayerGradCam  # a second of import, paid only here

    attribution = LayerGradCam(lambda pictures: score(backbone(pictures)), layer)
    found: Tensor = attribution.attribute(x, relu_attributions=True)
    return found[:, 0].detach()


def last_map(backbone: nn.Module, x: Tensor) -> nn.Module:
    """Return the module that makes the last feature map with more than one place.

    Args:
        backbone: in eval mode.
        x: (1, channels, S, S), to look at what each module gives.

    Raises:
        UsageError: there is none, or what follows it is no map any more but tokens, as in a ViT.
    """
    last: nn.Module | None = None

    def look(module: nn.Module, _: object, output: object) -> None:
        nonlocal last
        if isinstance(output, Tensor):
            if _is_map(output):
                last = module
            elif _is_tokens(output):
                last = None

    hooks = [module.register_forward_hook(look) for module in backbone.modules()]
    try:
        with torch.no_grad():
            backbone(x)
    finally:
        for hook in hooks:
            hook.remove()
    if last is None or last is backbone:
        raise UsageError(
            f"CAM needs a backbone that ends in a feature map (N, C, h, w), as ResNets do; "
            f"{type(backbone).__name__} does not at {x.shape[-1]} px: leave it out with --no-cam"
        )
    return last


def _is_map(output: Tensor) -> bool:
    # Pictures are square, and so are their maps: (N, h, w, C) of a Swin is none.
    return output.ndim == 4 and output.shape[2] == output.shape[3] > 1


def _is_tokens(output: Tensor) -> bool:
    return output.ndim == 3 or (output.ndim == 4 and output.shape[2:] != (1, 1))
