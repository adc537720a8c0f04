"""Running a study: which runs, in which order, in how many processes, for how long."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final, TextIO

from looktwice import config as configuration
from looktwice.config import DURATIONS, Config
from looktwice.errors import DataError, RunError, UsageError
from looktwice.run import build_policy, open_data
from looktwice.study import work
from looktwice.study.board import Board
from looktwice.study.definition import Study
from looktwice.study.forecast import Forecast
from looktwice.study.measures import BASELINES, ENCODER, check_measures, is_score, needs_head
from looktwice.study.store import address
from looktwice.study.work import Task

DEFAULT_FOLDER: Final = Path("studies")
RUNS: Final = "runs"
NEAR_THE_END: Final = 0.5
"""A run is begun while at least this share of it fits into the minutes that are left."""


@dataclass(frozen=True)
class Plan:
    """A study with its pictures and runs.

    Attributes:
        study: what is compared.
        data: the pictures' name.
        tasks: one a variant and seed, all variants of a seed before the next.
        seeds: how many.
        pictures: number of those to train on.
        folder: of the study's results.
    """

    study: Study
    data: str
    tasks: tuple[Task, ...]
    seeds: int
    pictures: int
    folder: Path


@dataclass
class _State:
    """What is going on."""

    waiting: list[Task]
    running: dict[Connection, tuple[Any, Task, float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def plan(
    study: Study,
    *,
    data: str | None = None,
    seeds: int | Sequence[int] = 3,
    jobs: int = 1,
    folder: Path | None = None,
    settings: Mapping[str, object] | None = None,
) -> Plan:
    """Return the runs of a study.

    Args:
        study: what is compared.
        data: pictures; None takes those that the study names.
        seeds: seeds 0 to this - 1, or these, the same for every variant.
        jobs: processes at once, which share the cores.
        folder: where studies and their runs are kept; ``studies`` by default.
        settings: dotted keys over those of the study and all its variants.

    Raises:
        UsageError: no pictures named, no length in epochs or steps, or settings that contradict.
        DataError: the pictures cannot be opened.
    """
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    if not numbers:
        raise UsageError(f"--seeds is {seeds}; it must be at least 1")
    if jobs < 1:
        raise UsageError(f"--jobs is {jobs}; it must be at least 1")
    check_measures(study.measures, f"study {study.name}")
    source = data or study.data
    if not source:
        raise UsageError(f"study {study.name}: no pictures named; give --data FOLDER or NAME")
    place = folder or DEFAULT_FOLDER
    threads = max(1, (os.cpu_count() or 1) // jobs)
    over = {"data.source": source, "train.threads": threads, **(settings or {})}
    configs = {variant.name: _config(study, variant.settings, over) for variant in study.variants}
    splits = open_data(next(iter(configs.values())).data)
    scores = [name for name in study.measures if is_score(name)]
    if scores and splits.test is None:
        raise DataError(
            f"study {study.name} measures {scores[0]!r}, which needs labels, and {source!r} has "
            "none: put the pictures in one folder a class, or give measures such as 'rank'"
        )
    train = splits.train
    tasks = tuple(
        _task(study, name, config, seed, place / RUNS, train.fingerprint())
        for seed in numbers
        for name, config in configs.items()
    )
    return Plan(study, source, tasks, len(numbers), len(train), place / study.name)


def _config(study: Study, own: Mapping[str, object], over: Mapping[str, object]) -> Config:
    flags = configuration.laid_over(configuration.laid_over(study.settings, own), over)
    config = configuration.resolve(recipe=study.recipe, flags=flags, environ={})
    if config.train.minutes:
        raise UsageError(
            f"study {study.name}: its length must be in epochs or steps, which every machine "
            f"counts alike, not in minutes; set one of {' and '.join(DURATIONS[:2])}"
        )
    build_policy(config.augment)
    return config


def _task(study: Study, name: str, config: Config, seed: int, runs: Path, pictures: str) -> Task:
    seeded = configuration.with_values(
        config,
        {"train.seed": seed, "train.monitor_every": 100000, "train.keep_last": 1},
    )
    has_head = config.model.head != "none"
    own = tuple(m for m in study.measures if has_head or not needs_head(m))
    wanted = {ENCODER: own}
    if name == study.reference:
        wanted |= dict.fromkeys(BASELINES, tuple(m for m in own if is_score(m, of_features=True)))
    return Task(name, seed, seeded, runs / address(seeded, pictures), wanted)


def shard(tasks: Sequence[Task], text: str | None) -> list[Task]:
    """Return this machine's share of the runs: every n-th, from "i/n", i from 1 to n.

    Raises:
        UsageError: another text.
    """
    if text is None:
        return list(tasks)
    number, _, total = text.partition("/")
    if not (number.isdigit() and total.isdigit() and 1 <= int(number) <= int(total)):
        raise UsageError(f"--shard is {text!r}; it must be i/n with 1 <= i <= n, such as 1/4")
    return list(tasks)[int(number) - 1 :: int(total)]


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
        board.begin(len(todo), sum(forecast.seconds(t.config) for t in todo) / jobs, minutes)
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
        if left is not None and left < NEAR_THE_END * forecast.seconds(task.config):
            return
        state.waiting.pop(0)
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = _context().Process(target=work.in_process, args=(task, theirs, os.getpid()))
        process.start()
        theirs.close()
        state.running[ours] = process, task, time.monotonic()
        board.started(task)


def _collect(state: _State, board: Board, forecast: Forecast) -> None:
    """Wait until a process answers, or for a moment."""
    for ready in wait(list(state.running), timeout=1.0):
        assert isinstance(ready, Connection)
        process, task, begun = state.running.pop(ready)
        try:
            kind, why = ready.recv()
        except EOFError:
            kind, why = "failed", "its process was killed"
        process.join()
        seconds = time.monotonic() - begun
        if kind == "done":
            forecast.learn(task.config, seconds)
        else:
            state.failed[f"{task.variant}, seed {task.seed}"] = why or kind
        board.ended(task, kind, why, seconds)


def _left(state: _State, forecast: Forecast, jobs: int) -> float:
    now = time.monotonic()
    waiting = sum(forecast.seconds(task.config) for task in state.waiting)
    under_way = [
        max(0.0, forecast.seconds(task.config) - (now - begun))
        for _, task, begun in state.running.values()
    ]
    return (waiting + sum(under_way)) / jobs


@contextmanager
def _children(state: _State, board: Board) -> Iterator[None]:
    """Let no process outlive this block: those under way are asked to save and end."""
    try:
        yield
    except KeyboardInterrupt:
        board.say("stopping: runs under way are saved, and the same command goes on with them")
        raise
    finally:
        for process, _, _ in state.running.values():
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)
        for process, _, _ in state.running.values():
            process.join()
