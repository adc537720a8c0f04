"""What is embedded: an encoder, with the head of its run where that is asked for, and pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from looktwice.build import best_device, open_device
from looktwice.data import Data, Source, Splits, open_official
from looktwice.data.hub import is_hub
from looktwice.data.named import DATA_SETS
from looktwice.data.remote import is_remote
from looktwice.embedding.about import About
from looktwice.errors import DataError, UsageError, did_you_mean
from looktwice.estimator import open_encoder
from looktwice.evaluate.fitting import fingerprint
from looktwice.evaluate.layers import head_of, layers
from looktwice.evaluate.subject import check_channels
from looktwice.features import encode
from looktwice.launched import usable_cores
from looktwice.models import Encoder
from looktwice.run import Run, check_pictures, open_data, open_run

HEADLESS = "h"  # the features; all other layers are the projection head's


@dataclass(frozen=True)
class Eye:
    """An encoder, ready to look.

    Attributes:
        target: what it was opened by.
        weights: file of a foreign encoder's weights.
        encoder: in eval mode, on its device.
        run: where it comes from; None for other encoders.
        head: the projection head, on the CPU; None where its layers are not asked for.
        threads: that read pictures.
    """

    target: str
    weights: Path | None
    encoder: Encoder
    run: Run | None
    head: nn.Module | None
    threads: int

    def features(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return the layers, float32 (N, D), of prepared pictures uint8 (N, C, S, S)."""
        h = encode(self.encoder, pictures)
        return {HEADLESS: h} if self.head is None else layers(h, self.head)

    def about(self) -> dict[str, Any]:
        """Return what identifies it, and what it can be opened by, ready for JSON."""
        said = {
            "target": where(self.target),
            "weights": None if self.weights is None else where(self.weights),
            "weights_sha256": fingerprint(self.encoder),
            "spec": json.loads(json.dumps(dataclasses.asdict(self.encoder.spec))),
        }
        return said if self.head is None else said | {"head_sha256": fingerprint(self.head)}


def open_eye(
    target: str | Path,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
    layers: Sequence[str] = (HEADLESS,),
    device: str = "auto",
) -> Eye:
    """Open an encoder.

    Args:
        target: a run, an encoder file, or a foreign encoder; see `open_encoder`.
        weights: file of a foreign encoder's weights.
        image_size: side in pixels at which pictures enter.
        layers: what will be asked of it.
        device: where it computes; ``auto`` is the best there is.

    Raises:
        UsageError: no such target or device, or it has no such layers.
        RunError: an unfinished run, or a damaged file.
    """
    place = open_device(best_device() if device == "auto" else device)
    run = open_run(Path(target)) if Path(target).is_dir() else None
    encoder = open_encoder(str(target), weights=weights, image_size=image_size).to(place)
    threads = usable_cores()
    if run is not None:
        torch.set_num_threads(run.config().train.threads)
        threads = max(1, run.config().data.threads)
    head = None
    if any(layer != HEADLESS for layer in layers):
        if run is None:
            raise UsageError(
                f"layers {','.join(layers)}: {target} has the features h alone; the layers of a "
                "projection head need the folder of a run"
            )
        head = head_of(run, encoder, f"--layers {','.join(layers)}")
    eye = Eye(str(target), weights, encoder, run, head, threads)
    _check_layers(eye, layers)
    return eye


def _check_layers(eye: Eye, asked: Sequence[str]) -> None:
    known = widths(eye)
    for layer in asked:
        if layer not in known:
            raise UsageError(f"--layers: no layer {layer!r}.{did_you_mean(layer, known)}")
    if len(set(asked)) < len(asked) or not asked:
        raise UsageError(f"--layers {','.join(asked)}: name one layer or more, each once")


def widths(eye: Eye) -> dict[str, int]:
    """Return the width of each layer, by name."""
    spec = eye.encoder.spec
    blank = torch.zeros(1, spec.channels, spec.image_size, spec.image_size, dtype=torch.uint8)
    return {name: found.shape[1] for name, found in eye.features(blank).items()}


def open_parts(
    run: Run | None, data: Data | None, *, moved_to: Data | None = None
) -> dict[str, Source]:
    """Open pictures, by split.

    Args:
        run: whose pictures they are, split as it was trained, unless `data` is given; what is
            under transparent parts, and where named data sets lie, it says in any case.
        data: other pictures, in the splits they are distributed in.
        moved_to: where the run's own pictures are now, if they were moved.

    Raises:
        UsageError: neither is given.
        DataError: they cannot be opened.
    """
    settings = None if run is None else run.config().data
    if data is not None:
        parts = open_official(data, root=(settings and settings.root) or None)
        first = [name for name in ("train", "validation", "test") if name in parts]
        parts = {name: parts[name] for name in [*first, *sorted(parts.keys() - first)]}
        if settings is None:
            return parts
        return {name: source.over(settings.alpha) for name, source in parts.items()}
    if settings is None:
        raise UsageError("no pictures named: give --data FOLDER or NAME")
    if moved_to is not None:
        settings = dataclasses.replace(settings, source=str(moved_to))
    splits = open_data(settings)
    parts = {"train": splits.train, "validation": splits.validation}
    return parts if splits.test is None else {**parts, "test": splits.test}


@dataclass(frozen=True)
class Subject:
    """An encoder, the pictures that it looks at, by split, and what the embedding will say."""

    eye: Eye
    parts: dict[str, Source]
    about: About


def open_subject(
    eye: Eye, *, data: Data | None = None, layers: Sequence[str] = (HEADLESS,), dtype: str
) -> Subject:
    """Open the pictures of an encoder.

    Raises:
        UsageError: no pictures named, or another dtype than float32 or float16.
        RunError: the run's own are no longer those it was trained on.
        DataError: they cannot be opened, or do not fit the encoder.
    """
    if dtype not in ("float32", "float16"):
        raise UsageError(f"--dtype is {dtype!r}; it must be float32 or float16")
    parts = open_parts(eye.run, data)
    if eye.run is not None and data is None:
        splits = Splits(parts["train"], parts["validation"], parts.get("test"))
        check_pictures(eye.run, splits)  # of others the same seed carves other splits
    for source in parts.values():
        check_channels(eye.target, eye.encoder, source)
    digest = hashlib.sha256()
    for split, source in parts.items():
        digest.update(f"{split}\0{source.fingerprint()}\0".encode())
    pictures = {
        "sha256": digest.hexdigest(),
        "name": next(iter(parts.values())).name,
        "run": str(eye.run.path.absolute()) if eye.run else None,
        "of_run": data is None,
        "data": data_at(data) if isinstance(data, str | os.PathLike) else None,
        "alpha": eye.run.config().data.alpha if eye.run else "white",
    }
    all_widths = widths(eye)
    chosen = {layer: all_widths[layer] for layer in layers}
    return Subject(eye, parts, About(eye.about(), pictures, chosen, dtype))


def data_at(data: str | os.PathLike[str]) -> str:
    """Return what opens the same pictures from any folder: paths and patterns become absolute."""
    if isinstance(data, str) and (data in DATA_SETS or is_remote(data) or is_hub(data)):
        return data
    return str(Path(data).expanduser().absolute())


def where(name: str | os.PathLike[str]) -> str:
    """Return the absolute path of a file or folder that is there; other names as they are."""
    path = Path(name)
    return str(path.absolute()) if path.exists() else str(name)


def as_dtype(features: Tensor, dtype: str, name: str) -> NDArray[Any]:
    """Return features (N, D) as an array of a dtype.

    Raises:
        DataError: one of them is a number, and none in that dtype.
    """
    found: NDArray[Any] = features.numpy()
    if dtype == "float32":
        return found
    with np.errstate(over="ignore"):
        small = found.astype(dtype)
    if np.isinf(small).sum() > np.isinf(found).sum():
        raise DataError(
            f"features of {name!r} go up to {np.abs(found).max():.3g}, more than float16 can hold: "
            "choose --dtype float32"
        )
    return small
