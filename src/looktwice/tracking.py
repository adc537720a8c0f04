"""Trackers: each epoch's numbers for TensorBoard or Weights & Biases too, where a run asks.

A tracker writes into the run folder. Nothing is sent anywhere, unless ``WANDB_MODE=online`` is
set, which is Weights & Biases' own variable.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from looktwice.config import Scalar
from looktwice.errors import RunError, UsageError
from looktwice.storage import write_atomic

OFFLINE: Final = "offline"


class Tracker(Protocol):
    """What gets the numbers of a run as it goes on; open between `begin` and `end`."""

    def begin(self, folder: Path, settings: Mapping[str, Scalar], step: int) -> None:
        """Open, or go on with, what is tracked of a run.

        Args:
            folder: the run's; its name is the run's.
            settings: its configuration by dotted key.
            step: the run goes on after it; 0 for a new one. What was written of later ones is void.
        """

    def write(self, record: dict[str, Any]) -> None:
        """Write one epoch's record, as of metrics.jsonl, at its step."""

    def end(self, *, finished: bool) -> None:
        """Close; `finished` is false where the run was stopped or failed."""


def build_tracker(name: str) -> Tracker:
    """Return the tracker of a name of `TRACKERS`, not yet begun.

    Raises:
        UsageError: its package is not installed.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UsageError(f"--train.tracker {name} needs its extra: pip install 'looktwice[{name}]'")
    return TRACKERS[name]()


@contextlib.contextmanager
def tracked(
    tracker: Tracker, folder: Path, settings: Mapping[str, Scalar], step: int
) -> Iterator[None]:
    """Keep a tracker open while a run is trained; arguments as of `Tracker.begin`.

    Raises:
        RunError: it cannot write, or Weights & Biases refuses.
    """
    tracker.begin(folder, settings, step)
    try:
        yield
    except BaseException:
        with contextlib.suppress(RunError):  # what ended the run is to be told, not this
            tracker.end(finished=False)
        raise
    tracker.end(finished=True)


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """Return one epoch's numbers by their names in metrics.jsonl; what was not measured is out."""
    groups = (record, record["health"] or {}, record["time"])
    return {k: v for group in groups for k, v in group.items() if isinstance(v, float)}


class NoTracker:
    """What a run has that asks for none."""

    def begin(self, folder: Path, settings: Mapping[str, Scalar], step: int) -> None:
        """Do nothing."""

    def write(self, record: dict[str, Any]) -> None:
        """Do nothing."""

    def end(self, *, finished: bool) -> None:
        """Do nothing."""


class TensorBoard:
    """Events in the run's folder ``tensorboard``; a resumed run's hide those that are void.

    They are written here and now: SummaryWriter's thread ends with a traceback at a full disk.
    """

    def begin(self, folder: Path, settings: Mapping[str, Scalar], step: int) -> None:  # noqa: ARG002
        """Open a file of events. Configuration is not written: config.toml has it."""
        self._folder = folder / "tensorboard"
        with _plainly(self._folder):
            self._folder.mkdir(exist_ok=True)
            file = self._folder / f"events.out.tfevents.{time.time_ns()}"  # read in this order
            self._file = file.open("xb", buffering=0)
        purged = step + 1 if step else 0  # a start hides what other files have from its step on
        self._event(file_version="brain.Event:2")
        self._event(step=purged, session_log={"status": "START"})

    def write(self, record: dict[str, Any]) -> None:
        """Write one event."""
        values = [{"tag": name, "simple_value": value} for name, value in scalars(record).items()]
        self._event(step=record["step"], summary={"value": values})

    def end(self, *, finished: bool) -> None:  # noqa: ARG002
        """Close the file."""
        with _plainly(self._folder):
            self._file.close()

    def _event(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        content = io.BytesIO()
        RecordWriter(content).write(Event(wall_time=time.time(), **fields).SerializeToString())
        with _plainly(self._folder):
            if self._file.write(content.getvalue()) < content.tell():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class WeightsAndBiases:
    """A run of Weights & Biases in the run's folder ``wandb``, offline unless WANDB_MODE says else.

    The first start draws an id, kept in ``wandb/id``: a resumed run is the same run there.
    """

    def begin(self, folder: Path, settings: Mapping[str, Scalar], step: int) -> None:  # noqa: ARG002
        """Open a run, of WANDB_PROJECT or "looktwice"; all else is the user's settings of wandb."""
        mode: Any = os.environ.get("WANDB_MODE", OFFLINE)
        if mode == OFFLINE:  # its own reports of errors are not to be sent either
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._folder = folder / "wandb"
        with _plainly(self._folder):
            self._run = _wandb_run(mode, folder, _kept_id(self._folder / "id"), settings)

    def write(self, record: dict[str, Any]) -> None:
        """Write; wandb leaves out steps that it has already, which are the same numbers."""
        with _plainly(self._folder):
            self._run.log(scalars(record), step=record["step"])

    def end(self, *, finished: bool) -> None:
        """Finish the run."""
        with _plainly(self._folder):
            self._run.finish(exit_code=0 if finished else 1)


TRACKERS: Final[dict[str, Callable[[], Tracker]]] = {
    "none": NoTracker,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def _kept_id(file: Path) -> str:
    if not file.exists():
        write_atomic(file, secrets.token_hex(8))
    return file.read_text("utf-8").strip()


def _wandb_run(mode: Any, folder: Path, run_id: str, settings: Mapping[str, Scalar]) -> Any:
    import wandb

    quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
    try:
        return wandb.init(
            mode=mode,
            project=os.environ.get("WANDB_PROJECT", "looktwice"),
            dir=folder,
            id=run_id,
            name=folder.absolute().name,
            config=dict(settings),
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # a run that the user's own program has open is left alone
            settings=quiet,
        )
    except (wandb.errors.Error, ValueError) as error:
        raise RunError(f"--train.tracker wandb: {error}") from error


@contextlib.contextmanager
def _plainly(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {folder}: {error.strerror or error}; free space, or set "
            "--train.tracker none"
        ) from error
