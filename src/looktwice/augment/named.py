"""The policies that papers name, every number open to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from looktwice.augment.operations import (
    ColorJitter,
    Crop,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Interpolation,
    Operation,
    RandomResizedCrop,
)
from looktwice.augment.operations.base import check_number, check_whole
from looktwice.augment.policy import MAX_VIEWS, Policy
from looktwice.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class _Named:
    """What a paper fixes: jitter at strength 1, probabilities, and the order of operations."""

    jitter: tuple[float, float, float, float]
    min_scale: float
    jitter_p: float
    blur_p: float
    order: tuple[str, ...]


# SimCLR: arXiv 2002.05709, appendix A. MoCo: facebookresearch/moco, main_moco.py
# (v1: arXiv 1911.05722; v2, `--aug-plus`: arXiv 2003.04297).
NAMED: Final[Mapping[str, _Named]] = {
    "simclr": _Named((0.8, 0.8, 0.8, 0.2), 0.08, 0.8, 0.5, ("flip", "jitter", "gray", "blur")),
    "moco-v1": _Named((0.4, 0.4, 0.4, 0.4), 0.2, 1.0, 0.0, ("gray", "jitter", "blur", "flip")),
    "moco-v2": _Named((0.4, 0.4, 0.4, 0.1), 0.2, 0.8, 0.5, ("jitter", "gray", "blur", "flip")),
}


def policy(
    name: str,
    *,
    size: int,
    strength: float = 1.0,
    min_scale: float | None = None,
    max_scale: float = 1.0,
    flip_p: float = 0.5,
    jitter_p: float | None = None,
    gray_p: float = 0.2,
    blur: bool | None = None,
    blur_p: float | None = None,
    interpolation: Interpolation = "bilinear",
    num_views: int = 2,
) -> Policy:
    """Return a named policy with equal views; None stands for what the policy's source uses.

    Args:
        name: "simclr", "moco-v1" or "moco-v2".
        size: side of the views in pixels, 1-4096.
        strength: factor on the colour jitter's four strengths, at least 0.
        min_scale: smallest area of the crop as a share of the picture, 0-1.
        max_scale: largest area, 0-1.
        flip_p: probability of the horizontal flip, 0-1.
        jitter_p: probability of the colour jitter, 0-1.
        gray_p: probability of the picture without colours, 0-1.
        blur: False leaves the blur out; True puts it in where the source has none.
        blur_p: probability of the blur, 0-1; 0.5 where the source has none and `blur` is True.
        interpolation: "bilinear" or "bicubic".
        num_views: number of views, 1-255.

    Returns:
        The policy; an operation of probability 0 is left out of it.

    Raises:
        UsageError: an unknown name, a value out of its range, or `blur=False` with a `blur_p`.
    """
    if name not in NAMED:
        raise UsageError(f"no policy is called {name!r}.{did_you_mean(str(name), NAMED)}")
    named = NAMED[name]
    owner = f"policy {name!r}"
    check_number(owner, "strength", strength, 0.0, 100.0)
    check_whole(owner, "num_views", num_views, 1, MAX_VIEWS)
    brightness, contrast, saturation, hue = (strength * value for value in named.jitter)
    choices: dict[str, ColorJitter | HorizontalFlip | Grayscale | GaussianBlur] = {
        "flip": HorizontalFlip(flip_p),
        "jitter": ColorJitter(
            brightness, contrast, saturation, hue, named.jitter_p if jitter_p is None else jitter_p
        ),
        "gray": Grayscale(gray_p),
        "blur": GaussianBlur(p=_blur_probability(named, blur, blur_p)),
    }
    crop = RandomResizedCrop(
        size,
        scale=(named.min_scale if min_scale is None else min_scale, max_scale),
        interpolation=interpolation,
    )
    chosen = [choices[kind] for kind in named.order]
    view: tuple[Crop | Operation, ...] = (crop, *(o for o in chosen if o.p > 0.0))
    return Policy((view,) * num_views)


def _blur_probability(named: _Named, blur: bool | None, blur_p: float | None) -> float:
    if blur is False:
        if blur_p:
            raise UsageError(f"policy: blur is False but blur_p is {blur_p}; give one of the two")
        return 0.0
    if blur_p is not None:
        return blur_p
    return 0.5 if blur else named.blur_p
