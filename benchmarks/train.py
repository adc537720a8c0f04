"""Training speed beside lightly: the bare step, and end to end with pictures fed to it.

Fashion-MNIST, two torch threads unless said, rounds of all contenders interleaved in one run; the
medians of their ratios. lightly runs as its own example ships (examples/pytorch/simclr.py: colour
pictures, NCHW, a forward pass for each view, 8 workers), and tuned by us: one channel,
channels-last, one forward pass for both views, our policy's operations, and the best of several
numbers of workers and threads, found first in this run. A third lightly also gets what looktwice
does to the C library's allocator. Every contender has a process of its own and idles while others
are measured.

    python benchmarks/train.py [--rounds 5] [--steps 20] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from looktwice.allocation import keep_freed_memory
from looktwice.build import Training, build, settle
from looktwice.config import resolve
from looktwice.data import Source
from looktwice.models import build_backbone, build_head, feature_width
from looktwice.run import environment, open_data
from looktwice.train import train_step

THREADS = 2
WARM_UP = 6
SETTINGS = ((0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1))  # workers, torch's threads
SHIPPED_WORKERS = 8
PEERS = ("lightly, shipped", "lightly, tuned", "lightly, tuned, our allocation")
FLOORS = {28: (2.5, 1.7), 20: (4.0, 2.2), 32: (0.0, 1.0)}
"""Ratio to lightly as shipped and tuned that is asked, by side of the views."""

Steps = Callable[[], contextlib.AbstractContextManager[Callable[[], object]]]


class AsPil(Dataset[Any]):
    """Pictures as torchvision's data sets give them to transforms."""

    def __init__(self, source: Source, transform: Callable[[Any], Any], *, colour: bool) -> None:
        self.source, self.transform, self.colour = source, transform, colour

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        picture = Image.fromarray(np.asarray(self.source.image(index)[..., 0]))
        return self.transform(picture.convert("RGB") if self.colour else picture)


class Peer(nn.Module):
    """The same backbone and head as ours, in lightly's hands."""

    def __init__(self, name: str, side: int, channels: int) -> None:
        super().__init__()
        small = name != "resnet-tiny"
        self.backbone = build_backbone(name, channels=channels, small_stem=small)
        self.head = build_head(
            "mlp",
            num_features=feature_width(self.backbone, channels, (side,)),
            num_layers=2,
            width=256,
            embedding_dim=128,
        )

    def forward(self, x: Tensor) -> Tensor:
        embeddings: Tensor = self.head(self.backbone(x))
        return embeddings


def ours(name: str, side: int, batch_size: int) -> Training:
    flags = {
        "data.source": "fashion-mnist",
        "augment.size": side,
        "model.backbone": name,
        "model.stem": "auto" if name == "resnet-tiny" else "small",
        "train.threads": THREADS,
        "train.steps": 10**8,
        "train.batch_size": batch_size,
    }
    config = resolve(recipe="simclr-tiny", flags=flags, environ={})
    splits = open_data(config.data)
    training = build(settle(config, splits), splits)
    training.method.train()
    return training


def shipped(name: str, side: int, batch_size: int) -> tuple[Steps, str]:
    data = AsPil(_pictures(), SimCLRTransform(input_size=side), colour=True)
    network = Peer(name, side, 3).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.06)
    criterion = NTXentLoss()

    def step(views: Any) -> None:
        loss = criterion(network(views[0]), network(views[1]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return peer_steps(peer_loader(data, batch_size, SHIPPED_WORKERS), step, THREADS), ""


def _pictures() -> Source:
    flags = {"data.source": "fashion-mnist"}
    return open_data(resolve(recipe="simclr-tiny", flags=flags, environ={}).data).train


def lightly_step(
    network: Peer, *, momentum: float = 0.9, weight_decay: float
) -> Callable[[Any, float], None]:
    """Return a step of lightly's loss on a pair of views, at a learning rate."""
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.0, momentum=momentum, weight_decay=weight_decay
    )
    criterion = NTXentLoss(temperature=0.5)

    def step(views: Any, rate: float) -> None:
        optimizer.param_groups[0]["lr"] = rate
        both = torch.cat(list(views)).contiguous(memory_format=torch.channels_last)
        z0, z1 = network(both).chunk(2)
        optimizer.zero_grad(set_to_none=True)
        criterion(z0, z1).backward()
        optimizer.step()

    return step


def tuned_step(name: str, side: int) -> Callable[[Any], None]:
    network = Peer(name, side, 1).to(memory_format=torch.channels_last).train()
    step = lightly_step(network, weight_decay=5e-4)
    return lambda views: step(views, 0.06)


def lightly_loader(source: Source, side: int, batch_size: int, workers: int) -> DataLoader[Any]:
    """Return batches of pairs of views by lightly's transform, with our policy's operations."""
    transform = SimCLRTransform(
        input_size=side,
        cj_prob=0.8,
        cj_strength=1.0,
        cj_bright=0.8,
        cj_contrast=0.8,
        cj_sat=0.0,
        cj_hue=0.0,
        min_scale=0.12,
        random_gray_scale=0.0,
        gaussian_blur=0.0,
        normalize={"mean": [0.5], "std": [0.25]},
    )
    data = AsPil(source, transform, colour=False)
    return peer_loader(data, batch_size, workers)


def peer_loader(data: AsPil, batch_size: int, workers: int) -> DataLoader[Any]:
    return DataLoader(
        data, batch_size=batch_size, shuffle=True, drop_last=True, num_workers=workers
    )


def tuned(
    name: str, side: int, batch_size: int, count: int, *, keep_memory: bool
) -> tuple[Steps, str]:
    """Return steps with the best of `SETTINGS`, and which that is."""
    if keep_memory:
        keep_freed_memory()
    source = _pictures()

    def with_setting(workers: int, threads: int) -> Steps:
        loader = lightly_loader(source, side, batch_size, workers)
        return peer_steps(loader, tuned_step(name, side), threads)

    def tried(setting: tuple[int, int]) -> float:
        return rate(with_setting(*setting), max(3, count // 2), batch_size)

    workers, threads = max(SETTINGS, key=tried)
    return with_setting(workers, threads), f"{workers} workers, {threads} threads"


def peer_steps(loader: DataLoader[Any], step: Callable[[Any], None], threads: int) -> Steps:
    @contextlib.contextmanager
    def steps() -> Iterator[Callable[[], object]]:
        torch.set_num_threads(threads)
        batches = iter(loader)  # new workers each time: none works while others are measured
        yield lambda: step(next(batches))
        torch.set_num_threads(THREADS)

    return steps


def our_steps(name: str, side: int, batch_size: int) -> tuple[Steps, str]:
    training = ours(name, side, batch_size)

    @contextlib.contextmanager
    def steps() -> Iterator[Callable[[], object]]:
        with contextlib.closing(training.loader.batches(0, 10**8)) as batches:
            yield lambda: train_step(training, next(batches), 0.01)

    return steps, ""


def our_bare_step(name: str, side: int, batch_size: int) -> tuple[Steps, str]:
    training = ours(name, side, batch_size)
    ready = next(training.loader.batches(0, 1))
    return lambda: contextlib.nullcontext(lambda: train_step(training, ready, 0.01)), ""


def bare_step(name: str, side: int, batch_size: int) -> tuple[Steps, str]:
    ready = torch.randn(2, batch_size, 1, side, side)
    step = tuned_step(name, side)
    return lambda: contextlib.nullcontext(lambda: step(ready)), ""


def rate(steps: Steps, count: int, batch_size: int) -> float:
    """Return pictures a second, once buffers that filled beforehand are used up."""
    with steps() as step:
        for _ in range(min(WARM_UP, count)):
            step()
        begun = time.perf_counter()
        for _ in range(count):
            step()
        return count * batch_size / (time.perf_counter() - begun)


class Contender:
    """A process that makes its steps, says how, and measures their rate when asked."""

    def __init__(self, make: Callable[[], tuple[Steps, str]], count: int, batch_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._asked, asked = context.Pipe()
        self._process = context.Process(target=_serve, args=(asked, make, count, batch_size))
        self._process.start()
        self.setting: str = self._asked.recv()

    def rate(self) -> float:
        self._asked.send(True)
        measured: float = self._asked.recv()
        return measured

    def close(self) -> None:
        self._asked.send(False)
        self._process.join()


def _serve(
    asked: Connection, make: Callable[[], tuple[Steps, str]], count: int, batch_size: int
) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(THREADS)
    steps, setting = make()
    asked.send(setting)
    while asked.recv():
        asked.send(rate(steps, count, batch_size))


def flops_per_picture(training: Training, side: int) -> float:
    """Return the floating-point operations of a training step for one picture's two views."""
    pictures = torch.zeros(2, 1, side, side)
    training.method.eval()
    with FlopCounterMode(display=False) as counter:
        training.method.project(pictures)
    training.method.train()
    return float(3 * counter.get_total_flops())


def sgemm_peak() -> float:
    """Return the GFLOP/s of a large matrix product, the best of ten."""
    a = torch.randn(2048, 2048)
    times = []
    for _ in range(10):
        begun = time.perf_counter()
        torch.mm(a, a)
        times.append(time.perf_counter() - begun)
    return float(2 * 2048**3 / min(times) / 1e9)


def compare(name: str, side: int, batch_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    case, count = (name, side, batch_size), arguments.steps
    makers: dict[str, Callable[[], tuple[Steps, str]]] = {
        "looktwice": partial(our_steps, *case),
        "lightly, tuned": partial(tuned, *case, count, keep_memory=False),
        "lightly, tuned, our allocation": partial(tuned, *case, count, keep_memory=True),
        "bare step, looktwice": partial(our_bare_step, *case),
        "bare step, lightly, tuned": partial(bare_step, *case),
    }
    if FLOORS[side][0]:
        makers["lightly, shipped"] = partial(shipped, *case)
    contenders = {n: Contender(make, count, batch_size) for n, make in makers.items()}
    rounds = [
        {n: contender.rate() for n, contender in contenders.items()}
        | {"sgemm_gflops": sgemm_peak()}
        for _ in range(arguments.rounds)
    ]
    for contender in contenders.values():
        contender.close()
    result: dict[str, Any] = {
        key: statistics.median(one[key] for one in rounds) for key in rounds[0]
    }
    result["lightly's best"] = contenders["lightly, tuned"].setting
    result["gflops"] = flops_per_picture(ours(*case), side) * result["looktwice"] / 1e9
    for peer in (n for n in contenders if n.startswith("lightly")):
        result[f"times {peer}"] = statistics.median(one["looktwice"] / one[peer] for one in rounds)
    return result


def show(title: str, result: dict[str, Any], floors: tuple[float, float]) -> None:
    print(f"\n{title}")
    for name in ("looktwice", *PEERS):
        if name not in result:
            continue
        line = f"  {name:32}{result[name]:9,.0f} pictures/s"
        if name != "looktwice":
            line += f"   looktwice {result[f'times {name}']:5.2f} x" + _asked(name, result, floors)
        print(line)
    for name in ("looktwice", "lightly, tuned"):
        print(f"  bare step, {name:21}{result[f'bare step, {name}']:9,.0f} pictures/s")
    best = result["lightly's best"]
    print(f"  lightly tuned: {best}")
    print(
        f"  looktwice end to end: {result['gflops']:.0f} GFLOP/s of "
        f"{result['sgemm_gflops']:.0f} in a large matrix product"
    )


def _asked(name: str, result: dict[str, Any], floors: tuple[float, float]) -> str:
    """Return what is asked of a ratio and whether it is met; nothing where nothing is asked."""
    floor = dict(zip(PEERS, floors, strict=False)).get(name)
    if floor is None:
        return ""
    return f"   asked {floor:g}: {'yes' if result[f'times {name}'] >= floor else 'NO'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, at least 5")
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    parser.add_argument("--only", default="", help="cases whose title contains this")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(THREADS)
    cases = {
        "resnet-tiny, 28 px, batch 256": ("resnet-tiny", 28, 256),
        "resnet-tiny, 20 px, batch 256": ("resnet-tiny", 20, 256),
        "resnet18 with the small stem, 32 px, batch 64": ("resnet18", 32, 64),
    }
    results = {}
    for title, (name, side, batch_size) in cases.items():
        if arguments.only not in title:
            continue
        few = argparse.Namespace(**{**vars(arguments), "steps": min(arguments.steps, 4)})
        taken = few if name == "resnet18" else arguments
        results[title] = compare(name, side, batch_size, taken)
        if not arguments.json:
            show(title, results[title], FLOORS[side])
    if arguments.json:
        machine = environment("benchmarks/train.py")
        print(json.dumps({"results": results, "machine": machine}, indent=1))


if __name__ == "__main__":
    main()
