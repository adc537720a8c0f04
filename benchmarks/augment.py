"""How fast views are made, beside torchvision: `python benchmarks/augment.py [--json FILE]`.

One thread each, in one run, rounds interleaved, medians of the thread's CPU time, so that other
work on the machine disturbs little. To hold: crop, flip, jitter .4/.4/.4/.1 (p .8) and gray
(p .2) of 32-px colour pictures at least 30 times as fast as torchvision v1 on PIL pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2

from looktwice.augment import (
    ColorJitter,
    Crop,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Operation,
    Policy,
    RandomResizedCrop,
)

Pictures = npt.NDArray[np.uint8]
Step = Crop | Operation
Case = tuple[str, Pictures, tuple[Step, ...]]


def cases() -> list[Case]:
    random = np.random.default_rng(0)

    def pictures(count: int, side: int, channels: int) -> Pictures:
        return random.integers(0, 256, (count, side, side, channels), dtype=np.uint8)

    flip, gray = HorizontalFlip(0.5), Grayscale(0.2)
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)
    light = ColorJitter(0.6, 0.6, p=0.8)
    return [
        ("32 px colour", pictures(256, 32, 3), (RandomResizedCrop(32), flip, jitter, gray)),
        ("28 to 20 px, one channel", pictures(256, 28, 1), (RandomResizedCrop(20), flip, light)),
        (
            "256 to 224 px colour, blur",
            pictures(8, 256, 3),
            (RandomResizedCrop(224), flip, jitter, gray, GaussianBlur(p=0.5)),
        ),
    ]


def theirs(module: Any, operations: tuple[Step, ...]) -> Callable[[Any], Any]:
    """Return torchvision's transforms, v1 or v2, for the same operations."""
    made: list[Any] = []
    for operation in operations:
        match operation:
            case RandomResizedCrop(size=size):
                made.append(module.RandomResizedCrop(size, antialias=True))
            case HorizontalFlip(p=p):
                made.append(module.RandomHorizontalFlip(p))
            case ColorJitter(brightness=b, contrast=c, saturation=s, hue=h, p=p):
                made.append(module.RandomApply([module.ColorJitter(b, c, s, h)], p))
            case Grayscale(p=p):
                made.append(module.RandomGrayscale(p))
            case GaussianBlur(sigma=sigma, p=p):
                made.append(module.RandomApply([module.GaussianBlur(23, sigma)], p))
    return module.Compose(made)  # type: ignore[no-any-return]


def seconds(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def measure(case: Case, rounds: int) -> dict[str, float]:
    """Return views a second of each peer: medians over interleaved rounds."""
    _, pictures, operations = case
    count = len(pictures)
    squeezed = pictures if pictures.shape[3] == 3 else pictures[..., 0]
    as_pil = [Image.fromarray(picture) for picture in squeezed]
    as_tensors = list(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())
    policy = Policy((operations,) * 2)
    many = np.concatenate([pictures] * 8)
    out = np.empty((len(many), 2, policy.size, policy.size, pictures.shape[3]), np.uint8)
    first, second = theirs(v1, operations), theirs(v2, operations)
    peers: dict[str, tuple[int, Callable[[], object]]] = {
        "torchvision v1, PIL": (count, lambda: [first(picture) for picture in as_pil]),
        "torchvision v2, tensors": (count, lambda: [second(tensor) for tensor in as_tensors]),
        "looktwice": (
            2 * len(many),
            lambda: policy(many, seed=0, epoch=0, indices=np.arange(len(many)), out=out),
        ),
    }
    for _, call in peers.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, (_, call) in peers.items():
            times[name].append(seconds(call))
    return {name: peers[name][0] / statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds, at least 5")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {case[0]: measure(case, max(5, arguments.rounds)) for case in cases()}
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(f"views a second, one thread each ({machine['cpu']}, {machine['cores']} cores)")
    for name, figures in results.items():
        base = figures["torchvision v1, PIL"]
        print(f"\n{name}")
        for peer, rate in figures.items():
            print(f"  {peer:26s} {rate:10,.0f}   {rate / base:6.1f} x")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
