"""Runs that are disturbed: what a child of `survival.py` does.

The server from which children are forked imports this module, and with it everything that a run
imports; it trains nothing. Kernels are loaded from Numba's cache then too, by a dry run.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # by torch's optimisers, when the first one is made
from faults import Shim

from looktwice import config, recovery, train
from looktwice.cli import main

STEPS, EVERY = 12, 3
COMMON = {
    "augment.size": 8,
    "model.image_size": 8,
    "train.batch_size": 8,
    "train.micro_batch": 4,
    "train.bn_group": 4,
    "train.steps": STEPS,
    "train.minutes": 0,
    "train.threads": 1,
    "train.checkpoint_every": EVERY,
    "optim.warmup_epochs": 0,
    "data.threads": 1,
}
METHODS: dict[str, dict[str, object]] = {
    "simclr": {},
    "moco": {"method.name": "moco", "method.queue_size": 32},
}


@dataclass(frozen=True)
class Disturbance:
    """What happens to a process.

    Attributes:
        call: at which call of all its saves something happens, from 0; -1 for none.
        kind: what; of `faults.KINDS` or `faults.SIGNALS`.
        seconds: after which it kills itself; 0 for never.
        rank: of processes that train together, the one that it happens to.
    """

    call: int = -1
    kind: str = "kill"
    seconds: float = 0.0
    rank: int = 0


def arguments(folder: Path, source: str, method: str) -> list[str]:
    """Return the command that starts a run, or goes on with it."""
    if (folder / "config.toml").exists():
        return ["resume", str(folder)]
    settings = {**COMMON, **METHODS[method], "data.source": source}
    flags = [part for key, value in settings.items() for part in (f"--{_flag(key)}", str(value))]
    return ["pretrain", "--recipe", "simclr-tiny", "--out", str(folder), *flags]


def _flag(key: str) -> str:
    return key.replace("_", "-")


def run(
    folder: Path, source: str, method: str, disturbance: Disturbance, events: Connection | None
) -> None:
    """Start a run or go on with it, in a process of its own; it ends with the command's code.

    Events are sent: ("step", steps done), ("save", calls before), ("saved", calls so far), and
    ("asked", by the clock) if a signal came inside a save.
    """
    here = int(os.environ.get("RANK", "0")) == disturbance.rank
    shim = Shim(disturbance.call if here else -1, disturbance.kind)
    _report(shim, events)
    timer = threading.Timer(disturbance.seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True  # a run that ends before is not waited for
    if disturbance.seconds and here:
        timer.start()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    if "RANK" not in os.environ:
        with (folder.parent / "errors.txt").open("ab") as file:
            os.dup2(file.fileno(), 2)
    code = main(arguments(folder, source, method))
    if events is not None and shim.asked:
        events.send(("asked", shim.asked))
    timer.cancel()  # killed after its end, a process leaves torch's agent waiting for ever
    os._exit(code) if code else sys.exit(0)


def _report(shim: Shim, events: Connection | None) -> None:
    plain_step, plain_save = train.train_step, recovery.save

    def tell(*event: object) -> None:
        if events is not None:
            events.send(event)

    def step(training: Any, batch: Any, *others: Any) -> tuple[float, float]:
        tell("step", batch.step)
        return plain_step(training, batch, *others)

    def save(*everything: Any) -> None:
        tell("save", len(shim.log))
        with shim:
            plain_save(*everything)
        tell("saved", len(shim.log))

    vars(train).update(train_step=step, save=save)


def together(folder: str, source: str, disturbance: Disturbance) -> None:
    """Do `run` as one of several processes that torchrun's agent started."""
    run(Path(folder), source, "simclr", disturbance, None)


def _load_kernels() -> None:
    torch.set_num_threads(1)
    settings = {**COMMON, "data.source": os.environ["SURVIVAL_SOURCE"]}
    train.dry_run(config.resolve(recipe="simclr-tiny", flags=settings, environ={}), None)


if "SURVIVAL_SOURCE" in os.environ:
    _load_kernels()
