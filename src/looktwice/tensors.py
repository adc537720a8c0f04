"""Tensors as bytes of a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from torch import Tensor


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file; equal tensors give equal bytes where metadata has one key at most.

    Those that share memory, as tied weights do, are written each: the format refuses them.
    """
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        found = tensor.detach().cpu().contiguous()
        place = found.untyped_storage().data_ptr()
        apart[name] = found.clone() if place in seen else found
        seen.add(place)
    return safetensors.torch.save(apart, dict(metadata) if metadata else None)
