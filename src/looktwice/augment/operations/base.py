"""What every operation is: its probability, the numbers drawn for it, its kernel."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, final

from looktwice.augment.compiling import Kernel
from looktwice.errors import UsageError, did_you_mean

Interpolation = Literal["bilinear", "bicubic"]
INTERPOLATIONS: Final[Mapping[str, int]] = {"bilinear": 0, "bicubic": 1}
MAX_SIZE: Final = 4096
MAX_WHOLE: Final = 1 << 32


@final
@dataclass(frozen=True)
class Uniform:
    """A number drawn uniformly from [low, high)."""

    low: float
    high: float


@final
@dataclass(frozen=True)
class Whole:
    """A whole number drawn uniformly from low, low + 1, ..., high - 1."""

    low: int
    high: int


@final
@dataclass(frozen=True)
class Box:
    """A box within the view, four numbers: top, left, height and width in pixels.

    It is torchvision's `RandomErasing.get_params`: ten tries, then an empty box.

    Attributes:
        scale: range of its area as a share of the view.
        ratio: range of its height / width, drawn uniformly in its logarithm.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]


Draw = Uniform | Whole | Box


class Operation(ABC):
    """One step of a view; applied with probability `p`, else skipped.

    A subclass is a frozen dataclass with a field `p`, a module-level function made a `kernel`,
    and `draws`; `docs/augmentation.md` builds one.

    Attributes:
        p: probability, 0-1.
        name: what it is called in policies' methods and files, and in pictures of views.
        kernel: what it does to a view's planes.
        colour_only: it makes no sense for pictures of one channel.
        mirrors: it commutes with a horizontal flip, so that a later flip may come first.
    """

    p: float
    name: ClassVar[str]
    kernel: ClassVar[Kernel]
    colour_only: ClassVar[bool] = False
    mirrors: ClassVar[bool] = False

    @abstractmethod
    def draws(self, size: int, epoch: int, /) -> Mapping[str, Draw]:
        """Return what is drawn for a view of `size` pixels in an epoch, by name."""

    def constants(self, size: int, /) -> tuple[float, ...]:  # noqa: ARG002
        """Return what else the kernel needs for views of `size` pixels."""
        return ()

    def room(self, size: int, channels: int, /) -> int:  # noqa: ARG002
        """Return the bytes of scratch that the kernel needs."""
        return 0

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


def check_choice(owner: str, name: str, value: str, choices: Mapping[str, int]) -> None:
    """Refuse what is not one of some words (UsageError)."""
    if value not in choices:
        raise UsageError(
            f"{owner}: {name} must be one of {', '.join(choices)}, found {value!r}."
            f"{did_you_mean(str(value), choices)}"
        )


def check_probability(operation: Operation) -> None:
    """Refuse a `p` outside of [0, 1] (UsageError)."""
    check_number(type(operation).__name__, "p", operation.p, 0.0, 1.0)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
