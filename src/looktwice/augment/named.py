"""The policies that papers name, every number open to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

from looktwice.augment.operations import (
    CLAHE,
    AutoAugment,
    BrightnessContrast,
    CenterCrop,
    ColorJitter,
    Cutout,
    GaussianBlur,
    GaussianNoise,
    Grayscale,
    HorizontalFlip,
    Interpolation,
    Operation,
    Posterize,
    QuarterTurn,
    RandomResizedCrop,
    Sepia,
    Sobel,
    Solarize,
)
from looktwice.augment.operations.base import MAX_SIZE, check_number, check_whole
from looktwice.augment.operations.colour import JITTER_PARTS
from looktwice.augment.policy import MAX_VIEWS, Policy, View
from looktwice.errors import UsageError, did_you_mean

_JITTER: Final = ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)
_GRAY: Final = Grayscale(0.2)
_FLIP: Final = HorizontalFlip(0.5)
_BLUR: Final = GaussianBlur(p=0.5)
# The sides below which pictures are evaluated whole, as CIFAR's are, not cut from larger ones.
_SMALL: Final = 64


def _simclr(size: int) -> tuple[View, ...]:
    jitter = ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8)
    return ((RandomResizedCrop(size), _FLIP, jitter, _GRAY, _BLUR),)


def _simclr_cifar(size: int) -> tuple[View, ...]:
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)
    return ((RandomResizedCrop(size), _FLIP, jitter, _GRAY),)


def _moco_v1(size: int) -> tuple[View, ...]:
    crop = RandomResizedCrop(size, scale=(0.2, 1.0))
    return ((crop, _GRAY, ColorJitter(0.4, 0.4, 0.4, 0.4), _FLIP),)


def _moco_v2(size: int) -> tuple[View, ...]:
    return ((RandomResizedCrop(size, scale=(0.2, 1.0)), _JITTER, _GRAY, _BLUR, _FLIP),)


def _moco_v3(size: int) -> tuple[View, ...]:
    start = RandomResizedCrop(size), ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8), _GRAY
    return (
        (*start, GaussianBlur(p=1.0), _FLIP),
        (*start, GaussianBlur(p=0.1), Solarize(p=0.2), _FLIP),
    )


def _moco_cifar(size: int) -> tuple[View, ...]:
    return ((RandomResizedCrop(size), _FLIP, _JITTER, _GRAY),)


def _autoaugment(size: int) -> tuple[View, ...]:
    return ((RandomResizedCrop(size), _FLIP, AutoAugment()),)


def _supervised(size: int) -> tuple[View, ...]:
    return ((RandomResizedCrop(size), _FLIP),)


def _eval(size: int) -> tuple[View, ...]:
    return ((CenterCrop(size, size if size <= _SMALL else round(size * 256 / 224)),),)


_ADDED: Final[Mapping[str, Operation]] = {
    "solarize": Solarize(p=0.2),
    "clahe": CLAHE(p=0.2),
    "brightness": BrightnessContrast(contrast=(0.0, 0.0), p=0.2),
    "brightness-contrast": BrightnessContrast(p=0.2),
    "blur": _BLUR,
    "sepia": Sepia(p=0.2),
    "posterize": Posterize(p=0.2),
}
"""What the variants of `aug-plus` add to its base, in the order in which they are applied."""


def _aug_plus(*added: str, jitter: ColorJitter = _JITTER) -> Callable[[int], tuple[View, ...]]:
    def views(size: int) -> tuple[View, ...]:
        crop = RandomResizedCrop(size, interpolation="bicubic")
        return ((crop, jitter, _FLIP, _GRAY, *(_ADDED[name] for name in added)),)

    return views


# Sources. simclr: arXiv 2002.05709, appendix A; -cifar: B.9. moco: arXiv 1911.05722, 2003.04297,
# 2104.02057 (numbers of facebookresearch/moco, moco-v3 and moco's CIFAR-10 notebook).
# autoaugment: table 1 of SimCLR. aug-plus: soonwonh/Modified-Moco, and what it tried alone; where
# it states no probability (sepia, posterize, brightness-contrast) that of its other additions
# stands, for the blur MoCo's. Its schedule raises the strength of the jitter from .4 by .2 every
# 50 epochs; we scale the hue with it.
NAMED: Final[Mapping[str, Callable[[int], tuple[View, ...]]]] = {
    "simclr": _simclr,
    "simclr-cifar": _simclr_cifar,
    "moco-v1": _moco_v1,
    "moco-v2": _moco_v2,
    "moco-v3": _moco_v3,
    "moco-cifar": _moco_cifar,
    "autoaugment": _autoaugment,
    "supervised": _supervised,
    "eval": _eval,
    "aug-plus": _aug_plus("solarize", "clahe", "brightness"),
    "aug-plus-base": _aug_plus(),
    "aug-plus-solarize": _aug_plus("solarize"),
    "aug-plus-clahe": _aug_plus("clahe"),
    "aug-plus-brightness": _aug_plus("brightness"),
    "aug-plus-brightness-contrast": _aug_plus("brightness-contrast"),
    "aug-plus-solarize-clahe": _aug_plus("solarize", "clahe"),
    "aug-plus-solarize-brightness": _aug_plus("solarize", "brightness"),
    "aug-plus-clahe-brightness": _aug_plus("clahe", "brightness"),
    "aug-plus-blur": _aug_plus("blur"),
    "aug-plus-no-gray": lambda size: tuple(
        tuple(step for step in view if step is not _GRAY) for view in _aug_plus()(size)
    ),
    "aug-plus-sepia": _aug_plus("sepia"),
    "aug-plus-posterize": _aug_plus("posterize"),
    "aug-plus-schedule": _aug_plus(
        jitter=ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8, schedule=((50, 1.5), (100, 2.0), (150, 2.5)))
    ),
}
"""Name to the distinct views of its source, for views of some size."""

BRANCH: Final[Mapping[str, tuple[Operation, ...]]] = {
    "crop": (),
    "cutout": (Cutout(p=0.5),),
    "color": (ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8), _GRAY),
    "sobel": (Sobel(p=0.5),),
    "noise": (GaussianNoise(p=0.5),),
    "blur": (_BLUR,),
    "rotate": (QuarterTurn(p=1.0),),
}
"""SimCLR's figure 5, by its names; the probabilities that the paper does not state are ours."""

DERIVED: Final[Mapping[str, str]] = {
    "downcrop": "aug-plus-base",
    "triple-crop": "aug-plus-base",
    "multi-crop": "simclr",
    "one-branch": "simclr",
}
"""Name to the policy that it is made from unless another is given."""

# Multi-crop: arXiv 2006.09882, section 4 and appendix A: 2 x 224 and 6 x 96.
_LARGE_SCALE: Final = (0.14, 1.0)
_SMALL_SCALE: Final = (0.05, 0.14)


def policy(
    name: str,
    *,
    size: int,
    base: str | None = None,
    strength: float | None = None,
    min_scale: float | None = None,
    max_scale: float | None = None,
    interpolation: Interpolation | None = None,
    flip_p: float | None = None,
    jitter_p: float | None = None,
    gray_p: float | None = None,
    blur: bool | None = None,
    blur_p: float | None = None,
    num_views: int | None = None,
    small_views: int | None = None,
    small_size: int | None = None,
    operations: tuple[str, ...] = (),
) -> Policy:
    """Return a named policy; None stands for what the policy's source uses.

    Four names are made from another policy, `base`: "downcrop" crops it to a smaller `size` with
    another `min_scale` (0.2 unless given); "triple-crop" takes three of its views; "multi-crop"
    two large and some small ones; "one-branch" one of its views, or of a chain of `operations`,
    and one that is only cropped. To go further, use the methods of `Policy`.

    Args:
        name: one of `NAMED` or `DERIVED`.
        size: side of the views in pixels, 1-4096.
        base: one of `NAMED`, for those of `DERIVED`.
        strength: factor on the colour jitter's four strengths, at least 0 and 1 as in the source.
        min_scale: smallest area of the crop as a share of the picture, 0-1.
        max_scale: largest area, 0-1.
        interpolation: "bilinear" or "bicubic".
        flip_p: probability of the horizontal flip, 0-1.
        jitter_p: probability of the colour jitter, 0-1.
        gray_p: probability of the picture without colours, 0-1.
        blur: False leaves the blur out; True puts it in, with p 0.5, where the source has none.
        blur_p: probability of the blur, 0-1.
        num_views: number of views, 1-255, the source's in turn.
        small_views: number of small views of "multi-crop", 1-255; 6 unless given.
        small_size: their side in pixels; 96 / 224 of `size` unless given.
        operations: what "one-branch" applies instead of its base: some of `BRANCH`, in order.

    Returns:
        The policy; an operation of probability 0 is left out of it.

    Raises:
        UsageError: an unknown name, a value out of its range, or what the name does not take.
    """
    known = (*NAMED, *DERIVED)
    if name not in known:
        raise UsageError(f"no policy is called {name!r}.{did_you_mean(str(name), known)}")
    _check_taken(name, base, num_views, small_views, small_size, operations)
    source = base or DERIVED.get(name, name)
    if source not in NAMED:
        raise UsageError(
            f"policy {name!r}: no base is called {source!r}.{did_you_mean(str(source), NAMED)}"
        )
    check_whole(f"policy {name!r}", "size", size, 1, MAX_SIZE)
    if strength is not None:
        check_number("policy", "strength", strength, 0.0, 100.0)
    plain = NAMED[source](size)
    if operations:
        plain = ((plain[0][0], *_branch(operations)),)
    edits = {"flip": flip_p, "jitter": jitter_p, "gray": gray_p, "blur": _blur_p(blur, blur_p)}
    if blur and blur_p is None and _has(plain, "blur"):
        edits["blur"] = None
    if name == "downcrop" and min_scale is None:
        min_scale = 0.2
    views = tuple(
        _edited(view, strength, min_scale, max_scale, interpolation, edits) for view in plain
    )
    match name:
        case "triple-crop":
            return Policy(_cycled(views, 3))
        case "multi-crop":
            return _multi_crop(views, size, min_scale, max_scale, small_views, small_size)
        case "one-branch":
            return Policy((views[0], views[0][:1]))
    default = 1 if name in ("supervised", "eval") else 2
    return Policy(_cycled(views, default if num_views is None else num_views))


def _check_taken(
    name: str,
    base: str | None,
    num_views: int | None,
    small_views: int | None,
    small_size: int | None,
    operations: tuple[str, ...],
) -> None:
    """Refuse what a name does not take (UsageError)."""
    fixed = ("triple-crop", "multi-crop", "one-branch")
    owner = f"policy {name!r}"
    if base is not None and name not in DERIVED:
        raise UsageError(f"{owner} is made from no base; only {', '.join(DERIVED)} are")
    if num_views is not None:
        if name in fixed:
            raise UsageError(f"{owner} fixes the number of its views; leave num_views out")
        check_whole(owner, "num_views", num_views, 1, MAX_VIEWS)
    if (small_views is not None or small_size is not None) and name != "multi-crop":
        raise UsageError(f"{owner} has no small views; only 'multi-crop' has")
    if operations and name != "one-branch":
        raise UsageError(f"{owner} takes no operations; only 'one-branch' does")


def _blur_p(blur: bool | None, blur_p: float | None) -> float | None:
    if blur is False and blur_p:
        raise UsageError(f"policy: blur is False but blur_p is {blur_p}; give one of the two")
    if blur_p is None and blur is not None:
        return 0.5 if blur else 0.0
    return blur_p


def _has(views: tuple[View, ...], name: str) -> bool:
    return any(step.name == name for view in views for step in view)


_WITHOUT: Final[Mapping[str, Operation]] = {
    "flip": _FLIP, "jitter": _JITTER, "gray": _GRAY, "blur": _BLUR
}  # fmt: skip
"""What is added where a source has no such operation but a probability for it is given."""


def _edited(
    view: View,
    strength: float | None,
    min_scale: float | None,
    max_scale: float | None,
    interpolation: Interpolation | None,
    probabilities: Mapping[str, float | None],
) -> View:
    """Return a view with some numbers changed; None changes nothing."""
    crop: Any = view[0]
    if isinstance(crop, RandomResizedCrop):
        low, high = crop.scale
        low, high = (
            low if min_scale is None else min_scale,
            high if max_scale is None else max_scale,
        )
        crop = dataclasses.replace(crop, scale=(low, high))
    elif (min_scale, max_scale) != (None, None):
        raise UsageError(f"policy: {type(crop).__name__} has no scale; leave min and max_scale out")
    if interpolation is not None:
        crop = dataclasses.replace(crop, interpolation=interpolation)
    steps: list[Any] = list(view[1:])
    for name, p in probabilities.items():
        if p is not None:
            if name not in [step.name for step in steps]:
                steps.append(_WITHOUT[name])
            steps = [dataclasses.replace(s, p=p) if s.name == name else s for s in steps]
    steps = [_stronger(step, strength) for step in steps if step.p > 0.0]
    return (crop, *steps)


def _stronger(step: Operation, strength: float | None) -> Operation:
    """Return a colour jitter with its strengths multiplied, anything else as it is."""
    if strength is None or not isinstance(step, ColorJitter):
        return step
    parts = {name: strength * getattr(step, name) for name in JITTER_PARTS}
    return dataclasses.replace(step, **parts)


def _cycled(views: tuple[View, ...], count: int) -> tuple[View, ...]:
    return tuple(views[v % len(views)] for v in range(count))


def _multi_crop(
    views: tuple[View, ...],
    size: int,
    min_scale: float | None,
    max_scale: float | None,
    small_views: int | None,
    small_size: int | None,
) -> Policy:
    """Return two large views and some small ones, all of the base's operations."""
    owner = "policy 'multi-crop'"
    count = 6 if small_views is None else small_views
    side = max(1, round(size * 96 / 224)) if small_size is None else small_size
    check_whole(owner, "small_views", count, 1, MAX_VIEWS - 2)
    check_whole(owner, "small_size", side, 1, size)
    low, high = _LARGE_SCALE
    large = (low if min_scale is None else min_scale, high if max_scale is None else max_scale)

    def cropped(view: View, side: int, scale: tuple[float, float]) -> View:
        crop: Any = view[0]
        return (dataclasses.replace(crop, size=side, scale=scale), *view[1:])

    return Policy(
        tuple(cropped(view, size, large) for view in _cycled(views, 2))
        + tuple(cropped(view, side, _SMALL_SCALE) for view in _cycled(views, count))
    )


def _branch(operations: tuple[str, ...]) -> tuple[Operation, ...]:
    for name in operations:
        if name not in BRANCH:
            raise UsageError(
                f"policy 'one-branch': no operation is called {name!r}; there are "
                f"{', '.join(BRANCH)}.{did_you_mean(str(name), BRANCH)}"
            )
    return tuple(step for name in operations for step in BRANCH[name])
