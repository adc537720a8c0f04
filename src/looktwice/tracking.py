"""TensorBoard events, where the run asks for them (extra: ``tracking``)."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from looktwice.errors import UsageError


def check_tensorboard() -> None:
    """Raise UsageError when TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--train.tensorboard needs TensorBoard: pip install 'looktwice[tracking]'")


def write_events(folder: Path, record: dict[str, Any]) -> None:
    """Write one epoch's numbers, named as in metrics.jsonl, at its step."""
    writer = _writer(folder)
    for group in (record, record["health"] or {}, record["time"]):
        for name, value in group.items():
            if isinstance(value, float):
                writer.add_scalar(name, value, record["step"])
    writer.flush()


@functools.cache
def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
