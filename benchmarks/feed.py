"""How much of the bare train step's speed is left when pictures are loaded and augmented too.

Fashion-MNIST, resnet-tiny, 20-px views, two torch threads: one run interleaves rounds of steps on
one ready batch with rounds fed by the loader, and prints the median of the rounds' ratios.

    python benchmarks/feed.py [--rounds 7] [--steps 20] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Iterator

from looktwice.build import build, settle
from looktwice.config import resolve
from looktwice.data import Batch
from looktwice.run import environment, open_data
from looktwice.train import train_step

WARM_UP_STEPS = 5


def main() -> None:
    arguments = _arguments()
    flags = {
        "data.source": "fashion-mnist",
        "augment.size": 20,
        "train.threads": 2,
        "train.steps": 10**8,
        "train.batch_size": 256,
    }
    config = resolve(recipe="simclr-tiny", flags=flags, environ={})
    splits = open_data(config.data)
    training = build(settle(config, splits), splits)
    training.method.train()

    def rate(batches: Iterator[Batch]) -> float:
        begun = time.perf_counter()
        for _ in range(arguments.steps):
            train_step(training, next(batches), 0.01)
        seconds = time.perf_counter() - begun
        return float(arguments.steps * config.train.batch_size / seconds)

    ready = next(training.loader.batches(0, 1))
    with contextlib.closing(training.loader.batches(0, 10**8)) as fed:
        for _ in range(WARM_UP_STEPS):
            train_step(training, next(fed), 0.01)
        rounds = [
            (rate(iter([ready] * arguments.steps)), rate(fed)) for _ in range(arguments.rounds)
        ]
    result = {
        "bare_pictures_per_second": statistics.median(bare for bare, _ in rounds),
        "fed_pictures_per_second": statistics.median(fed for _, fed in rounds),
        "ratio": statistics.median(fed / bare for bare, fed in rounds),
        "ratios": [fed / bare for bare, fed in rounds],
        "machine": environment("benchmarks/feed.py"),
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(f"bare step on a ready batch  {result['bare_pictures_per_second']:8,.0f} pictures/s")
    print(f"loaded and augmented        {result['fed_pictures_per_second']:8,.0f} pictures/s")
    print(f"ratio, median of {len(rounds)} rounds {result['ratio']:8.1%}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
