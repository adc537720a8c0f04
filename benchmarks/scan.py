"""How long a million files take to list, first and again, and what the list and the order hold.

Files are empty, on a file system in memory where there is one, as 1,000 folders of 1,000, and as
one folder of all. Each measurement is a process of its own; its memory is what it has more,
resident, when the source is open than before (`held`), and at most (`peak`). Training asks for the
size of each file too, so that a run goes on with the pictures that it began with (`sizes`). Aims:
first 60 s, again 2 s, 300 MB held.

The order of 10^9 samples is drawn position by position; a permutation array would hold 8 GB. A
source of as many made-up pictures is loaded by batches of 4,096 at the beginning, in the middle of
epoch 7 and at its end, and in another process, which starts there, the middle one again. Aims: the
same views, each sample once, 100 MB.

Ends with 1 when something was missed.

    python benchmarks/scan.py [--files 1000000]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from looktwice.augment import policy
from looktwice.data import Loader, Source, open_source

SAMPLES = 10**9
BATCH = 4096
EPOCH = SAMPLES // BATCH
PLACES = {"first": 0, "middle": 7 * EPOCH + EPOCH // 2, "last": 8 * EPOCH - 1}
SECONDS = {"first": 60.0, "again": 2.0}
HELD_MB, ORDER_MB = 300.0, 100.0


def make(root: Path, files: int, folders: int) -> None:
    for folder in range(folders):
        inner = root / f"{folder:04}"
        inner.mkdir(parents=True)
        handle = os.open(inner, os.O_RDONLY)
        for n in range(files // folders):
            path = f"ILSVRC2012_{n:08}.JPEG"
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, dir_fd=handle))
        os.close(handle)


def opened(root: str) -> dict[str, Any]:
    before = resident()
    began, busy = time.perf_counter(), time.process_time()
    source = open_source(root)
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    held = resident() - before
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    began, busy = time.perf_counter(), time.process_time()
    source.fingerprint()
    return {
        "files": len(source),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "held_mb": held / 1e6,
        "peak_mb": peak / 1e6,
        "sizes_seconds": time.perf_counter() - began,
        "sizes_cpu_seconds": time.process_time() - busy,
    }


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@final
class MadeUp(Source):
    """As many pictures as one likes; each is its number."""

    def __init__(self, length: int) -> None:
        super().__init__("made up", 1, None, None)
        self._length = length

    def __len__(self) -> int:
        return self._length

    def image(self, i: int) -> NDArray[np.uint8]:
        return np.frombuffer(i.to_bytes(64, "little"), np.uint8).reshape(8, 8, 1)

    def identifier(self, i: int) -> str:
        return f"{i}"

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._length}".encode()).hexdigest()


def order(places: list[str]) -> dict[str, Any]:
    """Load batches of an epoch of 10^9 in a process that has done nothing else."""
    views = policy("simclr", size=8)
    list(Loader(MadeUp(BATCH), views, batch_size=BATCH, seed=3, threads=0).batches(0, 1))
    before, began = resident(), time.perf_counter()
    loader = Loader(MadeUp(SAMPLES), views, batch_size=BATCH, seed=3, threads=0)
    sums: dict[str, str] = {}
    epoch_7: list[NDArray[np.int64]] = []
    for place in places:
        for batch in loader.batches(PLACES[place], PLACES[place] + 1):
            sums[place] = hashlib.sha256(batch.views[0].tobytes()).hexdigest()
            if batch.epoch == 7:
                epoch_7.append(batch.indices)
    return {
        "batch_milliseconds": 1000 * (time.perf_counter() - began) / len(places),
        "grown_mb": (resident() - before) / 1e6,
        "once": sum(map(len, epoch_7)) == len(np.unique(np.concatenate(epoch_7))),
        "sums": sums,
    }


def in_process(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--open", help=argparse.SUPPRESS)
    parser.add_argument("--order", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open or arguments.order:
        found = opened(arguments.open) if arguments.open else order(arguments.order)
        print(json.dumps(found))
        return 0
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    missed = []
    for folders in (1000, 1):
        with tempfile.TemporaryDirectory(dir=memory) as name:
            os.environ["LOOKTWICE_CACHE"] = f"{name}/cache"
            root = Path(name) / "pictures"
            make(root, arguments.files, folders)
            time.sleep(3)  # a list that is younger than its folders is not kept
            for start, limit in SECONDS.items():
                found = in_process("--open", str(root))
                show(f"{folders} folders, {start}", found)
                if found["seconds"] > limit or found["held_mb"] > HELD_MB:
                    missed.append(f"{folders} folders, {start}")
    whole, restarted = in_process("--order", *PLACES), in_process("--order", "middle")
    whole["same after a restart"] = restarted["sums"]["middle"] == whole.pop("sums")["middle"]
    show("10^9 samples", whole)
    if not (whole["once"] and whole["same after a restart"] and whole["grown_mb"] <= ORDER_MB):
        missed.append("10^9 samples")
    print(f"missed: {', '.join(missed) or 'nothing'}")
    return int(bool(missed))


def show(name: str, found: dict[str, Any]) -> None:
    print(name, {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()})


if __name__ == "__main__":
    sys.exit(main())
