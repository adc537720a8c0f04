"""NT-Xent beside lightly's and the plain form: seconds, memory, and the gradient's error.

Forward and backward, float32, D 128, temperature .5. Seconds are medians of interleaved rounds in
one process, every peer with the same threads. Memory is what a process of its own, for each figure,
holds at most beyond what it held before the call, gradients of the inputs included. Errors are the
gradient's distance from that of the plain form in float64, over its norm.

    python benchmarks/losses.py [--rounds 5] [--threads 2] [--pairs 64 512 2048 8192] [--json FILE]

lightly comes with the extra `peers`. Asked of 8192 pairs: 7 times lightly's speed and 1/50 of its
memory, twice the speed of the compiled plain form; of fewer, no less than the plain form's speed;
of 65,536 pairs, less than 400 MB.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from looktwice.losses import nt_xent
from looktwice.run import environment

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

CORES = os.cpu_count() or 1
DIM = 128
TEMPERATURE = 0.5
PEERS = ("looktwice", "lightly", "plain", "plain, compiled")
# Least ratios of a peer's seconds to ours, by pairs.
FLOORS = {
    64: {"plain": 1.0},
    512: {"plain": 1.0},
    2048: {"plain": 1.0},
    8192: {"plain": 1.0, "lightly": 7.0, "plain, compiled": 2.0},
}
MEMORY_PAIRS = 8192
MEMORY_FLOOR = 50.0  # lightly's bytes over ours
MANY_PAIRS = 65_536
MANY_MEGABYTES = 400.0
ERROR_PAIRS = (512, 2048)
MEGABYTE = 1e6


def plain(z0: Tensor, z1: Tensor) -> Tensor:
    """NT-Xent as most write it, with the matrix of all similarities."""
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    logits = z @ z.T / TEMPERATURE
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    partner = torch.arange(len(z), device=z.device).roll(len(z0))
    return F.cross_entropy(logits.masked_fill(itself, -math.inf), partner)


def loss_of(name: str) -> Loss:
    match name:
        case "looktwice":
            return lambda z0, z1: nt_xent(z0, z1, temperature=TEMPERATURE)
        case "plain":
            return plain
        case "plain, compiled":
            compiled: Loss = torch.compile(plain, dynamic=False)
            return compiled
        case "lightly":
            from lightly.loss import NTXentLoss

            theirs: Loss = NTXentLoss(temperature=TEMPERATURE)  # no gather, no memory bank
            return theirs
    raise ValueError(f"no loss is called {name}")


def embeddings(pairs: int) -> tuple[Tensor, Tensor]:
    """Two views that have something in common, (N, 128) each."""
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(pairs, DIM, generator=generator)
    z1 = torch.randn(pairs, DIM, generator=generator).add_(z0)
    return z0.requires_grad_(), z1.requires_grad_()


def step(loss: Loss, z0: Tensor, z1: Tensor) -> None:
    z0.grad = z1.grad = None
    loss(z0, z1).backward()  # type: ignore[no-untyped-call]


def seconds(pairs: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of each peer, after a call that is not counted."""
    z0, z1 = embeddings(pairs)
    calls = max(1, 4096 // pairs)
    losses = {name: loss_of(name) for name in PEERS}
    for loss in losses.values():
        step(loss, z0, z1)
    taken: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(rounds):
        for name, loss in losses.items():
            begun = time.perf_counter()
            for _ in range(calls):
                step(loss, z0, z1)
            taken[name].append((time.perf_counter() - begun) / calls)
    return {name: statistics.median(times) for name, times in taken.items()}


def megabytes(name: str, pairs: int, threads: int) -> float:
    """Return what one call holds at most, in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(threads), "--memory", name, str(pairs)]
    return float(subprocess.check_output(command, text=True).split()[-1])


def measure_memory(name: str, pairs: int) -> float:
    loss = loss_of(name)
    compiling = name == "plain, compiled"
    step(loss, *embeddings(pairs if compiling else 64))
    z0, z1 = embeddings(pairs)
    reset = Path("/proc/self/clear_refs")
    if reset.exists():  # forget what imports needed at their most
        reset.write_text("5")
    before = peak_bytes()
    step(loss, z0, z1)
    return (peak_bytes() - before) / MEGABYTE


def peak_bytes() -> int:
    """Return the most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def gradient_errors(pairs: int) -> dict[str, float]:
    """Return each float32 gradient's relative distance from the plain form's in float64."""
    z0, z1 = embeddings(pairs)
    wide = z0.detach().double().requires_grad_(), z1.detach().double().requires_grad_()
    exact = torch.cat(torch.autograd.grad(plain(*wide), wide))
    errors = {}
    for name in PEERS:
        found = torch.cat(torch.autograd.grad(loss_of(name)(z0, z1), (z0, z1)))
        errors[name] = float((found.double() - exact).norm() / exact.norm())
    return errors


def verdict(figure: float, floor: float | None) -> str:
    if floor is None:
        return ""
    return f"   asked {floor:g}: {'yes' if figure >= floor else 'NO'}"


def show(title: str, figures: dict[str, float], unit: str, floors: dict[str, float]) -> None:
    print(f"\n{title}")
    for name, figure in figures.items():
        line = f"  {name:18}{figure:12,.2f} {unit}"
        if name != "looktwice":
            ratio = figure / figures["looktwice"]
            line += f"   looktwice {ratio:6.1f} x{verdict(ratio, floors.get(name))}"
        print(line, flush=True)


def main() -> None:
    arguments = _arguments()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    torch._dynamo.config.recompile_limit = 64
    if arguments.memory:
        name, pairs = arguments.memory
        print(measure_memory(name, int(pairs)))
        return
    versions = {"torch": torch.__version__, "lightly": __import__("lightly").__version__}
    machine = {
        "cpu": environment("benchmarks/losses.py")["cpu"],
        "cores": CORES,
        "python": platform.python_version(),
    }
    print(f"{machine['cpu']}, {CORES} cores, {arguments.threads} threads; {versions}")
    results: dict[str, Any] = {
        "machine": machine,
        "versions": versions,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
    }
    for pairs in arguments.pairs:
        taken = seconds(pairs, arguments.rounds)
        results[f"seconds, {pairs} pairs"] = taken
        milliseconds = {name: 1e3 * each for name, each in taken.items()}
        show(f"{pairs} pairs, forward and backward", milliseconds, "ms", FLOORS.get(pairs, {}))
    memory_pairs = max(p for p in arguments.pairs if p <= MEMORY_PAIRS)
    held = {name: megabytes(name, memory_pairs, arguments.threads) for name in PEERS}
    results[f"megabytes, {memory_pairs} pairs"] = held
    floors = {"lightly": MEMORY_FLOOR} if memory_pairs == MEMORY_PAIRS else {}
    show(f"{memory_pairs} pairs, memory held beyond the inputs'", held, "MB", floors)
    for pairs in ERROR_PAIRS:
        errors = gradient_errors(pairs)
        results[f"gradient error, {pairs} pairs"] = errors
        told = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        print(f"\n{pairs} pairs, the gradient's relative error: {told}")
    if not arguments.few:
        many = megabytes("looktwice", MANY_PAIRS, arguments.threads)
        results[f"megabytes, {MANY_PAIRS} pairs"] = {"looktwice": many}
        within = "yes" if many < MANY_MEGABYTES else "NO"
        print(f"\n{MANY_PAIRS:,} pairs: {many:,.0f} MB   asked under {MANY_MEGABYTES:g}: {within}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--threads", type=int, default=CORES, help="of every peer")
    parser.add_argument("--pairs", type=int, nargs="+", default=sorted(FLOORS))
    parser.add_argument("--few", action="store_true", help=f"leave out {MANY_PAIRS:,} pairs")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--memory", nargs=2, metavar=("PEER", "PAIRS"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
