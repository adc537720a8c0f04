"""Changes to a policy that a search tries, one at a time and together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from looktwice.augment import (
    CLAHE,
    AutoContrast,
    BrightnessContrast,
    ColorJitter,
    Cutout,
    Equalize,
    GaussianBlur,
    GaussianNoise,
    Grayscale,
    HorizontalFlip,
    Operation,
    Policy,
    Posterize,
    QuarterTurn,
    Sepia,
    Sobel,
    Solarize,
    to_tables,
)

ADDED: Final[tuple[Operation, ...]] = (
    HorizontalFlip(p=0.5),
    ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
    Grayscale(p=0.2),
    GaussianBlur(p=0.5),
    Solarize(p=0.2),
    CLAHE(p=0.2),
    BrightnessContrast(p=0.2),
    Posterize(p=0.2),
    Equalize(p=0.2),
    AutoContrast(p=0.2),
    Sepia(p=0.2),
    Cutout(p=0.5),
    GaussianNoise(p=0.5),
    Sobel(p=0.2),
    QuarterTurn(p=0.5),
)
"""What is added where a policy has it not: SimCLR's and aug+'s operations, at their sources'
probabilities where these say one."""

STRENGTHS: Final = (0.25, 0.5, 1.5, 2.0)
SMALLEST_CROPS: Final = (0.04, 0.08, 0.2, 0.35, 0.5)
SIDES: Final = (0.5, 0.75, 1.5)

_JITTER_PARTS: Final = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class Edit:
    """One change.

    Attributes:
        name: in words.
        kind: edits of one kind exclude each other.
        change: what it does to a policy.
    """

    name: str
    kind: str
    change: Callable[[Policy], Policy]


def edits(policy: Policy, channels: int, largest: int) -> Iterator[Edit]:
    """Yield what can be changed about a policy: leave out, leave in, strengths, crops, sides.

    Args:
        policy: to start from; its first view stands for all.
        channels: 1 leaves out what needs colours.
        largest: side of views in pixels, above which they would be blown up.
    """
    present = [step.name for step in policy.views[0][1:]]
    for name in dict.fromkeys(present):
        yield Edit(f"without {name}", name, lambda p, n=name: p.without(n))  # type: ignore[misc]
    for step in ADDED:
        grey_alike = channels == 1 and (step.colour_only or step.name == "gray")
        if step.name not in present and not grey_alike:
            yield Edit(f"with {step.name}", step.name, lambda p, s=step: p.then(s))  # type: ignore[misc]
    if "jitter" in present:
        for factor in STRENGTHS:
            yield Edit(f"jitter × {factor:g}", "jitter", _stronger(factor))
    crop: Any = policy.views[0][0]
    if hasattr(crop, "scale"):
        for low in SMALLEST_CROPS:
            if low != crop.scale[0] and low < crop.scale[1]:
                yield Edit(f"crops from {low:g}", "crop", _cropped(low))
        for share in SIDES:
            side = max(8, round(policy.size * share))
            if side <= max(largest, policy.size):
                yield Edit(f"views of {side} px", "side", _sized(side))


def _stronger(factor: float) -> Callable[[Policy], Policy]:
    def change(policy: Policy) -> Policy:
        jitter: Any = next(step for step in policy.views[0] if step.name == "jitter")
        parts = {part: factor * getattr(jitter, part) for part in _JITTER_PARTS}
        parts["hue"] = min(0.5, parts["hue"])
        return policy.replace("jitter", **parts)

    return change


def _cropped(low: float) -> Callable[[Policy], Policy]:
    def change(policy: Policy) -> Policy:
        crop: Any = policy.views[0][0]
        return policy.replace("crop", scale=(low, crop.scale[1]))

    return change


def _sized(side: int) -> Callable[[Policy], Policy]:
    return lambda policy: policy.replace("crop", size=side)


def edited(policy: Policy, chosen: tuple[Edit, ...]) -> Policy:
    """Return a policy with several changes, which exclude each other nowhere."""
    for edit in chosen:
        policy = edit.change(policy)
    return policy


def as_settings(policy: Policy) -> dict[str, object]:
    """Return a policy as settings of a run."""
    return {"augment.views": json.loads(json.dumps(to_tables(policy)))}
