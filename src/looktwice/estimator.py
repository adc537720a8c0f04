"""The encoder in other people's hands."""

from __future__ import annotations

from pathlib import Path

from looktwice.models import Encoder, read_encoder
from looktwice.run import Run, open_run


def load_encoder(run: str | Path) -> Encoder:
    """Load a trained encoder.

    Args:
        run: a run folder, or an ``encoder.safetensors`` file.

    Returns:
        A module in eval mode that maps pictures (N, C, H, W), uint8 in 0-255 or floating in
        0-1, of any size, to features (N, D), float32; resizing and normalisation included.

    Raises:
        RunError: no such run, a run that has not finished, or a damaged file.
        ValueError: from the encoder, when called on something else than such pictures.
    """
    path = Path(run)
    if path.suffix == ".safetensors":
        return read_encoder(path)
    return read_encoder(Run(open_run(path).path).encoder_file)
