"""The proof of a run: its encoder beside raw pixels and beside itself before training."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from looktwice.data import Splits
from looktwice.evaluate.cached import standard
from looktwice.evaluate.subject import Subject, open_subject
from looktwice.features import encoder_width
from looktwice.run import open_run
from looktwice.storage import write_atomic

ROWS = {
    "encoder": "encoder",
    "raw-pixels": "raw pixels",
    "initial": "starting weights",
    "untrained": "untrained",
}
"""Rows in words; others are called by their names."""


def evaluate_run(
    path: Path, *, device: str = "auto", seed: int = 0, splits: Splits | None = None
) -> dict[str, Any]:
    """Measure a finished run by the standard protocols, write ``evaluation.json``, and return it.

    Args:
        path: the run folder.
        device: where features are computed; ``auto`` is the best there is.
        seed: of the draws of labels.
        splits: the pictures, where the run was started from arrays in memory.

    Raises:
        RunError: there is no run, or it has not finished.
        DataError: the pictures have no labels, or cannot be read.
    """
    begun = time.perf_counter()
    run = open_run(path)
    subject = open_subject(path, device=device, splits=splits)
    found = standard(subject, seed=seed)
    result = {
        "data": {**found.pop("data"), "name": run.config().data.source},
        "encoder": about_encoder(subject) | {"step": run.config().train.steps},
        **found,
        "seconds": round(time.perf_counter() - begun, 1),
    }
    write_atomic(run.evaluation_file, json.dumps(result, indent=1))
    return result


def about_encoder(subject: Subject) -> dict[str, Any]:
    """Return what is evaluated, ready for JSON."""
    spec = subject.encoder.spec
    return {
        "backbone": spec.backbone,
        "dimensions": encoder_width(subject.encoder),
        "image_size": spec.image_size,
        "trained_on": subject.trained_on,
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as a table for a terminal, accuracies in %, 95 % intervals in brackets."""
    found = {row: None for protocol in result["protocols"] for row in protocol["rows"]}
    columns = [*(row for row in ROWS if row in found), *(row for row in found if row not in ROWS)]
    widths = {row: max(14, len(_name(row)) + 2) for row in columns}
    titles = "".join(f"{_name(row):>{widths[row]}}" for row in columns)
    lines = [f"{'accuracy, %':22}{titles}  gain"]
    for protocol in result["protocols"]:
        rows = protocol["rows"]
        cells = "".join(
            f"{_cell(rows[row]) if row in rows else '':>{widths[row]}}" for row in columns
        )
        lines.append(f"{protocol['title']:22}{cells}  {_gain(protocol)}".rstrip())
    data = result["data"]
    lines.append(f"test pictures: {data['test']:,}; labels: {data['train'] + data['validation']:,}")
    if result["encoder"].get("trained_on", "older results do not say") is None:
        lines.append("not known: what the encoder was trained on; test pictures may be among it")
    return "\n".join(lines)


def _gain(protocol: dict[str, Any]) -> str:
    """Say how far the first row lies above the best other one."""
    rows = protocol["rows"]
    if not protocol["differences"]:
        return ""
    better = max((rows[row]["accuracy"], row) for row in protocol["differences"])[1]
    gain = protocol["differences"][better]
    low, high = (100 * end for end in gain["interval"])
    return f"{100 * gain['difference']:+.1f} [{low:+.1f}, {high:+.1f}] over {_name(better)}"


def _name(row: str) -> str:
    return ROWS.get(row, row.replace("-", " "))


def _cell(row: dict[str, Any]) -> str:
    spread = f" ± {100 * row['sd']:.1f}" if row["sd"] is not None else ""
    return f"{100 * row['accuracy']:.1f}{spread}"
