"""The door for files of weights that others wrote: nothing in them is ever executed."""

from __future__ import annotations

import re
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from looktwice.errors import DataError


def load_weights(path: Path) -> dict[str, object]:
    """Load what `torch.save` or safetensors wrote, on the CPU; which of them, the content tells.

    Args:
        path: a file of tensors, or of mappings of tensors beside plain numbers, texts and lists.

    Returns:
        The mapping in the file, as it is.

    Raises:
        DataError: no such file, a damaged one, no mapping, or one that holds other objects: these
            would have to be unpickled, and unpickling executes what the file says.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        # 8 bytes of length, then JSON: safetensors' format. "PK" begins the zip of torch.save.
        if head[8:] == b"{" and not head.startswith(b"PK"):
            return dict(safetensors.torch.load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"cannot read weights from {path}: {error.strerror or error}") from error
    except Exception as error:  # bytes made to harm can make the unpickler raise anything
        raise DataError(f"cannot read weights from {path}: {_reason(error)}") from error
    if not isinstance(loaded, dict):
        raise DataError(
            f"{path} holds one {type(loaded).__name__}, no mapping of names to tensors; "
            "save `model.state_dict()`"
        )
    return loaded


def _reason(error: Exception) -> str:
    refused = re.search(r"(?:GLOBAL|global|class|type|function) ([\w.]+\.[\w.]+)", str(error))
    if refused:
        return (
            f"it holds {refused[1]} beside weights, and is not unpickled, for safety; save the "
            "weights alone where it was made: torch.save(model.state_dict(), 'weights.pt')"
        )
    if isinstance(error, safetensors.SafetensorError):
        return f"a damaged safetensors file ({error})"
    return "damaged, or neither safetensors nor a file of torch.save"
