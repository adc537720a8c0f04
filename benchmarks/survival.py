"""Whether a run that is killed or stopped, anywhere and often, ends with the bits it would have.

Each run is tiny (12 steps, a checkpoint every 3, gradient caching, grouped batch-norm; SimCLR and
MoCo, of a folder and of a tar shard, in turn) and a process of its own, forked from a server that
has only imported. One undisturbed run of each kind is what others are compared with: encoder file,
last checkpoint's tensors and counters, every line of metrics.jsonl without the clock's fields.

kills    SIGKILL at a random moment from the process's start on, or inside a save: at a random one
         of its calls to the system, before it, after it, or half-way through a write. After each
         every checkpoint must be readable, and no more than the steps since the last save lost;
         a third of the kills at least must have been inside a save.
signals  SIGTERM, SIGUSR1 or Ctrl-C at a random moment, some twice, some inside a save, some both:
         the process must end within 5 s, with its exit code, and nothing lost.
ranks    SIGKILL of one of two processes that torchrun's agent started.

    python benchmarks/survival.py [kills|signals|ranks …] [--kills 1000] [--signals 200]
        [--ranks 50] [--source FOLDER] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from disturbed import EVERY, METHODS, Disturbance, run, together
from PIL import Image
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from looktwice.checkpoint import list_checkpoints, load_checkpoint
from looktwice.cli import INTERRUPTED, SAVED
from looktwice.data import open_source
from looktwice.data.pack import pack

SECONDS = 5.0
KILLS_A_RUN = 4
CLOCK = ("seconds", "waited")
UNDISTURBED = Disturbance()
CONTEXT = multiprocessing.get_context("forkserver")


@dataclass
class Tally:
    """What happened; `wrong` says what should not have."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: of what, where it is, how long it took, how many calls its saves made."""

    method: str
    source: str
    folder: Path
    seconds: float
    calls: int


@dataclass(frozen=True)
class Ended:
    """A process that ended: exit code, steps done, calls of saves, whether inside a save."""

    code: int
    steps: int
    calls: int
    saving: bool
    seconds_after: float = 0.0


def write_pictures(folder: Path) -> None:
    """Write 80 small pictures of two classes."""
    chance = np.random.default_rng(0)
    for number in range(80):
        path = folder / ("day" if number % 2 else "night") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 128, (10, 12, 3)) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def layouts(folder: Path, given: str | None) -> dict[str, str]:
    """Return the sources to train on, by what they are: the given one, or a folder and a tar."""
    if given:
        return {"given": given}
    write_pictures(folder / "pictures")
    pack({"train": open_source(folder / "pictures")}, folder / "packed", form="shards")
    return {"folder": str(folder / "pictures"), "tar": str(folder / "packed")}


def process(
    folder: Path,
    source: str,
    method: str,
    disturbance: Disturbance = UNDISTURBED,
    act: Callable[[int], float] | None = None,
) -> Ended:
    """Run a process to its end; `act` does something to it and returns when (by the clock)."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=run, args=(folder, source, method, disturbance, sender))
    child.start()
    sender.close()
    assert child.pid is not None
    acted = act(child.pid) if act else time.monotonic()
    child.join(120)
    ended = time.monotonic()
    seconds = ended - acted
    assert child.exitcode is not None, "a process that does not end"
    steps, calls, saving = -1, 0, False
    with contextlib.suppress(EOFError):
        while receiver.poll():
            kind, number = receiver.recv()
            if kind == "step":
                steps = number
            elif kind == "asked":
                seconds = ended - number
            else:
                calls, saving = number, kind == "save"
    return Ended(child.exitcode, steps, calls, saving, seconds)


def undisturbed(folder: Path, layout: str, source: str, method: str) -> Whole:
    """Run once, timed the second time, when everything is in the disk's cache."""
    kind = f"{method}-{layout}"
    for name in ("first", kind):
        begun = time.monotonic()
        ended = process(folder / name, source, method)
        seconds = time.monotonic() - begun
        assert ended.code == 0, (folder.parent / "errors.txt").read_text()
    shutil.rmtree(folder / "first")
    return Whole(method, source, folder / kind, seconds, ended.calls)


def differences(a: Path, b: Path) -> list[str]:
    """Say what differs between two finished runs, apart from the clock."""
    found = []
    if not filecmp.cmp(a / "encoder.safetensors", b / "encoder.safetensors", shallow=False):
        found.append("encoders differ")
    if _metrics(a) != _metrics(b):
        found.append("metrics.jsonl differ")
    (parts, state), (other_parts, other_state) = (
        load_checkpoint(list_checkpoints(run / "checkpoints")[-1]) for run in (a, b)
    )
    for name in CLOCK:
        state.pop(name), other_state.pop(name)
    if state != other_state:
        found.append("counters differ")
    for part, tensors in parts.items():
        others = other_parts[part]
        if tensors.keys() != others.keys():
            found.append(f"{part}: other tensors")
        found += [
            f"{part}.{n} differs" for n, t in tensors.items() if not torch.equal(t, others[n])
        ]
    return found + [f"{path.name} is left" for path in b.rglob(".*")]


def _metrics(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def check_disk(folder: Path, steps: int, tally: Tally) -> None:
    """Every checkpoint must be readable, and none older than one interval before `steps`."""
    found = list_checkpoints(folder / "checkpoints")
    for path in found:
        try:
            load_checkpoint(path)
        except Exception as error:
            tally.wrong.append(f"{path}: {error}")
    last = int(found[-1].name.split("-")[1].split(".")[0]) if found else 0
    tally.lost = max(tally.lost, steps - last)
    if steps - last > EVERY:
        tally.wrong.append(f"{steps - last} steps lost in {folder}")


def finish(folder: Path, whole: Whole, tally: Tally) -> None:
    """Let a run end, and compare it."""
    ended = process(folder, whole.source, whole.method)
    found = differences(whole.folder, folder) if ended.code == 0 else [f"exit code {ended.code}"]
    tally.wrong += [f"{folder}: {each}" for each in found]
    tally.counts["runs compared"] += 1
    if not found:
        shutil.rmtree(folder)


def kills(wholes: list[Whole], count: int, chance: random.Random) -> Tally:
    """Kill processes until `count` are, every second one inside a save."""
    tally, number = Tally(), 0
    while tally.counts["kills"] < count and not tally.wrong:
        whole = wholes[number % len(wholes)]
        folder = whole.folder.with_name(f"killed-{number:04d}")
        number += 1
        for _ in range(KILLS_A_RUN):
            if tally.counts["kills"] == count:
                break
            ended = _killed(folder, whole, chance)
            if ended.code == 0:
                break
            if ended.code != -signal.SIGKILL:
                tally.wrong.append(f"exit code {ended.code} in {folder}")
            tally.counts["kills"] += 1
            tally.counts[f"kills, {whole.folder.name}"] += 1
            tally.counts["inside a save"] += ended.saving
            tally.counts["before the first step"] += ended.steps < 0
            check_disk(folder, ended.steps, tally)
        finish(folder, whole, tally)
    if tally.counts["inside a save"] < count / 3:
        tally.wrong.append("fewer than a third of the kills were inside a save")
    return tally


def _killed(folder: Path, whole: Whole, chance: random.Random) -> Ended:
    if chance.random() < 0.5:
        call = chance.randrange(whole.calls)
        kind = chance.choice(("kill", "kill after"))
        return process(folder, whole.source, whole.method, Disturbance(call, kind))

    def act(number: int) -> float:
        time.sleep(chance.uniform(0, whole.seconds))
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(number, signal.SIGKILL)
        return time.monotonic()

    return process(folder, whole.source, whole.method, act=act)


def signals(wholes: list[Whole], count: int, chance: random.Random) -> Tally:
    """Ask processes to stop until `count` did while they trained."""
    tally, number = Tally(), 0
    while tally.counts["stopped and saved"] < count and not tally.wrong:
        whole = wholes[number % len(wholes)]
        folder = whole.folder.with_name(f"stopped-{number:04d}")
        number += 1
        for _ in range(KILLS_A_RUN):
            if not _stopped(folder, whole, chance, tally):
                break
        finish(folder, whole, tally)
    return tally


def _stopped(folder: Path, whole: Whole, chance: random.Random, tally: Tally) -> bool:
    """Ask a process to stop in one of several ways; tell whether its run can go on."""
    way = chance.choice(("once", "twice", "inside a save", "twice inside a save"))
    asked = chance.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT))

    def act(number: int) -> float:
        time.sleep(chance.uniform(0, whole.seconds))
        acted = time.monotonic()
        for _ in range(1 + (way == "twice" and asked != signal.SIGINT)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, asked)
            time.sleep(chance.uniform(0, 0.05))
        return acted

    if "save" in way:
        asked = signal.SIGTERM
        kind = "two signals" if "twice" in way else "signal"
        disturbance = Disturbance(chance.randrange(whole.calls), kind)
        ended = process(folder, whole.source, whole.method, disturbance)
    else:
        ended = process(folder, whole.source, whole.method, act=act)
    code = INTERRUPTED if asked == signal.SIGINT else SAVED
    if ended.code == 0:
        tally.counts["finished first"] += 1
        return False
    if ended.code == code and (ended.steps >= 0 or code == SAVED):
        tally.counts["stopped and saved"] += 1
        tally.counts[f"of these {way}"] += 1
        tally.counts[f"of these {asked.name}"] += 1
        tally.slowest = max(tally.slowest, ended.seconds_after)
        if ended.seconds_after > SECONDS:
            tally.wrong.append(f"{ended.seconds_after:.1f} s until the end in {folder}")
        names = [path.name for path in list_checkpoints(folder / "checkpoints")]
        if not names or int(names[-1][5:13]) < ended.steps:
            tally.wrong.append(f"{ended.steps} steps were done in {folder}, saved: {names}")
    elif ended.code == -asked or (ended.steps < 0 and ended.code in (1, INTERRUPTED)):
        # 1 is Python's own, of Ctrl-C before the command was called.
        tally.counts["before or after the loop"] += 1
    else:
        tally.wrong.append(f"exit code {ended.code} after {asked.name} {way} in {folder}")
    return True


def launched(folder: Path, source: str, disturbance: Disturbance, tally: Tally) -> bool:
    """Run two processes as torchrun does; tell whether they finished."""
    setting = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=folder.name,
        start_method="forkserver",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(setting, together)(str(folder), source, disturbance)
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if -signal.SIGKILL not in codes:
            tally.wrong.append(f"exit codes {codes} in {folder}")
        return False
    return True


def ranks(folder: Path, source: str, count: int, chance: random.Random) -> Tally:
    """Kill one of two processes, `count` times; the other must end too."""
    for name in ("torch.distributed", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they tell of each kill
    tally, number, seconds = Tally(), 0, 0.0
    whole = folder / "together"
    for each in (folder / "first-together", whole):
        begun = time.monotonic()
        assert launched(each, source, UNDISTURBED, tally), tally.wrong
        seconds = time.monotonic() - begun
    while tally.counts["kills"] < count and not tally.wrong:
        killed = folder / f"one-killed-{number:04d}"
        number += 1
        finished = False
        for _ in range(KILLS_A_RUN):
            if finished or tally.counts["kills"] == count:
                break
            rank, saving = chance.randrange(2), chance.random() < 0.5
            if rank == 0 and saving:
                disturbance = Disturbance(chance.randrange(100))
            else:
                disturbance = Disturbance(seconds=chance.uniform(0.01, seconds), rank=rank)
            finished = launched(killed, source, disturbance, tally)
            if not finished:
                tally.counts["kills"] += 1
                tally.counts[f"kills of process {rank}"] += 1
                tally.counts["inside a save"] += rank == 0 and saving
                tally.counts["before the first save"] += not list_checkpoints(
                    killed / "checkpoints"
                )
                check_disk(killed, 0, tally)
        if finished or launched(killed, source, UNDISTURBED, tally):
            tally.wrong += [f"{killed}: {each}" for each in differences(whole, killed)]
            tally.counts["runs compared"] += 1
    return tally


def show(name: str, tally: Tally, seconds: float) -> None:
    print(f"\n{name} ({seconds:.0f} s)", flush=True)
    for what, number in sorted(tally.counts.items()):
        print(f"  {what:<28}{number:>6}")
    if name == "kills":
        print(f"  {'most steps lost':<28}{tally.lost:>6} (a checkpoint every {EVERY})")
    if name == "signals":
        print(f"  {'slowest end, s':<28}{tally.slowest:>6.2f}")
    print(f"  {'wrong':<28}{len(tally.wrong):>6}")
    for line in tally.wrong:
        print(f"    {line}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["kills", "signals", "ranks"])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--ranks", type=int, default=50)
    parser.add_argument(
        "--source", help="pictures; by default 80 small ones, in a folder and in a tar"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = layouts(folder, given.source)
        os.environ |= {"SURVIVAL_SOURCE": next(iter(sources.values())), "OMP_NUM_THREADS": "1"}
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])
        CONTEXT.set_forkserver_preload(["disturbed"])
        wrong = campaign(given, folder, sources)
    return int(wrong)


def campaign(given: argparse.Namespace, folder: Path, sources: dict[str, str]) -> bool:
    """Do the parts that are asked for; tell whether anything was wrong."""
    runs = folder / "runs"
    runs.mkdir()
    wholes = []
    if given.parts != ["ranks"]:
        wholes = [
            undisturbed(runs, *each, method) for each in sources.items() for method in METHODS
        ]
    wrong = False
    for name in given.parts:
        chance, begun = random.Random(given.seed), time.monotonic()
        if name == "ranks":
            tally = ranks(runs, next(iter(sources.values())), given.ranks, chance)
        else:
            part = {"kills": kills, "signals": signals}[name]
            tally = part(wholes, vars(given)[name], chance)
        show(name, tally, time.monotonic() - begun)
        wrong |= bool(tally.wrong)
        if tally.wrong and (runs / "errors.txt").exists():
            print("".join((runs / "errors.txt").read_text().splitlines(True)[-30:]))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
