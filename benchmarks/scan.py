"""How long a million files take to list, first and again, and what the list and the order hold.

Files are empty, on a file system in memory where there is one, as 1,000 folders of 1,000, and as
one folder of all. Each measurement is a process of its own; its memory is what it has more,
resident, when the source is open than before (`held`), and at most (`peak`). Aims: first 60 s,
again 2 s, 300 MB.

The order of 10^9 samples is drawn position by position: a batch of 4,096 at the beginning, in the
middle of epoch 7 and at its end, and the same batch again after a restart; a permutation array
would hold 8 GB.

    python benchmarks/scan.py [--files 1000000] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from looktwice.data import open_source, permute

SAMPLES = 10**9
BATCH = 4096


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
        "fingerprint_seconds": time.perf_counter() - began,
        "fingerprint_cpu_seconds": time.process_time() - busy,
    }


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def order() -> dict[str, Any]:
    """Draw batches of an order of 10^9 in a process that has done nothing else."""
    permute(10, 0, 0, 0)  # compiled
    before, began = resident(), time.perf_counter()
    places = {"first": 0, "middle": SAMPLES // 2, "last": SAMPLES - BATCH}
    drawn = {name: permute(SAMPLES, 3, 7, np.arange(at, at + BATCH)) for name, at in places.items()}
    seconds = (time.perf_counter() - began) / 3
    distinct = len(np.unique(np.concatenate([*drawn.values()])))
    return {
        "batch_milliseconds": 1000 * seconds,
        "grown_mb": (resident() - before) / 1e6,
        "distinct": distinct,
        "middle": drawn["middle"].tolist()[:8],
    }


def in_process(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--open", help=argparse.SUPPRESS)
    parser.add_argument("--order", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open or arguments.order:
        print(json.dumps(opened(arguments.open) if arguments.open else order()))
        return
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    result: dict[str, Any] = {}
    for folders in (1000, 1):
        with tempfile.TemporaryDirectory(dir=memory) as name:
            os.environ["LOOKTWICE_CACHE"] = f"{name}/cache"
            root = Path(name) / "pictures"
            make(root, arguments.files, folders)
            time.sleep(3)  # a list that is younger than its folders is not kept
            for start in ("first", "again"):
                result[f"{folders} folders, {start}"] = in_process("--open", str(root))
    result["order"], restarted = in_process("--order"), in_process("--order")
    result["order"]["equal after a restart"] = result["order"]["middle"] == restarted["middle"]
    if arguments.json:
        print(json.dumps(result))
        return
    for name, found in result.items():
        print(name, {key: round(v, 3) if isinstance(v, float) else v for key, v in found.items()})


if __name__ == "__main__":
    main()
