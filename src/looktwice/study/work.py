"""One run of a study: trained or continued, then measured, in a process of its own.

Imported by the server that these processes are forked from: nothing here may start a thread or
compute anything on import.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch

from looktwice import config as configuration
from looktwice import train
from looktwice.build import settle
from looktwice.config import Config
from looktwice.console import TrainingConsole
from looktwice.errors import LooktwiceError
from looktwice.run import Run, open_data
from looktwice.study import store
from looktwice.study.gradients import own_method
from looktwice.study.measures import measure, parts

PROBE_MINUTES: Final = 1.0
WATCH_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Task:
    """What one process does.

    Attributes:
        variant: name of the variant.
        seed: of training, draws and views.
        config: resolved.
        folder: of the run.
        pictures: fingerprint of all splits.
        wanted: names of measures, by row.
    """

    variant: str
    seed: int
    config: Config
    folder: Path
    pictures: str
    wanted: Mapping[str, tuple[str, ...]]

    def trained(self) -> bool:
        """Return whether only measures can be missing."""
        return Run(self.folder).summary_file.exists()

    def measured(self) -> dict[str, dict[str, Any]]:
        """Return what was measured so far, by row and measure. Raises as `read_measures`."""
        return store.read_measures(Run(self.folder), self.pictures)

    def missing(self) -> dict[str, list[str]]:
        """Return the measures that are still to make, by row; empty when the task is done."""
        if not self.trained():
            return {row: list(names) for row, names in self.wanted.items()}
        known = self.measured()
        missing = {
            row: [name for name in names if not any(map(parts(name), known.get(row, {})))]
            for row, names in self.wanted.items()
        }
        return {row: names for row, names in missing.items() if names}


def in_process(task: Task, answer: Connection, parent: int) -> None:
    """Do a task and answer ("done", ""), ("busy", why), ("failed", why) or ("stopped", "").

    Args:
        task: what to do.
        answer: where to.
        parent: process that this one must not outlive.
    """
    _end_with(parent)
    answer.send(_guarded(task))


def probe_in_process(config: Config, answer: Connection, parent: int) -> None:
    """Answer how many steps such a run takes in a second."""
    _end_with(parent)
    try:
        answer.send(("done", steps_per_second(config)))
    except LooktwiceError as error:
        answer.send(("failed", str(error)))


def _guarded(task: Task) -> tuple[str, str]:
    known = Run(task.folder).config_file.is_file()
    remedy = f"; if it stays so, remove {task.folder}: then the run is made anew" if known else ""
    try:
        perform(task)
    except KeyboardInterrupt:
        return "stopped", ""
    except store.BusyError as error:
        return "busy", str(error)
    except LooktwiceError as error:
        return "failed", f"{error}{remedy}"
    except Exception as error:
        return "failed", f"unexpected {type(error).__name__}: {error}"
    return "done", ""


def perform(task: Task) -> None:
    """Train what is not trained, measure what is not measured.

    Raises:
        BusyError: another process is at it.
        LooktwiceError: whatever training and measuring raise.
    """
    run = Run(task.folder)
    with store.held(task.folder):
        splits = open_data(task.config.data)
        torch.set_num_threads(task.config.train.threads)
        with Path(os.devnull).open("w") as nowhere:
            if run.config_file.is_file():
                train.resume(run.path, file=nowhere, splits=splits, method=own_method(run.config()))
            else:
                shutil.rmtree(run.path, ignore_errors=True)  # killed before it was a run
                train.start(
                    task.config,
                    run.path,
                    command="looktwice study",
                    file=nowhere,
                    splits=splits,
                    own=own_method(task.config),
                )
        missing = task.missing()
        found: dict[str, dict[str, Any]] = {}
        for names in {tuple(names) for names in missing.values()}:
            rows = [row for row, asked in missing.items() if tuple(asked) == names]
            for row, records in measure(run, splits, names, rows, seed=task.seed).items():
                found[row] = found.get(row, {}) | records
        if found:
            store.add_measures(run, task.pictures, found)


def steps_per_second(config: Config) -> float:
    """Train a throw-away copy for some seconds; return its speed."""
    timed = configuration.with_values(
        config, {"train.minutes": PROBE_MINUTES, "train.epochs": 0.0, "train.steps": 0}
    )
    splits = open_data(config.data)
    with Path(os.devnull).open("w") as nowhere:
        console = TrainingConsole(nowhere)
        settled = train.calibrate(settle(timed, splits), splits, console, own_method(config))
    return settled.train.steps / (60 * PROBE_MINUTES)


def _end_with(parent: int) -> None:
    """End this process, whatever it does, soon after another one has ended."""

    def watch() -> None:
        while _alive(parent):
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
