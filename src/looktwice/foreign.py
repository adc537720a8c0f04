"""The door for files of weights that others wrote: nothing in them is ever executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from looktwice.errors import DataError

MEND: Final = "put the original file back"


def load_weights(path: Path) -> dict[str, object]:
    """Read a checkpoint of torch or safetensors, told apart by content, onto the CPU.

    Torch's are read by `torch.load(weights_only=True)`: tensors and plain data alone.

    Returns:
        What the file holds: tensors by name, or an outer mapping such as ``state_dict``.

    Raises:
        DataError: unreadable, neither format, damaged, no mapping, or more than weights.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror}): {MEND}") from error
    try:
        found = _safetensors(path) if head[8:] == b"{" else _torch(path)
    # Both readers raise many things for damaged bytes (KeyError, EOFError, struct.error …).
    except Exception as error:
        raise DataError(f"{str(path)!r} is not loaded: {_reason(error)}") from error
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise DataError(
            f"{str(path)!r} holds {type(found).__name__}, not weights by name: save "
            "model.state_dict()"
        )
    return dict(found)


def _safetensors(path: Path) -> object:
    import safetensors.torch  # imports torch

    return safetensors.torch.load_file(path)


def _torch(path: Path) -> object:
    import torch  # takes seconds

    with path.open("rb") as file:  # of a path, torch would believe the end of its name
        return torch.load(file, map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    """Say in one line what is wrong; torch's own reasons are many lines."""
    name = re.search(r"GLOBAL ([\w.]+)", str(error))
    if name:
        return f"it names {name[1]!r}, and only weights are read: save model.state_dict() alone"
    return f"it is no whole file of weights of torch or safetensors: {MEND}"
