"""The gallery of operations: each alone on one picture, at several strengths."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from looktwice.augment import (
    CLAHE,
    AutoAugment,
    AutoContrast,
    Brightness,
    BrightnessContrast,
    CenterCrop,
    ColorJitter,
    Contrast,
    Crop,
    Cutout,
    Equalize,
    GaussianBlur,
    GaussianNoise,
    Grayscale,
    HorizontalFlip,
    Hue,
    Invert,
    Operation,
    Policy,
    Posterize,
    QuarterTurn,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    Rotation,
    Saturation,
    Sepia,
    Sharpness,
    Sobel,
    Solarize,
)
from looktwice.report.numbers import drawn, plural
from looktwice.report.pictures import Thumbnail, thumbnail
from looktwice.report.preview import Pixels, View, made_views, tell
from looktwice.report.templating import render_page

Step = Crop | Operation

SIDE: Final = 128  # pixels: of the examples, shown as they are
HEIGHTS: Final = (SIDE, 104)  # pixels: on a wide page and on a telephone
DRAWS: Final = 64  # among which an example looks for numbers that were not shown before

EXAMPLES: Final[Mapping[type[Any], Sequence[Step]]] = {
    RandomResizedCrop: [
        RandomResizedCrop(SIDE, scale=(v, v), ratio=(1.0, 1.0)) for v in (0.7, 0.5, 0.3, 0.15, 0.08)
    ],
    CenterCrop: [CenterCrop(SIDE, resize=v) for v in (128, 160, 192, 256, 384)],
    Resize: [Resize(v) for v in (128, 64, 32, 16, 8)],
    HorizontalFlip: [HorizontalFlip()],
    QuarterTurn: [QuarterTurn()] * 4,
    Rotation: [Rotation((v, v)) for v in (-10.0, 10.0, 20.0, 30.0, 45.0)],
    Cutout: [Cutout((v, v)) for v in (0.1, 0.2, 0.3, 0.4, 0.5)],
    RandomErasing: [RandomErasing((v, v)) for v in (0.02, 0.05, 0.1, 0.2, 0.33)],
    ColorJitter: [ColorJitter(v, v, v, v / 4) for v in (0.2, 0.4, 0.6, 0.8, 1.0)],
    Brightness: [Brightness((v, v)) for v in (0.3, 0.6, 0.8, 1.4, 2.0)],
    Contrast: [Contrast((v, v)) for v in (0.0, 0.4, 0.7, 1.5, 2.5)],
    Saturation: [Saturation((v, v)) for v in (0.0, 0.4, 0.7, 1.6, 3.0)],
    Hue: [Hue((v, v)) for v in (-0.25, -0.1, 0.05, 0.2, 0.5)],
    BrightnessContrast: [
        BrightnessContrast((b, b), (c, c))
        for b, c in ((-0.2, 0.0), (0.2, 0.0), (0.0, -0.4), (0.0, 0.4), (0.2, 0.4))
    ],
    Grayscale: [Grayscale()],
    Sepia: [Sepia()],
    Invert: [Invert()],
    Solarize: [Solarize(v) for v in (224, 192, 128, 64, 0)],
    Posterize: [Posterize(v) for v in (5, 4, 3, 2, 1)],
    Equalize: [Equalize()],
    AutoContrast: [AutoContrast()],
    CLAHE: [CLAHE((v, v)) for v in (1.0, 2.0, 4.0, 8.0, 40.0)],
    GaussianBlur: [GaussianBlur((v, v)) for v in (0.5, 1.0, 1.5, 2.0, 4.0)],
    Sharpness: [Sharpness((v, v)) for v in (0.0, 0.5, 2.0, 5.0, 10.0)],
    GaussianNoise: [GaussianNoise((v, v)) for v in (0.02, 0.05, 0.1, 0.2, 0.4)],
    Sobel: [Sobel()],
    AutoAugment: [AutoAugment()] * 5,
}
"""What the gallery shows of every operation, weak to strong: to add one, add its line.

Ranges are single numbers (low == high) where the numbers matter; `p` is taken as 1.
"""


@dataclass(frozen=True)
class Example:
    """A view that one operation made, (S, S, 3) uint8, and the numbers it was made with."""

    pixels: Pixels
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """An operation: its name, what it does, the picture without it, and its examples."""

    name: str
    sentence: str
    before: Pixels
    examples: tuple[Example, ...]


def operation_lines(picture: Pixels) -> list[Line]:
    """Return a line for every operation, from a picture (H, W, C), C in {1, 3}."""
    colours = picture if picture.shape[2] == 3 else picture.repeat(3, axis=2)
    square = Policy(((CenterCrop(SIDE),),))
    plain = _views(square, colours)[0].pixels
    return [
        Line(
            kind.__name__,
            first_sentence(kind),
            plain if issubclass(kind, Operation) else colours,
            _examples(steps, colours),
        )
        for kind, steps in EXAMPLES.items()
    ]


def first_sentence(kind: type[Any]) -> str:
    """Return the first sentence of a class's docstring."""
    text = " ".join((inspect.getdoc(kind) or "").split())
    found = re.match(r".+?\.(?=\s|$)", text)
    return found[0] if found else text


def _examples(steps: Sequence[Step], picture: Pixels) -> tuple[Example, ...]:
    policy = Policy(tuple(_alone(step) for step in steps))
    views = _views(policy, picture)
    if all(step == steps[0] for step in steps):  # chance alone tells them apart
        views = sorted(views, key=lambda view: tuple(_numbers(view).values()))
    return tuple(
        Example(view.pixels, (*_settings(step, steps, view), *tell(_numbers(view))))
        for step, view in zip(steps, views, strict=True)
    )


def _alone(step: Step) -> tuple[Step, ...]:
    """Return a view's steps: a crop is one by itself, an operation follows the same square."""
    if not isinstance(step, Operation):
        return (step,)
    return (CenterCrop(SIDE), cast(Operation, dataclasses.replace(cast(Any, step), p=1.0)))


def _views(policy: Policy, picture: Pixels) -> Sequence[View]:
    """Return the views of one picture, their numbers unlike those before them where they can be."""
    height, width = picture.shape[:2]
    sampled = policy.sample(
        seed=0,
        epoch=0,
        indices=np.arange(DRAWS),
        heights=np.full(DRAWS, height),
        widths=np.full(DRAWS, width),
    )
    rows = sampled[:1].copy()
    shown: list[object] = []
    for view in range(policy.num_views):
        numbers = [policy.describe(row, view) for row in sampled[:, view]]
        telling = (i for i, told in enumerate(numbers) if told[-1][1] and told not in shown)
        chosen = next(telling, 0)
        shown.append(numbers[chosen])
        rows[0, view] = sampled[chosen, view]
    return made_views(policy, rows[0], policy.apply([picture], rows), 0)


def _numbers(view: View) -> dict[str, float]:
    return view.operations[-1][1]


def _settings(step: Step, steps: Sequence[Step], view: View) -> list[str]:
    """Return the fields in which the examples differ and which no sampled number tells."""
    return [
        f"{field.name} {_setting(getattr(step, field.name))}"
        for field in dataclasses.fields(cast(Any, step))
        if field.name not in {"p", *_numbers(view)}
        and len({getattr(other, field.name) for other in steps}) > 1
    ]


def _setting(value: object) -> str:
    """Return a field's value, a range of one number as that number."""
    if isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    return drawn(value) if isinstance(value, int | float) else str(value)


def render_operations(lines: Sequence[Line], picture_name: str) -> str:
    """Return the gallery as a page's text: one offline file, without scripts."""
    return render_page(
        "operations.html.j2",
        many=plural(len(lines), "operation"),
        picture_name=picture_name,
        lines=[
            (line, _shown(line.before), [(_shown(e.pixels), e.captions) for e in line.examples])
            for line in lines
        ],
    )


def _shown(pixels: Pixels) -> Thumbnail:
    return thumbnail(pixels, *HEIGHTS)
