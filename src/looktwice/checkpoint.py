"""Checkpoints: folders of safetensors and json with a manifest of checksums; no pickle.

``checkpoints/step-00000024/`` holds one ``<part>.safetensors`` for each part of the state,
``state.json`` for counters, and ``manifest.json`` with the SHA-256 of each.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import safetensors
import safetensors.torch
import torch
from torch import Tensor, optim

from looktwice.errors import DamagedError, RunError
from looktwice.storage import (
    FORMER,
    listed,
    remove_folder,
    remove_leftovers,
    write_folder_atomic,
)
from looktwice.tensors import tensor_bytes

FORMAT = "looktwice-checkpoint/3"
NAME = re.compile(rf"step-(\d{{8,}})({re.escape(FORMER)})?")
_NO_STATE = (ValueError, KeyError, AttributeError, TypeError, RecursionError)
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", ".safetensors"


def save_checkpoint(
    folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write ``folder/step-NNNNNNNN`` whole or not at all; `folder` is made if need be.

    Args:
        folder: the run's ``checkpoints``.
        step: steps done.
        parts: named groups of tensors.
        state: counters and whatever json holds exactly.

    Raises:
        RunError: the disk is full or not writable; older checkpoints stay.
    """
    files = {f"{name}{TENSORS}": tensor_bytes(tensors) for name, tensors in parts.items()}
    files[STATE] = json.dumps({"format": FORMAT, **state}).encode()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files[MANIFEST] = _manifest(digests)
    path = folder / checkpoint_name(step)
    write_folder_atomic(path, files)
    return path


def checkpoint_name(step: int) -> str:
    """Return the folder name of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read a checkpoint back as (parts, state), after checking that every byte is as written.

    Raises:
        DamagedError: a file is missing, is one too many, or its content is not what was written.
        RunError: it was written by another version of looktwice.
    """
    files = _checked_files(path)
    try:
        state = json.loads(files.pop(STATE))
        if state.pop("format", None) != FORMAT:
            raise RunError(f"checkpoint {path} was written by another version of looktwice")
        parts = {name: safetensors.torch.load(data) for name, data in files.items()}
    except (*_NO_STATE, safetensors.SafetensorError) as e:
        _damaged(path, f"it is whole, but holds no state of training ({type(e).__name__})")
    return {name.removesuffix(TENSORS): tensors for name, tensors in parts.items()}, state


def _checked_files(path: Path) -> dict[str, bytes]:
    """Return the content of a checkpoint's files, by name; the manifest vouches for them."""
    try:
        others = [file for file in path.iterdir() if file.name != MANIFEST]
        files = {file.name: file.read_bytes() for file in others if file.is_file()}
        if not (path / MANIFEST).is_file():  # a pipe would be waited for
            raise FileNotFoundError(f"{MANIFEST} is missing")
        manifest = (path / MANIFEST).read_bytes()
        digests = json.loads(manifest)
    except (OSError, ValueError, RecursionError) as error:
        _damaged(path, str(error))
    # Written anew it is the same bytes: so not one of its own can have changed unnoticed.
    if not isinstance(digests, dict) or _manifest(digests) != manifest:
        _damaged(path, f"{MANIFEST} is not as it was written")
    found = {file.name for file in others}
    if not digests.keys() == files.keys() == found:
        name = min(digests.keys() ^ found or found - files.keys())
        _damaged(path, f"{name} {'is missing' if name in digests else 'does not belong to it'}")
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != digests[name]:
            _damaged(path, f"{name} does not match its checksum")
    return files


def _manifest(digests: Mapping[str, str]) -> bytes:
    return json.dumps(digests, indent=1).encode()


def _damaged(path: Path, reason: str) -> NoReturn:
    raise DamagedError(f"checkpoint {path} is damaged: {reason}") from None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first; RunError where that cannot be read."""
    named = ((NAME.fullmatch(path.name), path) for path in listed(folder))
    # Of one step, what is being replaced comes before what replaces it.
    return [path for *_, path in sorted((int(m[1]), not m[2], path) for m, path in named if m)]


def prune_checkpoints(folder: Path, *, keep_last: int, keep: Path | None = None) -> None:
    """Remove all but the last `keep_last` checkpoints and `keep`, and what a kill left behind.

    Raises:
        RunError: one of them cannot be removed; all that are to be kept are there.
    """
    remove_leftovers(folder)
    for path in list_checkpoints(folder)[:-keep_last]:
        if path != keep:
            remove_folder(path)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that none that is whole gives way to it; return its place.

    Raises:
        RunError: it cannot be renamed.
    """
    aside = path.with_name(f"damaged-{path.name}")
    remove_folder(aside)
    try:
        return path.rename(aside)
    except OSError as error:
        raise RunError(f"cannot rename {path}: {error.strerror}; remove it yourself") from error


def optimizer_tensors(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors: ``"<parameter>.<buffer>"``."""
    return {
        f"{index}.{name}": value
        for index, buffers in optimizer.state_dict()["state"].items()
        for name, value in buffers.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, in the layout in memory of the parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        if value.shape == like.shape:  # else the optimiser goes through them one by one
            value = torch.empty_like(like, dtype=value.dtype, requires_grad=False).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def generator_tensors() -> dict[str, Tensor]:
    """Return the states of the generators that this process draws from: torch's, its GPU's."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def load_generator_tensors(states: Mapping[str, Tensor]) -> None:
    """Put back what `generator_tensors` gave; a device that is not here is left out."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
