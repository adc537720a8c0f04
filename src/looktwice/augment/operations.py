"""What can be done to a picture: frozen descriptions with their ranges, no pixels and no Numba.

To add an operation: its dataclass here, its sampler in `sampling`, its kernel in `kernels`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, final

from looktwice.errors import UsageError, did_you_mean

Interpolation = Literal["bilinear", "bicubic"]
INTERPOLATIONS: Final[Mapping[str, int]] = {"bilinear": 0, "bicubic": 1}
JITTER_PARTS: Final = ("brightness", "contrast", "saturation", "hue")
# Every order of the four parts; a row holds the position in this list.
JITTER_ORDERS: Final = tuple(
    (a, b, c, 6 - a - b - c)
    for a in range(4)
    for b in range(4)
    for c in range(4)
    if len({a, b, c}) == 3
)
MAX_SIZE: Final = 4096
MAX_KERNEL: Final = 511


class Operation(ABC):
    """One step of a view; applied with some probability, else skipped.

    Attributes:
        code: what `sampling` and `kernels` dispatch on.
        numbers: names of what is drawn for it; a row holds `applied` (0 or 1), then these.
    """

    code: ClassVar[int]
    numbers: ClassVar[tuple[str, ...]]

    @abstractmethod
    def parameters(self, size: int, /) -> tuple[float, ...]:
        """Return the probability, then what sampler and kernel need, for views of `size` pixels."""

    def describe(self, drawn: Mapping[str, float]) -> dict[str, float]:
        """Return the drawn numbers as a person wants to read them."""
        return dict(drawn)


def check_range(owner: str, name: str, value: tuple[float, float], low: float, high: float) -> None:
    """Refuse what is not a pair of rising numbers in [low, high] (UsageError)."""
    if (
        not isinstance(value, tuple)
        or len(value) != 2
        or not all(_is_number(v) for v in value)
        or not low <= value[0] <= value[1] <= high
    ):
        raise UsageError(
            f"{owner}: {name} must be two rising numbers in [{low:g}, {high:g}], found {value!r}"
        )


def check_number(owner: str, name: str, value: float, low: float, high: float) -> None:
    """Refuse what is not a number in [low, high] (UsageError)."""
    if not _is_number(value) or not low <= value <= high:
        raise UsageError(
            f"{owner}: {name} must be a number in [{low:g}, {high:g}], found {value!r}"
        )


def check_whole(owner: str, name: str, value: int, low: int, high: int) -> None:
    """Refuse what is not a whole number in [low, high] (UsageError)."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(
            f"{owner}: {name} must be a whole number in [{low}, {high}], found {value!r}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@final
@dataclass(frozen=True)
class RandomResizedCrop(Operation):
    """Cut a random box and resize it, antialiased, to `size` x `size`; every view starts so.

    The box is torchvision's `RandomResizedCrop.get_params`: ten tries, then the central crop.

    Attributes:
        size: side of the result in pixels, 1-4096.
        scale: range of the box's area as a share of the picture, within (0, 1].
        ratio: range of the box's width / height, drawn uniformly in its logarithm.
        interpolation: "bilinear" or "bicubic" (a = -0.5).

    Raises:
        UsageError: a value out of its range.
    """

    code: ClassVar[int] = 1
    numbers: ClassVar[tuple[str, ...]] = ("top", "left", "height", "width")

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_whole(owner, "size", self.size, 1, MAX_SIZE)
        check_range(owner, "scale", self.scale, 1e-6, 1.0)
        check_range(owner, "ratio", self.ratio, 0.01, 100.0)
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"{owner}: no interpolation is called {self.interpolation!r}."
                f"{did_you_mean(str(self.interpolation), INTERPOLATIONS)}"
            )

    def parameters(self, _size: int, /) -> tuple[float, ...]:
        """Return 1, scale, logarithm of ratio, ratio, interpolation."""
        log_ratio = (math.log(self.ratio[0]), math.log(self.ratio[1]))
        return (1.0, *self.scale, *log_ratio, *self.ratio, INTERPOLATIONS[self.interpolation])


@final
@dataclass(frozen=True)
class HorizontalFlip(Operation):
    """Mirror left and right.

    Raises:
        UsageError: a value out of its range.
    """

    code: ClassVar[int] = 2
    numbers: ClassVar[tuple[str, ...]] = ()

    p: float = 0.5

    def __post_init__(self) -> None:
        check_number(type(self).__name__, "p", self.p, 0.0, 1.0)

    def parameters(self, _size: int, /) -> tuple[float, ...]:
        """Return the probability alone."""
        return (self.p,)


@final
@dataclass(frozen=True)
class ColorJitter(Operation):
    """Change brightness, contrast, saturation and hue in a random order, as torchvision does.

    A strength v draws a factor from [max(0, 1 - v), 1 + v]; hue draws a shift from [-hue, hue]
    of the colour circle, hue <= 0.5. Strength 0 leaves that part out. Pictures of one channel
    have neither saturation nor hue.

    Raises:
        UsageError: a value out of its range.
    """

    code: ClassVar[int] = 3
    numbers: ClassVar[tuple[str, ...]] = (*JITTER_PARTS, "order")

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        for name in JITTER_PARTS:
            high = 0.5 if name == "hue" else 100.0
            check_number(type(self).__name__, name, getattr(self, name), 0.0, high)
        check_number(type(self).__name__, "p", self.p, 0.0, 1.0)

    def parameters(self, _size: int, /) -> tuple[float, ...]:
        """Return the probability, then low and high of the four parts."""
        strengths = (self.brightness, self.contrast, self.saturation)
        factors = [bound for v in strengths for bound in (max(0.0, 1.0 - v), 1.0 + v)]
        return (self.p, *factors, -self.hue, self.hue)

    def describe(self, drawn: Mapping[str, float]) -> dict[str, float]:
        """Return the parts that are in use, in the order in which they were applied."""
        order = JITTER_ORDERS[int(drawn["order"])]
        in_order = [JITTER_PARTS[part] for part in order]
        return {name: drawn[name] for name in in_order if getattr(self, name) > 0.0}


@final
@dataclass(frozen=True)
class Grayscale(Operation):
    """Replace colours by their luma (ITU-R 601), keeping three equal channels.

    Raises:
        UsageError: a value out of its range.
    """

    code: ClassVar[int] = 4
    numbers: ClassVar[tuple[str, ...]] = ()

    p: float = 0.2

    def __post_init__(self) -> None:
        check_number(type(self).__name__, "p", self.p, 0.0, 1.0)

    def parameters(self, _size: int, /) -> tuple[float, ...]:
        """Return the probability alone."""
        return (self.p,)


@final
@dataclass(frozen=True)
class GaussianBlur(Operation):
    """Blur with a Gaussian window of `kernel` pixels a side, torchvision's `gaussian_blur`.

    Borders are reflected. Where the window is wider than the picture, torchvision fails; here
    the reflection goes on back and forth, as `numpy.pad(mode="reflect")` does.

    Attributes:
        sigma: range of the standard deviation in pixels, within [0.01, 100].
        kernel: odd side of the window in pixels, 1-511; None takes the odd number nearest to 10 %
            of the view's side, at least 3 (SimCLR, appendix A, asks for 10 %).
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    code: ClassVar[int] = 5
    numbers: ClassVar[tuple[str, ...]] = ("sigma",)

    sigma: tuple[float, float] = (0.1, 2.0)
    kernel: int | None = None
    p: float = 0.5

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_range(owner, "sigma", self.sigma, 0.01, 100.0)
        check_number(owner, "p", self.p, 0.0, 1.0)
        if self.kernel is not None:
            check_whole(owner, "kernel", self.kernel, 1, MAX_KERNEL)
            if self.kernel % 2 == 0:
                raise UsageError(
                    f"{owner}: kernel must be odd, found {self.kernel}; use {self.kernel + 1}"
                )

    def parameters(self, size: int, /) -> tuple[float, ...]:
        """Return the probability, sigma's range and the window's side."""
        kernel = max(3, 2 * (size // 20) + 1) if self.kernel is None else self.kernel
        return (self.p, *self.sigma, kernel)
