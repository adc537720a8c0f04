"""Running a study: which runs, in which order, in how many processes, for how long."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final, TextIO

from looktwice.config import Config
from looktwice.errors import RunError
from looktwice.study import work
from looktwice.study.board import Board
from looktwice.study.forecast import Forecast
from looktwice.study.planning import Plan, shard
from looktwice.study.work import Task

NEAR_THE_END: Final = 0.5
"""A run is begun while at least this share of it fits into the minutes that are left."""


@dataclass(frozen=True)
class _Running:
    """A run under way; whether it was trained before it began."""

    process: Any
    task: Task
    trained: bool
    begun: float


@dataclass
class _State:
    """What is going on."""

    waiting: list[Task]
    running: dict[Connection, _Running] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run_study(
    made: Plan,
    *,
    jobs: int = 1,
    share: str | None = None,
    minutes: float | None = None,
    file: TextIO,
) -> dict[str, str]:
    """Make the runs that are missing.

    Each run has a process of its own, forked from a server that has only imported. What a run
    raises ends that run; the others go on.

    Args:
        made: by `plan`.
        jobs: processes at once.
        share: see `shard`.
        minutes: after which no run is begun.
        file: where progress is printed.

    Returns:
        Why runs failed, by variant and seed in words.

    Raises:
        KeyboardInterrupt: Ctrl-C; runs under way are saved first.
    """
    todo = _unique(task for task in shard(made.tasks, share) if task.missing())
    with Board(file, made, [task for task in made.tasks if not task.missing()]) as board:
        if not todo:
            return {}
        forecast = Forecast(made.pictures, todo[0].config, probe(todo[0].config))
        board.begin(len(todo), sum(_seconds(forecast, task) for task in todo) / jobs, minutes)
        state = _State(todo)
        begun = time.monotonic()
        with _children(state, board):
            while state.waiting or state.running:
                left = None if minutes is None else 60 * minutes - (time.monotonic() - begun)
                _fill(state, jobs, left, board, forecast)
                if not state.running:
                    break
                _collect(state, board, forecast)
                board.say_left(_left(state, forecast, jobs))
        board.end(len(state.waiting))
        return state.failed


def _unique(tasks: Iterator[Task]) -> list[Task]:
    """Leave out a task that is another's run with the same measures: two variants can be one."""
    found: dict[Path, Task] = {}
    for task in tasks:
        known = found.get(task.folder)
        if known is None or len(task.wanted) > len(known.wanted):
            found[task.folder] = task
    return list(found.values())


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["looktwice.study.work"])
    return context


def probe(config: Config) -> float:
    """Return how many steps a second runs of a configuration make here, in a process of their own.

    Raises:
        RunError: whatever such a run would raise.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = _context().Process(
        target=work.probe_in_process, args=(config, theirs, os.getpid()), daemon=True
    )
    process.start()
    theirs.close()
    try:
        kind, found = ours.recv()
    except EOFError:
        kind, found = "failed", "the process that tried ended without a word"
    process.join()
    if kind != "done":
        raise RunError(str(found))
    return float(found)


def _fill(state: _State, jobs: int, left: float | None, board: Board, forecast: Forecast) -> None:
    while state.waiting and len(state.running) < jobs:
        task = state.waiting[0]
        if left is not None and left < NEAR_THE_END * _seconds(forecast, task):
            return
        state.waiting.pop(0)
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = _context().Process(target=work.in_process, args=(task, theirs, os.getpid()))
        running = _Running(process, task, task.trained(), time.monotonic())
        process.start()
        theirs.close()
        state.running[ours] = running
        board.started(task)


def _collect(state: _State, board: Board, forecast: Forecast) -> None:
    """Wait until a process answers, or for a moment."""
    for ready in wait(list(state.running), timeout=1.0):
        assert isinstance(ready, Connection)
        ended = state.running.pop(ready)
        task = ended.task
        try:
            kind, why = ready.recv()
        except EOFError:
            kind, why = "failed", "its process was killed"
        ended.process.join()
        seconds = time.monotonic() - ended.begun
        if kind == "done":
            forecast.learn(task.config, seconds, trained=ended.trained)
        else:
            state.failed[f"{task.variant}, seed {task.seed}"] = why or kind
        board.ended(task, kind, why, seconds)


def _left(state: _State, forecast: Forecast, jobs: int) -> float:
    now = time.monotonic()
    waiting = sum(_seconds(forecast, task) for task in state.waiting)
    under_way = [
        max(0.0, forecast.seconds(r.task.config, trained=r.trained) - (now - r.begun))
        for r in state.running.values()
    ]
    return (waiting + sum(under_way)) / jobs


def _seconds(forecast: Forecast, task: Task) -> float:
    return forecast.seconds(task.config, trained=task.trained())


@contextmanager
def _children(state: _State, board: Board) -> Iterator[None]:
    """Let no process outlive this block: those under way are asked to save and end."""
    try:
        yield
    except KeyboardInterrupt:
        board.say("stopping: runs under way are saved, and the same command goes on with them")
        raise
    finally:
        for running in state.running.values():
            if running.process.is_alive():
                os.kill(running.process.pid, signal.SIGTERM)
        for running in state.running.values():
            running.process.join()
