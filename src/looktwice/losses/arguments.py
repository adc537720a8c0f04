"""What every loss asks of its arguments, and the precision it computes in."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def check_pairs(name: str, z0: Tensor, z1: Tensor) -> None:
    """Raise ValueError unless both are floating, of one shape (N, D), N ≥ 2, D ≥ 1."""
    if z0.ndim != 2 or z0.shape != z1.shape or len(z0) < 2 or z0.shape[1] < 1:
        raise ValueError(
            f"{name} needs two (N, D) tensors of one shape with N ≥ 2, "
            f"not {tuple(z0.shape)} and {tuple(z1.shape)}"
        )
    check_floating(name, z0, z1)


def check_floating(name: str, *embeddings: Tensor) -> None:
    """Raise ValueError unless all are floating and on one device."""
    for z in embeddings:
        if not z.is_floating_point():
            raise ValueError(f"{name} needs floating embeddings, not {z.dtype}")
        if z.device != embeddings[0].device:
            raise ValueError(
                f"{name} needs embeddings on one device, not {embeddings[0].device} and {z.device}"
            )


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless it is a finite number above 0."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0, not {temperature}")


def working_dtype(*embeddings: Tensor) -> torch.dtype:
    """Return float64 if any embedding has it, else float32.

    In half precision, squares of small entries vanish and similarities over temperature overflow.
    """
    return torch.float64 if any(z.dtype == torch.float64 for z in embeddings) else torch.float32


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which matrix products keep the precision of their factors."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
