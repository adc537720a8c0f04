"""The proof of a run: its encoder beside raw pixels and beside itself before training."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from looktwice.build import best_device, open_device, untrained_encoder
from looktwice.data import Source, Splits
from looktwice.errors import DataError, RunError
from looktwice.evaluate.features import pixels_of
from looktwice.evaluate.protocol import SplitFeatures, SplitLabels, evaluate_features
from looktwice.features import encode, stream
from looktwice.models import Encoder, read_encoder
from looktwice.run import Run, check_pictures, open_data, open_run
from looktwice.storage import write_atomic

ROWS = {"encoder": "encoder", "raw-pixels": "raw pixels", "untrained": "untrained"}


def evaluate_run(
    path: Path, *, device: str = "auto", seed: int = 0, splits: Splits | None = None
) -> dict[str, Any]:
    """Measure a finished run by every protocol, write ``evaluation.json``, and return it.

    Args:
        path: the run folder.
        device: where features are computed; ``auto`` is the best there is.
        seed: of the draws of labels and of the bootstrap.
        splits: the pictures, where the run was started from arrays in memory.

    Raises:
        RunError: there is no run, or it has not finished.
        DataError: the pictures have no labels, or cannot be read.
    """
    begun = time.perf_counter()
    run = open_run(path)
    if not run.encoder_file.exists():
        raise RunError(f"{path} has no encoder yet; finish it: looktwice resume {path}")
    config = run.config()
    torch.set_num_threads(config.train.threads)
    splits = splits or open_data(config.data)
    check_pictures(run, splits)
    parts = _labelled_parts(splits)
    target = open_device(best_device() if device == "auto" else device)
    encoder = read_encoder(run.encoder_file).to(target)
    untrained = untrained_encoder(config, splits).to(target)
    threads = max(1, config.data.threads)
    found = []
    for part in parts:
        found.append(_features(part, encoder, untrained, threads))
        _check_readable(part, found[-1][1], config.data.max_bad)
    kept = [indices for _, indices in found]
    rows = {name: SplitFeatures(*(features[name] for features, _ in found)) for name in ROWS}
    labels = [_labels(part)[index] for part, index in zip(parts, kept, strict=True)]
    assert splits.train.class_names is not None
    result = {
        "data": {
            "name": config.data.source,
            **{n: len(k) for n, k in zip(("train", "validation", "test"), kept, strict=True)},
            "unreadable": sum(map(len, parts)) - sum(map(len, kept)),
            "classes": list(splits.train.class_names),
        },
        "encoder": _about(encoder, rows["encoder"].train.shape[1], run),
        **evaluate_features(rows, SplitLabels(*labels), splits.train.class_names, seed=seed),
    }
    _point_at_sources(result["neighbours"], kept, len(splits.train))
    result["seconds"] = round(time.perf_counter() - begun, 1)
    write_atomic(run.evaluation_file, json.dumps(result, indent=1))
    return result


def _labelled_parts(splits: Splits) -> tuple[Source, Source, Source]:
    for name in ("train", "validation", "test"):
        part = getattr(splits, name)
        if part is None or part.labels is None:
            raise DataError(
                f"{splits.train.name!r} has no labels to measure with ({name}): put the pictures "
                "in one folder a class; `looktwice report` shows health without labels"
            )
    assert splits.test is not None
    return splits.train, splits.validation, splits.test


def _features(
    source: Source, encoder: Encoder, untrained: Encoder, threads: int
) -> tuple[dict[str, Tensor], NDArray[np.int64]]:
    """Return the features of every row, from one pass over the pictures, and where these are."""
    found: dict[str, list[Tensor]] = {name: [] for name in ROWS}
    kept = []
    with closing(stream(source, [encoder.prepare, pixels_of(source)], threads=threads)) as blocks:
        for indices, (pictures, pixels) in blocks:
            found["encoder"].append(encode(encoder, pictures))
            found["raw-pixels"].append(pixels)
            found["untrained"].append(encode(untrained, pictures))
            kept.append(indices)
    return {name: torch.cat(features) for name, features in found.items()}, np.concatenate(kept)


def _check_readable(part: Source, kept: NDArray[np.int64], max_bad: float) -> None:
    missing = len(part) - len(kept)
    if missing > max_bad * len(part):
        raise DataError(
            f"{missing} of the {len(part)} pictures in {part.name!r} cannot be read, more than "
            f"{max_bad:.3g} of them: repair or remove them"
        )


def _labels(source: Source) -> Any:
    assert source.labels is not None
    return source.labels


def _about(encoder: Encoder, dimensions: int, run: Run) -> dict[str, Any]:
    return {
        "backbone": encoder.spec.backbone,
        "dimensions": dimensions,
        "image_size": encoder.spec.image_size,
        "step": run.config().train.steps,
    }


def _point_at_sources(
    strips: list[dict[str, Any]], kept: list[NDArray[np.int64]], num_train: int
) -> None:
    """Turn rows of readable pictures into indices of the sources: train, then validation."""
    train, validation, test = kept
    for strip in strips:
        strip["query"] = int(test[strip["query"]])
        strip["neighbours"] = [
            int(train[i]) if i < len(train) else num_train + int(validation[i - len(train)])
            for i in strip["neighbours"]
        ]


def table(result: dict[str, Any]) -> str:
    """Return the result as a table for a terminal, accuracies in %, 95 % intervals in brackets."""
    lines = [f"{'accuracy, %':22}{''.join(f'{title:>14}' for title in ROWS.values())}  gain"]
    for protocol in result["protocols"]:
        rows = protocol["rows"]
        cells = [_cell(rows[row]) if row in rows else "" for row in ROWS]
        better = max((rows[row]["accuracy"], row) for row in protocol["differences"])[1]
        gain = protocol["differences"][better]
        low, high = (100 * end for end in gain["interval"])
        lines.append(
            f"{protocol['title']:22}{''.join(f'{cell:>14}' for cell in cells)}  "
            f"{100 * gain['difference']:+.1f} [{low:+.1f}, {high:+.1f}] over {ROWS[better]}"
        )
    data = result["data"]
    lines.append(f"test pictures: {data['test']:,}; labels: {data['train'] + data['validation']:,}")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    spread = f" ± {100 * row['sd']:.1f}" if row["sd"] is not None else ""
    return f"{100 * row['accuracy']:.1f}{spread}"
