"""Crops: what a view begins with. `resample` carries them out; here is which box they take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final, final

from looktwice.augment.operations.base import (
    INTERPOLATIONS,
    MAX_SIZE,
    Interpolation,
    check_choice,
    check_range,
    check_whole,
)

BOX: Final = ("top", "left", "height", "width")
"""What a row holds for every crop, in pixels of the picture."""


@final
@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut a random box and resize it, antialiased, to `size` x `size`.

    The box is torchvision's `RandomResizedCrop.get_params`: ten tries, then the central crop.

    Attributes:
        size: side of the result in pixels, 1-4096.
        scale: range of the box's area as a share of the picture, within (0, 1].
        ratio: range of the box's width / height, drawn uniformly in its logarithm.
        interpolation: "bilinear" or "bicubic" (a = -0.5).

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "crop"

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_whole(owner, "size", self.size, 1, MAX_SIZE)
        check_range(owner, "scale", self.scale, 1e-6, 1.0)
        check_range(owner, "ratio", self.ratio, 0.01, 100.0)
        check_choice(owner, "interpolation", self.interpolation, INTERPOLATIONS)

    def constants(self) -> tuple[float, ...]:
        """Return the interpolation, 0 for a crop at random, scale, log of ratio, ratio."""
        log_ratio = (math.log(self.ratio[0]), math.log(self.ratio[1]))
        kind = INTERPOLATIONS[self.interpolation]
        return (kind, 0.0, *self.scale, *log_ratio, *self.ratio)


@final
@dataclass(frozen=True)
class CenterCrop:
    """Resize the shorter side, antialiased, to `resize`, and cut the centre of `size` x `size`.

    This is torchvision's `Resize(resize)` and `CenterCrop(size)`, without the pixels between.

    Attributes:
        size: side of the result in pixels, 1-4096.
        resize: the shorter side before the cut, at least `size`; None takes `size`.
        interpolation: "bilinear" or "bicubic" (a = -0.5).

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "center-crop"

    size: int
    resize: int | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_whole(owner, "size", self.size, 1, MAX_SIZE)
        if self.resize is not None:
            check_whole(owner, "resize", self.resize, self.size, 2 * MAX_SIZE)
        check_choice(owner, "interpolation", self.interpolation, INTERPOLATIONS)

    def constants(self) -> tuple[float, ...]:
        """Return the interpolation, 1 for a central crop, the sides after and before the cut."""
        kind = INTERPOLATIONS[self.interpolation]
        return (kind, 1.0, self.size, self.size if self.resize is None else self.resize)


@final
@dataclass(frozen=True)
class Resize:
    """Resize the whole picture, antialiased, to `size` x `size`, whatever its shape.

    Attributes:
        size: side of the result in pixels, 1-4096.
        interpolation: "bilinear" or "bicubic" (a = -0.5).

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "resize"

    size: int
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_whole(owner, "size", self.size, 1, MAX_SIZE)
        check_choice(owner, "interpolation", self.interpolation, INTERPOLATIONS)

    def constants(self) -> tuple[float, ...]:
        """Return the interpolation, and 2 for the whole picture."""
        return (INTERPOLATIONS[self.interpolation], 2.0)


Crop = RandomResizedCrop | CenterCrop | Resize
"""What every view begins with, and nothing else may be."""
