"""What a study says while it runs: a live table on a terminal, a line a run elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO, final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from looktwice.console import clock
from looktwice.study.measures import ENCODER, UNITS, is_score, title
from looktwice.study.planning import Plan
from looktwice.study.work import Task


@final
class Board:
    """Shows which runs are done, running and waiting; a context manager.

    Until the table at the end, accuracies are those on validation.
    """

    def __init__(self, file: TextIO, plan: Plan, done: Sequence[Task]) -> None:
        self._console = Console(file=file, highlight=False, soft_wrap=True)
        self._plan = plan
        self._main = plan.study.measures[0]
        on = " on validation" if is_score(self._main) else ""
        self._title = f"{title(self._main)}{on}"
        self._running: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._values: dict[str, list[float]] = {v.name: [] for v in plan.study.variants}
        self._left = ""
        for task in done:
            self._add(task)
        self._live = Live(
            console=self._console, get_renderable=self._draw, auto_refresh=False, transient=True
        )
        self._alive = self._console.is_terminal

    def __enter__(self) -> Board:
        if self._alive:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._alive:
            self._live.stop()

    def begin(self, runs: int, seconds: float, minutes: float | None) -> None:
        """Say what is about to be done, and how long it takes."""
        known = len(self._plan.tasks) - runs
        done = f", {known} are there already" if known else ""
        budget = f"; runs are begun for {clock(60 * minutes)}" if minutes is not None else ""
        self.say(
            f"study {self._plan.study.name}: {len(self._plan.study.variants)} variants, "
            f"{self._plan.seeds} seeds, {runs} runs to make{done}: about {clock(seconds)}{budget}"
        )

    def say(self, line: str) -> None:
        """Print one line, above the table where there is one."""
        self._console.print(line, markup=False)

    def started(self, task: Task) -> None:
        """Note that a run has begun."""
        self._running[task.variant] += 1
        self._refresh()

    def ended(self, task: Task, kind: str, why: str, seconds: float) -> None:
        """Note that a run has ended, and how."""
        self._running[task.variant] -= 1
        name = f"{task.variant}, seed {task.seed}"
        if kind == "done":
            value = self._add(task)
            shown = f"{self._title} {_shown(self._main, value)}, " if value is not None else ""
            self.say(f"{name}: {shown}{clock(seconds)}")
        else:
            self._failed[task.variant] += kind == "failed"
            self.say(f"{name}: {why or kind}")
        self._refresh()

    def say_left(self, seconds: float) -> None:
        """Show the time that is left."""
        self._left = f"about {clock(seconds)} left"
        self._refresh()

    def end(self, waiting: int) -> None:
        """Say what was not begun."""
        if waiting:
            self.say(f"{waiting} runs were not begun; the same command makes them")

    def _add(self, task: Task) -> float | None:
        record = task.measured().get(ENCODER, {}).get(self._main, {})
        value: float | None = record.get("validation_accuracy", record.get("value"))
        if value is not None:
            self._values[task.variant].append(value)
        return value

    def _refresh(self) -> None:
        if self._alive:
            self._live.refresh()

    def _draw(self) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column(self._plan.study.name)
        table.add_column("runs", justify="right")
        table.add_column(self._title, justify="right")
        table.add_column("")
        for name, values in self._values.items():
            mean = _shown(self._main, sum(values) / len(values)) if values else ""
            state = "running" if self._running[name] > 0 else ""
            state += f" {self._failed[name]} failed" if self._failed[name] else ""
            table.add_row(Text(name), f"{len(values)}/{self._plan.seeds}", mean, state)
        return Group(table, Text(self._left))


def _shown(measure: str, value: float) -> str:
    return f"{value:.3g} {UNITS[measure]}".strip() if measure in UNITS else f"{100 * value:.1f} %"
