"""How long the t-SNE of 10,000 pictures with 128 features takes: at most 40 s is the aim.

Features are ten Gaussian clusters, as t-SNE of real ones costs about the same. One thread is what
`looktwice analyze` uses: it gives the same bits as several, and beside other work on the machine
several have to wait for each other.

    python benchmarks/analysis.py [--count 10000] [--width 128] [--threads 1 2] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

import torch

from looktwice.analysis import kept_neighbours, tsne
from looktwice.run import environment

AIM = 40.0  # seconds
CLUSTERS = 10


def main() -> int:
    arguments = _arguments()
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLUSTERS, arguments.width, generator=generator)
    noise = torch.randn(arguments.count, arguments.width, generator=generator)
    features = centres[torch.arange(arguments.count) % CLUSTERS] + noise
    tsne(features[:100])  # imports
    before = os.getloadavg()[0]
    seconds: dict[int, list[float]] = {threads: [] for threads in arguments.threads}
    working: dict[int, list[float]] = {threads: [] for threads in arguments.threads}
    for _ in range(arguments.repeats):
        for threads, measured in seconds.items():
            begun, worked = time.perf_counter(), time.process_time()
            flat = tsne(features, threads=threads)
            measured.append(time.perf_counter() - begun)
            working[threads].append(time.process_time() - worked)
    found = {
        "seconds": seconds,
        "processor seconds": working,
        "holds": min(statistics.median(measured) for measured in seconds.values()) <= AIM,
        "kept": kept_neighbours(features, flat),
        "load before": before,
        "settings": vars(arguments),
        "machine": environment("benchmarks/analysis.py"),
    }
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"t-SNE of {arguments.count} × {arguments.width}, load before {before:.1f}")
    for threads, measured in seconds.items():
        spread = f" ± {statistics.stdev(measured):.1f}" if len(measured) > 1 else ""
        print(
            f"{threads} threads: {statistics.mean(measured):.1f}{spread} s, of them at work "
            f"{statistics.mean(working[threads]):.1f} s of processor, n = {len(measured)}"
        )
    print(f"aim: {AIM:.0f} s, {'met' if found['holds'] else 'not met'}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
