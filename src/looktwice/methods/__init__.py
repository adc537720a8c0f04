"""Methods by name."""

from __future__ import annotations

from torch import nn

from looktwice.errors import UsageError, did_you_mean
from looktwice.methods.base import Method
from looktwice.methods.simclr import SimCLR

METHODS = {"simclr": SimCLR}


def build_method(
    name: str, backbone: nn.Module, projection_head: nn.Module, *, temperature: float
) -> Method:
    """Build a method by name.

    Raises:
        UsageError: no method has this name.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method.name {name!r}.{did_you_mean(name, METHODS)}")
    return METHODS[name](backbone, projection_head, temperature=temperature)


__all__ = ["METHODS", "Method", "SimCLR", "build_method"]
