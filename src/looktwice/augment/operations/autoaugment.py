"""AutoAugment's policy for ImageNet: Cubuk et al., arXiv 1805.09501, table 9."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import Kernel, flat, inlined, kernel
from looktwice.augment.operations.base import Draw, Operation, Uniform, Whole, check_probability
from looktwice.augment.operations.colour import contrast, saturate
from looktwice.augment.operations.filters import sharpen
from looktwice.augment.operations.geometry import affine_nearest, copy_planes, rotation_matrix
from looktwice.augment.operations.tones import (
    EQUALIZE_ROOM,
    autocontrast,
    equalize,
    invert,
    posterize,
    solarize,
)

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Step = tuple[str, float, int]

# (operation, probability, magnitude 0-9) of both steps; 0 where an operation has no strength.
SUB_POLICIES: Final[tuple[tuple[Step, Step], ...]] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("saturation", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("saturation", 1.0, 2)),
    (("saturation", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear-x", 0.6, 5), ("equalize", 1.0, 0)),
    (("saturation", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)
_LAST_BIN: Final = 9
# Operations in the numbers' order, and what a magnitude of 0 and one of 9 mean to them.
_ENDS: Final[Mapping[str, tuple[float, float]]] = {
    "shear-x": (0.0, 0.3),
    "rotate": (0.0, 30.0),
    "saturation": (0.0, 0.9),
    "contrast": (0.0, 0.9),
    "sharpness": (0.0, 0.9),
    "posterize": (8.0, 4.0),
    "solarize": (1.0, 0.0),
    "autocontrast": (0.0, 0.0),
    "equalize": (0.0, 0.0),
    "invert": (0.0, 0.0),
}
_NUMBERS: Final[Mapping[str, int]] = {name: number for number, name in enumerate(_ENDS)}
_SHEAR_X, _ROTATE, _SATURATION, _CONTRAST, _SHARPNESS = range(5)
_POSTERIZE, _SOLARIZE, _AUTOCONTRAST, _EQUALIZE, _INVERT = range(5, 10)
_FACTORS: Final = ("saturation", "contrast", "sharpness")
_SIGNED: Final = ("shear-x", "rotate", *_FACTORS)


def _magnitude(name: str, level: int) -> float:
    """Return what a magnitude 0-9 means, as `torch.linspace` divides the range in float32."""
    low, high = (np.float32(end) for end in _ENDS[name])
    step = (high - low) / np.float32(_LAST_BIN)
    value = low + step * level if 2 * level <= _LAST_BIN else high - step * (_LAST_BIN - level)
    if name == "posterize":
        return float(np.rint(value))
    return 255.0 * float(value) if name == "solarize" else float(value)


# Number of the operation, probability and magnitude of each step: float64 (25, 2, 3).
_TABLE: Final = np.array(
    [[(_NUMBERS[n], p, _magnitude(n, level)) for n, p, level in steps] for steps in SUB_POLICIES]
)


@inlined
def _affine(planes: Bytes, shear: bool, amount: float, room: Bytes) -> None:
    """Shear so that the top row stays, or rotate by degrees; what is left free is black."""
    half = 0.5 * planes.shape[1]
    sheared = (1.0, amount, (half + amount * half) - half, 0.0, 1.0, 0.0)
    matrix = sheared if shear else rotation_matrix(amount)
    affine_nearest(planes, copy_planes(planes, room), matrix, np.uint8(0))


@inlined
def _blend(planes: Bytes, number: int, factor: float, room: Bytes) -> None:
    """Change saturation, contrast or sharpness; grey has no saturation."""
    levels = flat(planes)
    if number == _SHARPNESS:
        sharpen(planes, factor, room)
    elif number == _CONTRAST:
        contrast(levels, np.float32(factor), np.float32(1.0 - factor))
    elif planes.shape[0] == 3:
        saturate(levels, np.float32(factor), np.float32(1.0 - factor))


@inlined
def _apply(planes: Bytes, number: int, amount: float, room: Bytes) -> None:
    if number <= _ROTATE:
        _affine(planes, number == _SHEAR_X, amount, room)
    elif number <= _SHARPNESS:
        _blend(planes, number, 1.0 + amount, room)
    elif number == _POSTERIZE:
        posterize(planes, int(amount))
    elif number == _SOLARIZE:
        solarize(planes, amount)
    elif number == _AUTOCONTRAST:
        autocontrast(planes)
    elif number == _EQUALIZE:
        equalize(planes, room)
    else:
        invert(planes)


@kernel
def _autoaugment(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    steps = _TABLE[int(drawn[0])]
    for place in range(2):
        number, probability, magnitude = steps[place]
        if drawn[1 + place] < probability:
            negative = number <= _SHARPNESS and drawn[3 + place] == 1.0
            _apply(planes, int(number), -magnitude if negative else magnitude, room)


@final
@dataclass(frozen=True)
class AutoAugment(Operation):
    """Apply one of 25 pairs of operations, each step with a probability and strength of its own.

    It is torchvision v2's `AutoAugment` with the policy for ImageNet: the same operations on
    uint8, magnitudes of ten bins with a random sign, nearest pixels and black where a picture is
    turned. "Color" is called saturation. Pictures of one channel have none.

    Attributes:
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "autoaugment"
    kernel: ClassVar[Kernel] = _autoaugment

    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return the pair, and for each step a number to hold its probability to, and its sign."""
        return {
            "sub_policy": Whole(0, len(SUB_POLICIES)),
            "first_chance": Uniform(0.0, 1.0),
            "second_chance": Uniform(0.0, 1.0),
            "first_negative": Whole(0, 2),
            "second_negative": Whole(0, 2),
        }

    def room(self, size: int, channels: int, /) -> int:
        """Return room for the counts of levels, or for a line of int32 and the planes."""
        return max(EQUALIZE_ROOM, 4 * size + channels * size * size)

    def describe(self, drawn: Mapping[str, float]) -> dict[str, float]:
        """Return the operations that were applied, in their order, and how strongly.

        Degrees of the rotation, pixels across for each pixel down of the shear, the factors of
        saturation, contrast and sharpness, the bits that posterizing keeps, the level from which
        on is solarized; of the others how many times they were applied.
        """
        told: dict[str, float] = {}
        steps = SUB_POLICIES[int(drawn["sub_policy"])]
        for place, (name, probability, level) in zip(("first", "second"), steps, strict=True):
            if drawn[f"{place}_chance"] < probability:
                negative = name in _SIGNED and drawn[f"{place}_negative"] == 1.0
                amount = _magnitude(name, level) * (-1.0 if negative else 1.0)
                if name in ("autocontrast", "equalize", "invert"):
                    told[name] = told.get(name, 0.0) + 1.0
                    continue
                key = f"{name} again" if name in told else name
                told[key] = 1.0 + amount if name in _FACTORS else amount
        return told
