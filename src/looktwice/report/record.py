"""A run folder as the page needs it; whatever is missing is empty, whatever is damaged is named."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from looktwice import config
from looktwice.errors import RunError, UsageError

Record = Mapping[str, Any]
Departures = tuple[tuple[str, object, object], ...]


@dataclass(frozen=True)
class RunRecord:
    """What a run left behind.

    Attributes:
        epochs: one mapping an epoch from metrics.jsonl, epoch 0 (untrained) first.
        evaluation: evaluation.json, None when the run was not evaluated.
        config_text: config.toml as written; settings are its values by dotted key.
        departures: (key, the recipe's value, this run's value); None when that cannot be said.
        bad_files: {"path", "reason"} of every picture that could not be read.
        checksums: (file name, SHA-256) of the weights.
    """

    folder: Path
    epochs: tuple[Record, ...]
    evaluation: Record | None
    summary: Record
    environment: Record
    config_text: str
    settings: Record
    departures: Departures | None
    bad_files: tuple[Record, ...]
    checksums: tuple[tuple[str, str], ...]

    @property
    def trained(self) -> tuple[Record, ...]:
        """The epochs after the untrained one."""
        return tuple(epoch for epoch in self.epochs if epoch["epoch"] > 0)

    @property
    def health(self) -> Record:
        """The last health that was measured, empty when none was."""
        measured = [epoch["health"] for epoch in self.epochs if epoch.get("health")]
        return measured[-1] if measured else {}

    @property
    def health_verdict(self) -> str:
        """The run's health in words, empty when it was never measured."""
        verdicts = [epoch["verdict"] for epoch in self.epochs if epoch.get("verdict")]
        return str(self.summary.get("verdict") or (verdicts[-1] if verdicts else ""))


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        RunError: the folder is missing, holds no run, or one of its files is damaged.
    """
    if not folder.is_dir():
        raise RunError(
            f"no run folder at {folder}: give the folder that `looktwice pretrain` wrote"
        )
    text = _text(folder / "config.toml")
    epochs = tuple(_lines(folder / "metrics.jsonl"))
    if not text and not epochs:
        raise RunError(f"{folder} holds no run: neither config.toml nor metrics.jsonl is there")
    return RunRecord(
        folder=folder,
        epochs=epochs,
        evaluation=_json(folder / "evaluation.json") or None,
        summary=_json(folder / "summary.json"),
        environment=_json(folder / "environment.json"),
        config_text=text,
        settings=_settings(folder / "config.toml", text),
        departures=_departures(folder / "config.toml"),
        bad_files=tuple(_lines(folder / "bad_files.jsonl")),
        checksums=tuple(_checksums(folder / "encoder.safetensors")),
    )


def finite(value: object) -> float | None:
    """Return a measured number as float; None for null, NaN and infinities."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def _json(path: Path) -> Record:
    text = _text(path)
    return _object(text, str(path)) if text else {}


def _lines(path: Path) -> Iterator[Record]:
    text = _text(path)
    for number, line in enumerate(text.split("\n"), start=1):
        # A run that was killed while it wrote leaves a last line without its newline.
        unfinished = number == text.count("\n") + 1
        if line.strip() and not unfinished:
            yield _object(line, f"{path}, line {number}")


def _object(text: str, where: str) -> Record:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RunError(f"{where} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise RunError(
            f"{where} is damaged: a JSON object was expected, not {type(value).__name__}"
        )
    return value


def _settings(path: Path, text: str) -> Record:
    """Return values by dotted key; none when another version wrote keys unknown to this one."""
    try:
        return config.parse(text, str(path))
    except UsageError:
        return {}


def _departures(path: Path) -> Departures | None:
    """Return what departs from the recipe; None when this version lacks it or one of the keys."""
    try:
        return tuple(config.diff(config.load(path)))
    except UsageError:
        return None


def _checksums(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_file():
        with path.open("rb") as file:
            yield path.name, hashlib.file_digest(file, "sha256").hexdigest()
