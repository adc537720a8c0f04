"""What a training run says while it goes: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any, TextIO, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@final
class TrainingConsole:
    """Prints one line an epoch, and on a terminal a bar of steps below; a context manager."""

    def __init__(self, file: TextIO, task: str = "training") -> None:
        self._console = Console(file=file, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(task, total=None)

    def __enter__(self) -> TrainingConsole:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        self._bar.console.print(line, markup=False)

    def step(self, done: int, total: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, total=total)


def epoch_line(record: dict[str, Any], *, num_epochs: float, seconds_left: float) -> str:
    """Return one epoch's record as a line of a log."""
    parts = [f"epoch {record['epoch']:>3}/{num_epochs:.0f}"]
    if record["loss"] is not None:
        chance = record["chance_loss"]
        beside = "" if chance is None else f" (chance {chance:.3f})"
        parts.append(f"loss {record['loss']:.3f}{beside}")
        parts.append(f"top-1 {record['top1']:6.1%}")
    else:
        parts.append("no step taken" if record["step"] else "untrained")
    if record["knn"] is not None:
        parts.append(f"k-NN {record['knn']:.1%}")
    if record["learning_rate"] is not None:
        parts.append(f"lr {record['learning_rate']:.3g}")
    time = record["time"]
    if record["loss"] is not None:
        parts.append(f"{time['pictures_per_second']:,.0f} pictures/s")
        parts.append(f"waiting {time['waiting_percent']:.1f} %")
        parts.append(f"{time['memory_mb']:,.0f} MB")
        parts.append(f"{clock(seconds_left)} left")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Return seconds as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
