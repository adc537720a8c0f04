"""Where a run stands: what it counts, saved with all that decides the rest of it, and put back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from looktwice import distributed
from looktwice.build import Training
from looktwice.checkpoint import (
    checkpoint_name,
    generator_tensors,
    list_checkpoints,
    load_checkpoint,
    load_generator_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
    prune_checkpoints,
    save_checkpoint,
    set_aside,
)
from looktwice.console import TrainingConsole
from looktwice.data import BadPicture
from looktwice.errors import DamagedError, RunError
from looktwice.run import Run, read_lines
from looktwice.storage import write_atomic


@dataclass
class Progress:
    """What the loop counts; saved with every checkpoint, so that a resumed run counts on."""

    step: int = 0
    told: int = -1  # the step up to which epochs are measured and recorded
    skipped: int = 0
    skipped_in_row: int = 0
    loss_sum: float = 0.0
    top1_sum: float = 0.0
    steps_summed: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    best_knn: float = -1.0
    best_step: int = -1
    untrained: dict[str, Any] = field(default_factory=dict)
    bad_pictures: dict[str, list[str]] = field(default_factory=dict)  # index: name, reason

    def add(self, loss: float, top1: float) -> None:
        """Count a step that was taken."""
        self.skipped_in_row = 0
        self.steps_summed += 1
        self.loss_sum += loss
        self.top1_sum += top1

    def mean(self, total: float) -> float | None:
        """Return a sum's mean over the steps of this epoch; None before any step."""
        return total / self.steps_summed if self.steps_summed else None


def save(run: Run, training: Training, progress: Progress, console: TrainingConsole) -> None:
    """Write a checkpoint of everything that decides the rest of the run; drop older ones.

    Raises:
        RunError: weights that are not finite, which take no good ones' place; or the disk is full.
    """
    check_weights(training, progress)
    generators = distributed.from_all(generator_tensors())
    if not distributed.is_first():
        return
    parts = {
        "method": training.method.state_dict(),
        "optimizer": optimizer_tensors(training.optimizer),
        "generators": {
            f"{rank}.{name}": state
            for rank, own in enumerate(generators)
            for name, state in own.items()
        },
    }
    save_checkpoint(run.checkpoints, progress.step, parts, dataclasses.asdict(progress))
    best = run.checkpoints / checkpoint_name(progress.best_step)
    try:
        prune_checkpoints(run.checkpoints, keep_last=training.config.train.keep_last, keep=best)
    except RunError as error:
        console.say(f"{error}; training goes on")


def check_weights(training: Training, progress: Progress) -> None:
    """Raise RunError if weights or running statistics are not finite: an update overflowed."""
    method = training.method
    statistics = [(name, b) for name, b in method.named_buffers() if ".running_" in name]
    for name, tensor in (*method.named_parameters(), *statistics):
        if not tensor.isfinite().all():
            raise RunError(
                f"{name} is not finite any more at step {progress.step}; the checkpoint before "
                "is the last good state. Lower --optim.base-lr, or raise --method.temperature"
            )


def restore(run: Run, training: Training, console: TrainingConsole) -> Progress:
    """Put a run's last whole checkpoint back and return where it stood; else a new start.

    The first process reads it for all of them.
    """
    found = last_checkpoint(run, console) if distributed.is_first() else None
    found = distributed.from_first(found)
    progress = Progress()
    if found is not None:
        progress = put_back(training, *found)
    training.loader.bad_pictures.update(
        {int(index): BadPicture(*found) for index, found in progress.bad_pictures.items()}
    )
    if distributed.is_first():
        for file, last in ((run.metrics_file, progress.told), (run.skipped_file, progress.step)):
            if file.exists():
                kept = [record for record in read_lines(file) if record["step"] <= last]
                write_atomic(file, "".join(json.dumps(record) + "\n" for record in kept))
        if all(record["step"] != progress.told for record in read_lines(run.metrics_file)):
            progress.told = -1  # its line is lost: what can be measured is measured again
    progress.told = distributed.from_first(progress.told)
    return progress


def put_back(
    training: Training, parts: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]
) -> Progress:
    """Put what a checkpoint holds into a training; RunError if it is of another one."""
    fresh = dataclasses.asdict(Progress())
    try:
        if {key: type(value) for key, value in state.items()} != {
            key: type(value) for key, value in fresh.items()
        }:
            raise ValueError("its counters are not those of a run")
        training.method.load_state_dict(parts["method"])
        load_optimizer_tensors(training.optimizer, parts["optimizer"])
        _load_own_generators(parts["generators"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"the last checkpoint does not fit the run's configuration ({reason}): put the "
            "config.toml back that the run was started with, or start a new run"
        ) from error
    return Progress(**state)


def _load_own_generators(states: dict[str, torch.Tensor]) -> None:
    """Put back this process's generators; one that was not there when they were saved begins."""
    prefix = f"{distributed.rank()}."
    own = {name.removeprefix(prefix): t for name, t in states.items() if name.startswith(prefix)}
    if own or distributed.is_first():
        load_generator_tensors(own)


def last_checkpoint(
    run: Run, console: TrainingConsole
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]] | None:
    """Return the last checkpoint that is whole; set those after it aside.

    Raises:
        RunError: there are some, and none is whole.
    """
    damaged: list[Path] = []
    for path in reversed(list_checkpoints(run.checkpoints)):
        try:
            found = load_checkpoint(path)
        except DamagedError as error:
            console.say(f"{error}; going back to the one before it")
            damaged.append(path)
            continue
        for each in damaged:
            console.say(f"{each.name} is kept as {set_aside(each).name}")
        return found
    if damaged:
        raise RunError(
            f"none of the checkpoints in {run.checkpoints} is whole; remove that folder to start "
            "the run anew"
        )
    return None
