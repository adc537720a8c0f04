"""The encoder in other people's hands."""

from __future__ import annotations

import json
from pathlib import Path

from looktwice.checkpoint import checkpoint_name, load_checkpoint
from looktwice.errors import RunError
from looktwice.models import Encoder, read_encoder
from looktwice.run import Run, open_run


def load_encoder(run: str | Path, *, best: bool = False) -> Encoder:
    """Load a trained encoder.

    Args:
        run: a finished run's folder, or an ``encoder.safetensors`` file.
        best: the weights of the epoch that was best by k-NN on validation, not the last ones;
            only for the folder of a run on labelled pictures.

    Returns:
        A module in eval mode that maps pictures (N, C, H, W), uint8 in 0-255 or floating in
        0-1, of any size, to features (N, D), float32; resizing and normalisation included.

    Raises:
        RunError: no such run, one that has not finished or has no best epoch, a damaged file.
        ValueError: from the encoder, when called on something else than such pictures.
    """
    path = Path(run)
    if path.suffix == ".safetensors" and not best:
        return read_encoder(path)
    opened = open_run(path)
    encoder = read_encoder(opened.encoder_file)
    if best:
        _load_best(encoder, opened)
    return encoder


def _load_best(encoder: Encoder, run: Run) -> None:
    step = json.loads(run.summary_file.read_text("utf-8"))["best_step"]
    if step is None:
        raise RunError(f"{run.path} has no best epoch: its pictures have no labels")
    parts, _ = load_checkpoint(run.checkpoints / checkpoint_name(step))
    prefix = "backbone."
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in parts["method"].items()
        if name.startswith(prefix)
    }
    encoder.backbone.load_state_dict(weights)
