"""The proof of a run: its encoder beside raw pixels and beside itself before training."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from looktwice.build import best_device, open_device, untrained_encoder
from looktwice.data import Source, Splits
from looktwice.errors import DataError, RunError
from looktwice.evaluate.features import raw_pixels
from looktwice.evaluate.protocol import SplitFeatures, SplitLabels, evaluate_features
from looktwice.features import encode, prepare
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
    prepared = [prepare(encoder, part) for part in parts]
    kept = [indices for _, indices in prepared]
    for part, indices in zip(parts, kept, strict=True):
        _check_readable(part, indices, config.data.max_bad)
    rows = {
        "encoder": [encode(encoder, pictures) for pictures, _ in prepared],
        "raw-pixels": [raw_pixels(part)[0] for part in parts],
        "untrained": [encode(untrained, pictures) for pictures, _ in prepared],
    }
    labels = [_labels(part)[index] for part, index in zip(parts, kept, strict=True)]
    assert splits.train.class_names is not None
    result = {
        "data": {
            "name": config.data.source,
            **{n: len(k) for n, k in zip(("train", "validation", "test"), kept, strict=True)},
            "unreadable": sum(map(len, parts)) - sum(map(len, kept)),
            "classes": list(splits.train.class_names),
        },
        "encoder": _about(encoder, rows["encoder"][0].shape[1], run),
        **evaluate_features(
            {name: SplitFeatures(*found) for name, found in rows.items()},
            SplitLabels(*labels),
            splits.train.class_names,
            seed=seed,
        ),
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
