"""How fast views are made, beside what others use: `python benchmarks/augment.py [--json FILE]`.

Every peer does the same work on the same pictures, in one run, its rounds interleaved with the
others'; medians of wall time on an idle machine. First one thread each, then all cores: threads
for looktwice and kornia, a process for each core for those that handle one picture at a time.
The peers: torchvision v1 on PIL pictures and v2 on uint8 tensors, lightly, kornia on batches
(eager and compiled), AlbumentationsX; `pip install -e '.[peers]'` installs them.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations as alb
import cv2
import kornia.augmentation as korn
import lightly.transforms
import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from looktwice import augment
from looktwice.augment import Policy, RandomResizedCrop
from looktwice.data import Loader, open_source
from looktwice.run import environment

Pictures = npt.NDArray[np.uint8]
Call = Callable[[], object]
CORES = os.cpu_count() or 1
JPEG_SIDES, JPEGS = (375, 500), 64


@dataclass(frozen=True)
class Case:
    """What is measured: a policy, pictures, and how many a peer gets in a call.

    Attributes:
        name: of the table.
        policy: looktwice's; the peers get the same operations and numbers.
        side: of the square pictures in pixels; 0 for a folder of JPEGs.
        many: pictures a call for the fast, and for the slow ones.
        floors: ratio of looktwice to each peer that is promised.
    """

    name: str
    policy: Policy
    side: int
    many: tuple[int, int]
    floors: Mapping[str, float]


CASES = (
    Case(
        "32 px, simclr-cifar",
        augment.policy("simclr-cifar", size=32),
        32,
        (2048, 128),
        {"lightly": 40, "torchvision v1": 40, "AlbumentationsX": 16, "kornia, best": 8},
    ),
    Case(
        "224 px from 256, moco-v2",
        augment.policy("moco-v2", size=224),
        256,
        (64, 16),
        {"lightly": 8, "torchvision v1": 8, "torchvision v2": 8, "AlbumentationsX": 2.5},
    ),
    Case(
        "224 px from JPEGs of 500 x 375, moco-v2",
        augment.policy("moco-v2", size=224),
        0,
        (JPEGS, JPEGS),
        {"lightly": 4, "AlbumentationsX": 1.5},
    ),
    Case(
        "32 px, aug-plus",
        augment.policy("aug-plus", size=32),
        32,
        (1024, 128),
        {"AlbumentationsX": 3},
    ),
    Case(
        "224 px from 256, aug-plus",
        augment.policy("aug-plus", size=224),
        256,
        (64, 16),
        {"AlbumentationsX": 2},
    ),
)


def photographs(count: int, height: int, width: int) -> Pictures:
    """Return pictures with the spectrum of photographs: amplitude 1 / frequency."""
    random = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(width), np.fft.fftfreq(height)))
    fall = 1.0 / np.maximum(frequency, 1.0 / max(height, width))
    noise = random.standard_normal((count, 3, height, width))
    waves = np.fft.ifft2(np.fft.fft2(noise) * fall).real
    waves[:, 1:] = 0.7 * waves[:, :1] + 0.3 * waves[:, 1:]
    waves /= waves.std(axis=(2, 3), keepdims=True)
    return np.clip(127 + 55 * waves, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1).copy()


def write_folder(folder: Path) -> None:
    """Write the JPEGs in two class folders, quality 90 and half-size chroma, as cameras do."""
    for number, picture in enumerate(photographs(JPEGS, *JPEG_SIDES)):
        path = folder / f"class-{number % 2}" / f"{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(simplejpeg.encode_jpeg(picture, quality=90, colorsubsampling="420"))


def in_torchvision(module: Any, policy: Policy) -> Any:
    """Return torchvision's transform of the first view, v1 or v2."""
    made: list[Any] = []
    for step in policy.views[0]:
        match step:
            case augment.RandomResizedCrop():
                mode = InterpolationMode(step.interpolation)
                crop = module.RandomResizedCrop(
                    step.size, step.scale, interpolation=mode, antialias=True
                )
                made.append(crop)
            case augment.HorizontalFlip():
                made.append(module.RandomHorizontalFlip(step.p))
            case augment.ColorJitter():
                parts = step.brightness, step.contrast, step.saturation, step.hue
                made.append(module.RandomApply([module.ColorJitter(*parts)], step.p))
            case augment.Grayscale():
                made.append(module.RandomGrayscale(step.p))
            case augment.GaussianBlur():
                side = int(step.constants(policy.size)[0])
                made.append(module.RandomApply([module.GaussianBlur(side, step.sigma)], step.p))
            case _:
                raise AssertionError(step)
    return module.Compose(made)


def in_lightly(policy: Policy) -> Any:
    """Return lightly's transform of both views, without its normalisation."""
    crop = policy.views[0][0]
    assert isinstance(crop, RandomResizedCrop)
    steps = {step.name: step for step in policy.views[0]}
    jitter: Any = steps["jitter"]
    blur: Any = steps.get("blur")
    return lightly.transforms.SimCLRTransform(
        input_size=policy.size,
        cj_prob=jitter.p,
        cj_strength=1.0,
        cj_bright=jitter.brightness,
        cj_contrast=jitter.contrast,
        cj_sat=jitter.saturation,
        cj_hue=jitter.hue,
        min_scale=crop.scale[0],
        gaussian_blur=blur.p if blur else 0.0,
        normalize=None,
    )


def in_kornia(policy: Policy) -> Any:
    """Return kornia's augmentation of a batch in [0, 1]."""
    made: list[Any] = []
    for step in policy.views[0]:
        match step:
            case augment.RandomResizedCrop():
                made.append(korn.RandomResizedCrop((step.size,) * 2, step.scale))
            case augment.HorizontalFlip():
                made.append(korn.RandomHorizontalFlip(p=step.p))
            case augment.ColorJitter():
                parts = step.brightness, step.contrast, step.saturation, step.hue
                made.append(korn.ColorJitter(*parts, p=step.p))
            case augment.Grayscale():
                made.append(korn.RandomGrayscale(p=step.p))
            case augment.GaussianBlur():
                side = int(step.constants(policy.size)[0])
                made.append(korn.RandomGaussianBlur((side, side), step.sigma, p=step.p))
            case _:
                raise AssertionError(step)
    return torch.nn.Sequential(*made)


def in_albumentations(policy: Policy) -> Any:
    """Return AlbumentationsX's transform of the first view."""
    made: list[Any] = []
    for step in policy.views[0]:
        match step:
            case augment.RandomResizedCrop():
                mode = cv2.INTER_CUBIC if step.interpolation == "bicubic" else cv2.INTER_LINEAR
                made.append(
                    alb.RandomResizedCrop(
                        (step.size,) * 2, step.scale, interpolation=mode, area_for_downscale="image"
                    )
                )
            case augment.HorizontalFlip():
                made.append(alb.HorizontalFlip(p=step.p))
            case augment.ColorJitter():
                factors = [
                    (1 - v, 1 + v) for v in (step.brightness, step.contrast, step.saturation)
                ]
                made.append(alb.ColorJitter(*factors, (-step.hue, step.hue), p=step.p))
            case augment.Grayscale():
                made.append(alb.ToGray(p=step.p))
            case augment.GaussianBlur():
                side = int(step.constants(policy.size)[0])
                made.append(alb.GaussianBlur((side, side), step.sigma, p=step.p))
            case augment.Solarize():
                made.append(alb.Solarize((step.threshold / 255,) * 2, p=step.p))
            case augment.CLAHE():
                made.append(alb.CLAHE(step.clip_limit, step.tiles, p=step.p))
            case augment.BrightnessContrast():
                ranges = step.brightness, step.contrast
                made.append(alb.RandomBrightnessContrast(*ranges, True, p=step.p))
            case _:
                raise AssertionError(step)
    return alb.Compose(made)


def peers(case: Case, folder: Path) -> dict[str, tuple[int, Call]]:
    """Return the views that a call makes, and the call, for looktwice and each peer."""
    few = case.many[1]
    made: dict[str, tuple[int, Call]] = {"looktwice": ours(case, folder, threads=1)}
    if case.side:
        pictures = photographs(few, case.side, case.side)
        as_pil = [Image.fromarray(picture) for picture in pictures]
        as_tensors = list(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())
    else:
        theirs = in_lightly(case.policy)
        dataset: Any = ImageFolder(folder, theirs)
        made["lightly"] = 2 * len(dataset), lambda: [dataset[i] for i in range(len(dataset))]
        files = sorted(folder.glob("*/*.jpg"))
        one = in_albumentations(case.policy)

        def decoded() -> None:
            for file in files:
                picture = simplejpeg.decode_jpeg(file.read_bytes())
                one(image=picture)
                one(image=picture)

        made["AlbumentationsX"] = 2 * len(files), decoded
        return made
    if all(step.name != "clahe" for step in case.policy.views[0]):  # which only one peer has
        first, second, pair = (
            in_torchvision(v1, case.policy),
            in_torchvision(v2, case.policy),
            in_lightly(case.policy),
        )
        batched = in_kornia(case.policy)
        compiled: Any = torch.compile(batched)
        floats = torch.stack(as_tensors).float().div_(255)
        made["torchvision v1"] = few, lambda: [first(picture) for picture in as_pil]
        made["torchvision v2"] = few, lambda: [second(tensor) for tensor in as_tensors]
        made["lightly"] = 2 * few, lambda: [pair(picture) for picture in as_pil]
        made["kornia, eager"] = few, lambda: batched(floats)
        made["kornia, compiled"] = few, lambda: compiled(floats)
    alb_one = in_albumentations(case.policy)
    made["AlbumentationsX"] = few, lambda: [alb_one(image=picture) for picture in pictures]
    return made


def ours(case: Case, folder: Path, *, threads: int) -> tuple[int, Call]:
    if not case.side:
        source = open_source(str(folder))
        loader = Loader(
            source,
            case.policy,
            batch_size=len(source),
            seed=0,
            threads=threads if threads > 1 else 0,
        )

        def loaded() -> None:
            steps = threads
            with closing(loader.batches(0, steps)) as batches:
                for _ in batches:
                    pass

        return 2 * len(source) * threads, loaded
    pictures = photographs(min(case.many[0], 256), case.side, case.side)
    pictures = np.concatenate([pictures] * (case.many[0] // len(pictures)))
    size = case.policy.size
    out = np.empty((len(pictures), 2, size, size, 3), np.uint8)
    epochs = iter(range(1 << 30))
    indices = np.arange(len(pictures))

    def made() -> None:
        case.policy(pictures, seed=0, epoch=next(epochs), indices=indices, out=out, threads=threads)

    return 2 * len(pictures), made


def rates(calls: Mapping[str, tuple[int, Call]], rounds: int) -> dict[str, float]:
    """Return views a second: medians over interleaved rounds, after one that is not counted."""
    failed = set()
    for name, (_, call) in calls.items():
        try:
            call()
        except Exception as error:  # a peer that cannot do the work is named, not hidden
            print(f"  {name} fails: {type(error).__name__}: {str(error)[:90]}")
            failed.add(name)
    taken: dict[str, list[float]] = {name: [] for name in calls if name not in failed}
    for _ in range(rounds):
        for name, times in taken.items():
            start = time.perf_counter()
            calls[name][1]()
            times.append(time.perf_counter() - start)
    return {name: calls[name][0] / statistics.median(times) for name, times in taken.items()}


@contextmanager
def every_core(case: Case, folder: Path) -> Iterator[dict[str, tuple[int, Call]]]:
    """Yield the calls that use all cores: threads, or a process for each core."""
    workers: list[Any] = []
    calls = {"looktwice": ours(case, folder, threads=CORES)}
    for name, (count, call) in peers(case, folder).items():
        if name == "looktwice":
            continue
        if name.startswith("kornia"):
            calls[name] = count, call
            continue
        started, pipes = _started([call])
        workers += started
        calls[name] = CORES * count, functools.partial(_ask, pipes)
    try:
        yield calls
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _serve(pipe: Any, calls: list[Call]) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    while pipe.recv():
        for call in calls:
            call()
        pipe.send(True)


def _ask(pipes: list[Any]) -> None:
    for pipe in pipes:
        pipe.send(True)
    for pipe in pipes:
        pipe.recv()


def with_best_of_kornia(figures: dict[str, float]) -> dict[str, float]:
    both = [rate for name, rate in figures.items() if name.startswith("kornia")]
    return figures | ({"kornia, best": max(both)} if both else {})


def scaling(case: Case, folder: Path, rounds: int, *, busy: bool) -> dict[str, float]:
    """Return how much faster all cores are than one, beside a busy Python thread or not.

    One core is one thread of a process that has no other core, the busy thread included. Beside
    that, as a bound, what a separate process for each core reaches: what the machine has to give.
    Last, one thread with all cores at hand against a thread for each core: alone the same; beside
    a busy thread that takes its own share it is at most n^2 / (n + 1) on n cores, 1.33 on two.
    """
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    count, one = ours(case, folder, threads=1)
    workers, pipes = _started([one])
    all_count, all_threads = ours(case, folder, threads=CORES)

    def pinned() -> None:
        with _one_core():
            one()

    calls: dict[str, tuple[int, Call]] = {
        "one core": (count, pinned),
        "one thread": (count, one),
        "threads": (all_count, all_threads),
        "processes": (CORES * count, functools.partial(_ask, pipes)),
    }
    spinner = threading.Thread(target=spin)
    if busy:
        spinner.start()
    figures = rates(calls, rounds)
    stop.set()
    if busy:
        spinner.join()
    for worker in workers:
        worker.terminate()
    return {
        "threads / one core": figures["threads"] / figures["one core"],
        "processes / one core": figures["processes"] / figures["one core"],
        "threads / one thread": figures["threads"] / figures["one thread"],
    }


@contextmanager
def _one_core() -> Iterator[None]:
    """Leave all threads of this process one core."""
    everything = os.sched_getaffinity(0)
    try:
        _pin({min(everything)})
        yield
    finally:
        _pin(everything)


def _pin(cores: set[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def compilation(policy: str) -> tuple[float, float]:
    """Return the seconds that a policy's first call takes in a new process: cold, and cached."""
    code = (
        "import sys, time, numpy as np; from looktwice import augment;"
        f"policy = augment.policy({policy!r}, size=32); one = np.zeros((1, 32, 32, 3), np.uint8);"
        "begun = time.perf_counter(); policy(one, seed=0, epoch=0, indices=[0]);"
        "print(time.perf_counter() - begun)"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        taken = [
            float(subprocess.check_output([sys.executable, "-c", code], env=environment))
            for _ in range(2)
        ]
    return taken[0], taken[1]


def _started(calls: list[Call]) -> tuple[list[Any], list[Any]]:
    """Start a process for each core, each to make all the calls whenever it is asked."""
    context = multiprocessing.get_context("fork")
    workers, pipes = [], []
    for _ in range(CORES):
        here, there = context.Pipe()
        worker = context.Process(target=_serve, args=(there, calls), daemon=True)
        worker.start()
        workers.append(worker)
        pipes.append(here)
    return workers, pipes


def allocated(case: Case, folder: Path) -> int:
    """Return the bytes that a batch after the first allocates at most."""
    _, call = ours(case, folder, threads=1)
    call()
    tracemalloc.start()
    call()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - before


def show(title: str, figures: dict[str, float], floors: Mapping[str, float]) -> None:
    print(f"\n{title}")
    for name, rate in figures.items():
        line = f"  {name:18}{rate:12,.0f} views/s"
        if name != "looktwice":
            ratio = figures["looktwice"] / rate
            line += f"   looktwice {ratio:6.1f} x"
            if name in floors:
                line += f"   asked {floors[name]:g}: {'yes' if ratio >= floors[name] else 'NO'}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, at least 5")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    rounds = max(5, arguments.rounds)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    torch._dynamo.config.recompile_limit = 64
    machine = {
        "cpu": environment("benchmarks/augment.py")["cpu"],
        "cores": CORES,
        "python": platform.python_version(),
    }
    versions = {
        module.__name__: module.__version__
        for module in (torch, alb, cv2, __import__("kornia"), __import__("lightly"))
    }
    print(f"{machine['cpu']}, {CORES} cores; {versions}")
    results: dict[str, Any] = {"machine": machine, "versions": versions}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder)
        for case in CASES:
            if arguments.only not in case.name:
                continue
            torch.set_num_threads(1)
            one = with_best_of_kornia(rates(peers(case, folder), rounds))
            show(f"{case.name}: one thread each", one, case.floors)
            torch.set_num_threads(CORES)
            with every_core(case, folder) as calls:
                both = with_best_of_kornia(rates(calls, rounds))
            show(f"{case.name}: {CORES} cores", both, {})
            torch.set_num_threads(1)
            results[case.name] = {"one thread": one, "all cores": both}
            if case.side:
                room = allocated(case, folder)
                results[case.name]["bytes that a later batch allocates"] = room
                print(f"  a batch after the first allocates {room:,} bytes of small objects")
                for busy in (False, True):
                    ratios = scaling(case, folder, 3 * rounds, busy=busy)
                    where = "beside a busy Python thread" if busy else "alone"
                    results[case.name][f"one core to all, {where}"] = ratios
                    told = ", ".join(f"{name} {ratio:.2f} x" for name, ratio in ratios.items())
                    print(f"  one core to {CORES}, {where}: {told}")
    for name in ("simclr-cifar", "moco-v2", "aug-plus"):
        cold, cached = compilation(name)
        results[f"first call, {name}"] = {"cold": cold, "cached": cached}
        print(f"first call of {name}: {cold:.1f} s cold, {cached:.2f} s from the cache on disk")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
