"""Checkpoints: folders of safetensors and json with a manifest of checksums; no pickle.

``checkpoints/step-00000024/`` holds one ``<part>.safetensors`` for each part of the state,
``state.json`` for counters, and ``manifest.json`` with the SHA-256 of each.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, optim

from looktwice.errors import RunError
from looktwice.storage import write_folder_atomic

FORMAT = "looktwice-checkpoint/1"
NAME = re.compile(r"step-(\d{8,})")


def save_checkpoint(
    folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write ``folder/step-NNNNNNNN`` whole or not at all.

    Args:
        folder: the run's ``checkpoints``.
        step: steps done.
        parts: named groups of tensors.
        state: counters and whatever json holds exactly.

    Raises:
        RunError: the disk is full or not writable; older checkpoints stay.
    """
    files = {
        f"{name}.safetensors": safetensors.torch.save(
            {key: t.detach().cpu().contiguous() for key, t in tensors.items()}
        )
        for name, tensors in parts.items()
    }
    files["state.json"] = json.dumps({"format": FORMAT, **state}).encode()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files["manifest.json"] = json.dumps(digests, indent=1).encode()
    path = folder / checkpoint_name(step)
    write_folder_atomic(path, files)
    return path


def checkpoint_name(step: int) -> str:
    """Return the folder name of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read a checkpoint back as (parts, state), after checking every checksum.

    Raises:
        RunError: a file is missing or its content is not what was written.
    """
    try:
        digests = json.loads((path / "manifest.json").read_bytes())
        files = {name: (path / name).read_bytes() for name in digests}
    except (OSError, ValueError) as error:
        raise RunError(f"checkpoint {path} is incomplete: {error}") from error
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != digests[name]:
            raise RunError(f"checkpoint {path} is damaged: {name} does not match its checksum")
    state = json.loads(files.pop("state.json"))
    if state.pop("format", None) != FORMAT:
        raise RunError(f"checkpoint {path} was written by another version of looktwice")
    parts = {
        name.removesuffix(".safetensors"): safetensors.torch.load(data)
        for name, data in files.items()
    }
    return parts, state


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    named = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def prune_checkpoints(folder: Path, *, keep_last: int, keep: Path | None = None) -> None:
    """Remove all but the last `keep_last` checkpoints and `keep`, and what a kill left behind."""
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in list_checkpoints(folder)[:-keep_last]:
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


def optimizer_tensors(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors: ``"<parameter>.<buffer>"``."""
    return {
        f"{index}.{name}": value
        for index, buffers in optimizer.state_dict()["state"].items()
        for name, value in buffers.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def generator_tensors() -> dict[str, Tensor]:
    """Return the states of torch's global generators, CPU and every CUDA device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return states


def load_generator_tensors(states: Mapping[str, Tensor]) -> None:
    """Put back what `generator_tensors` gave; devices that are not here are left out."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda:{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda:{index}"], index)
