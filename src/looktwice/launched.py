"""What torchrun tells a process about itself, and what the process says when it fails.

Processes that train together fail together: one line must say why, not one line each. The standard
library alone is used (and our errors), since a mistyped flag need not wait for torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

from looktwice.errors import UsageError

PATIENCE: Final = 4.0
"""Seconds in which torchrun ends a process after another one failed, or that one says why."""

_ERROR_FILE: Final = "TORCHELASTIC_ERROR_FILE"


def rank() -> int:
    """Return this process's number among all that were started together, from 0."""
    return _number("RANK", 0) if world_size() > 1 else 0


def world_size() -> int:
    """Return how many processes were started together."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Return this process's number on its machine, which is that of its GPU."""
    return _number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Return how many of the processes are on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # macOS lacks it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check() -> None:
    """Raise UsageError where the environment tells no numbers of processes."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        if not os.environ.get(name, "0").isdecimal():
            raise UsageError(
                f"the environment says {name}={os.environ[name]!r}, which is no number: unset it, "
                "or start the processes by torchrun"
            )


def _number(name: str, otherwise: int) -> int:
    told = os.environ.get(name, "")
    return int(told) if told.isdecimal() else otherwise


@contextlib.contextmanager
def quiet_unless_first() -> Iterator[None]:
    """Let standard output be that of the first process alone."""
    if rank() == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def tell(line: str, *, follows: bool) -> None:
    """Print why this process ends, unless another one of this machine says so.

    torchrun is told as well: it repeats the first reason below its own report.

    Args:
        line: the reason.
        follows: it ends because another process did. torchrun, which ends those that are left, is
            given time to do so in silence: the line is printed where it does not, since the
            other process is on another machine.
    """
    if world_size() > 1:
        if not follows:
            _leave_for_torchrun(line)
        echo = follows or (local_rank() > 0 and _said_by_neighbour(line))
        if echo:
            time.sleep(PATIENCE)
        if echo and local_rank() > 0:
            return
    name = f"process {rank()}: " if rank() else ""
    print(f"looktwice: {name}{line}", file=sys.stderr, flush=True)


def leave(code: int) -> NoReturn:
    """End this process with `code`.

    One that fails among others ends at once: the interpreter's own end would meet the threads
    of connections that nobody closed, which now and then abort the process and hide its code.
    """
    if code and world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _leave_for_torchrun(line: str) -> None:
    name = os.environ.get(_ERROR_FILE)
    if name:
        # The shape that torch.distributed.elastic reads; without its traceback.
        reason = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError):
            Path(name).write_text(json.dumps({"message": reason}), "utf-8")


def _said_by_neighbour(line: str) -> bool:
    """Wait for the first process of this machine to meet the same error; tell whether it did.

    torchrun keeps error files as ``<attempt>/<local rank>/error.json``.
    """
    own = Path(os.environ.get(_ERROR_FILE, ""))
    neighbours = own.parent.parent / "0" / own.name
    deadline = time.monotonic() + PATIENCE
    while own.name and time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(neighbours.read_text("utf-8"))
            return bool(told["message"]["message"] == line)
        time.sleep(0.05)
    return False
