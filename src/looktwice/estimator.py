"""The encoder in other people's hands."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from looktwice.checkpoint import checkpoint_name, load_checkpoint
from looktwice.errors import RunError, UsageError
from looktwice.models import FOREIGN, Encoder, check_image_size, foreign_encoder, read_encoder
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
    try:
        step = json.loads(run.summary_file.read_text("utf-8"))["best_step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run.summary_file} does not tell the best epoch; bring it back") from error
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


def open_encoder(
    target: str,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
) -> Encoder:
    """Open what is to be evaluated: a run, an encoder file, or a network of another library.

    Args:
        target: a finished run's folder, an ``encoder.safetensors``, or what `foreign_encoder`
            takes: ``timm:NAME``, ``torchvision:NAME``, ``solo-learn:NAME``.
        weights: the file of weights of such a network; None takes the published ones.
        image_size: side in pixels at which pictures enter; None: what the target says.
        channels: 1 or 3; None: what an encoder of ours says, 3 for other libraries.

    Raises:
        RunError: as `load_encoder`; published weights that cannot be fetched.
        UsageError: no such target, or one that these arguments do not fit.
    """
    if target.startswith(FOREIGN):
        return foreign_encoder(target, weights, image_size=image_size, channels=channels or 3)
    check_image_size(image_size)
    path = Path(target)
    if weights is not None:
        raise UsageError(f"weights need a network, as in timm:resnet18, not {target!r}")
    if not path.exists():
        raise UsageError(
            f"no run, encoder file or network {target!r}: give a run's folder, an "
            f"encoder.safetensors, or a name that begins with {', '.join(FOREIGN)}"
        )
    if path.is_file() and path.suffix != ".safetensors":
        raise UsageError(
            f"{target} does not say its network: give that, and the file as weights "
            f"(timm:resnet18 --weights {target})"
        )
    encoder = load_encoder(path)
    if channels not in (None, encoder.spec.channels):
        raise UsageError(f"{target} takes pictures of {encoder.spec.channels} channel(s)")
    if image_size is None:
        return encoder
    spec = dataclasses.replace(encoder.spec, image_size=image_size)
    return Encoder(encoder.backbone, spec).eval()
