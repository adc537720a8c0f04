"""Operations that move pixels or take them away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt

from looktwice.augment.compiling import Kernel, kernel
from looktwice.augment.operations.base import Draw, Operation, check_probability

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@kernel
def _mirror(planes: Bytes, drawn: Floats, constants: Floats, room: Bytes) -> None:  # noqa: ARG001
    for c in range(planes.shape[0]):
        for y in range(planes.shape[1]):
            line = planes[c, y]
            for x in range(line.size // 2):
                line[x], line[-1 - x] = line[-1 - x], line[x]


@final
@dataclass(frozen=True)
class HorizontalFlip(Operation):
    """Mirror left and right.

    Attributes:
        p: probability, 0-1.

    Raises:
        UsageError: a value out of its range.
    """

    name: ClassVar[str] = "flip"
    kernel: ClassVar[Kernel] = _mirror
    mirrors: ClassVar[bool] = True

    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self)

    def draws(self, _size: int, _epoch: int, /) -> Mapping[str, Draw]:
        """Return nothing."""
        return {}
