"""Where the runs of studies are: in folders named by what decides their result.

The same configuration and pictures are one run, whichever study asks for it, and whether it was
made before or on another machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from looktwice import config as configuration
from looktwice.config import Config
from looktwice.errors import RunError
from looktwice.run import Run
from looktwice.storage import write_atomic

# What changes how fast a run is made or where its pictures lie, but not what is learnt. Threads and
# deterministic operations change the last bits of sums, as another machine does.
_FREE = (
    "data.source",
    "data.root",
    "data.download",
    "data.threads",
    "train.threads",
    "train.device",
    "train.deterministic",
    "train.tracker",
    "train.checkpoint_every",
    "train.keep_last",
    "train.monitor_every",
)
_LENGTH = 16  # hexadecimal digits: 2^64 names


def address(config: Config, pictures: str) -> str:
    """Return the name of a run's folder.

    Args:
        config: resolved, not settled: what people and machines choose alike.
        pictures: fingerprint of the training pictures.
    """
    values = {k: v for k, v in configuration.flatten(config).items() if k not in _FREE}
    text = json.dumps({"config": values, "pictures": pictures}, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_LENGTH]


def measures_file(run: Run) -> Path:
    """Return where a run's measurements are."""
    return run.path / "measures.json"


def read_measures(run: Run, pictures: str) -> dict[str, dict[str, Any]]:
    """Return what was measured of a run so far, by row and measure; empty if nothing was.

    Args:
        run: finished.
        pictures: fingerprint of all splits; what was measured on others does not count.

    Raises:
        RunError: the file is damaged.
    """
    file = measures_file(run)
    try:
        found = json.loads(file.read_text("utf-8"))
        rows: dict[str, dict[str, Any]] = found["rows"]
        return rows if found["pictures"] == pictures else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is damaged ({error}); remove it, and measure again") from error


def add_measures(run: Run, pictures: str, found: dict[str, dict[str, Any]]) -> None:
    """Add measurements, by row and measure, to those of a run on the same pictures."""
    known = read_measures(run, pictures)
    merged = {row: known.get(row, {}) | found.get(row, {}) for row in {**known, **found}}
    write_atomic(measures_file(run), json.dumps({"pictures": pictures, "rows": merged}))


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's place in the store, made or not, so that no other process works in it.

    Raises:
        BusyError: another process holds it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{folder} is being made by another process") from None
        yield


class BusyError(RunError):
    """Another process is at work in the same place."""
