"""What a large batch costs in pieces: batch 4096 by micro-batches of 64, beside batch 64.

ResNet-18 with the small stem, 32-px views of made-up colour pictures, SimCLR, bn_group 64, two
torch threads. Each batch size runs in a process of its own, whose peak resident memory and time a
picture are printed; a step of 4096 takes minutes.

    python benchmarks/memory.py [--batch 4096] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time

import numpy as np

from looktwice.build import build, settle
from looktwice.config import resolve
from looktwice.data import open_splits
from looktwice.run import environment
from looktwice.train import peak_memory_mb, train_step

MICRO_BATCH = 64
PICTURES = 5000
LIMIT_MB, LIMIT_RATIO, LIMIT_TIME = 2000.0, 1.3, 1.45


def run(batch_size: int, steps: int) -> dict[str, float]:
    """Take steps in this process; return its peak memory and seconds a picture."""
    flags = {
        "data.source": "made-up",
        "augment.size": 32,
        "model.backbone": "resnet18",
        "train.batch_size": batch_size,
        "train.micro_batch": MICRO_BATCH,
        "train.bn_group": MICRO_BATCH,
        "train.threads": 2,
        "train.steps": steps + 1,
    }
    config = resolve(recipe="simclr-tiny", flags=flags, environ={})
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, 32, 32, 3), dtype=np.uint8)
    splits = open_splits(pictures, validation_fraction=0.1, test_fraction=0.1, seed=0)
    training = build(settle(config, splits), splits)
    training.method.train()
    with contextlib.closing(training.loader.batches(0, steps + 1)) as batches:
        if steps > 1:  # of a single step the first allocations are a trifle
            train_step(training, next(batches), 0.01)
        begun = time.perf_counter()
        for _ in range(steps):
            train_step(training, next(batches), 0.01)
        seconds = time.perf_counter() - begun
    return {"peak_mb": peak_memory_mb(), "seconds_per_picture": seconds / steps / batch_size}


def in_process(batch_size: int, steps: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", str(batch_size), str(steps)]
    result: dict[str, float] = json.loads(subprocess.check_output(command))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=4096, help="large batch, at most 4500")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run(*arguments.child)))
        return
    few = [in_process(MICRO_BATCH, 10)]
    large = in_process(arguments.batch, 1)
    few.append(in_process(MICRO_BATCH, 10))
    small = {key: (few[0][key] + few[1][key]) / 2 for key in few[0]}  # before and after
    memory = large["peak_mb"] / small["peak_mb"]
    slower = large["seconds_per_picture"] / small["seconds_per_picture"]
    if arguments.json:
        machine = environment("benchmarks/memory.py")
        print(json.dumps({"small": small, "large": large, "machine": machine}, indent=1))
        return
    for name, one in ((f"batch {MICRO_BATCH}", small), (f"batch {arguments.batch}", large)):
        print(
            f"{name:12}{one['peak_mb']:8,.0f} MB{1e3 * one['seconds_per_picture']:8.1f} ms/picture"
        )
    print(f"memory {memory:.2f} x, asked {LIMIT_RATIO} and {LIMIT_MB:,.0f} MB")
    print(f"time a picture {slower:.2f} x, asked {LIMIT_TIME}")


if __name__ == "__main__":
    main()
