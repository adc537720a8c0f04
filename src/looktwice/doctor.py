"""What this machine is, how fast it is, and whether anything here would slow training down."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from looktwice import equivalence, launched
from looktwice.augment import policy
from looktwice.augment.applying import apply_rows
from looktwice.equivalence import ERROR, MANY_STEPS, Difference
from looktwice.run import environment

PACKAGES: Final = ("torch", "torchvision", "timm", "numba", "numpy")

TRAINED: Final = 3
"""Forward passes that a trained view costs: one, and a backward pass of two."""

SGEMM_SIDE: Final = 1024
SGEMM_SECONDS: Final = 0.5
AUGMENT_SECONDS: Final = 1.2

RATES: Final = {
    "simclr-cifar": {
        "size": 32,
        "source_size": 32,
        "pictures": 512,
        "gpu": "ResNet-18 for CIFAR, A100, up to 23,000 pictures/s",
        "gpu_rate": 23_000,
        "forward_passes": 6,
    },
    "moco-v2": {
        "size": 224,
        "source_size": 256,
        "pictures": 16,
        "gpu": "ResNet-50 at 224 px, 2,470 pictures/s",
        "gpu_rate": 2_470,
        "forward_passes": 4,
    },
}
"""Policies that are measured, on arrays of a side, and published rates of GPUs for supervised
training, one view a picture. A picture costs SimCLR six forward passes of one view (two trained
views), MoCo v2 four (a trained query and a key without gradient).
"""


def examine() -> dict[str, Any]:
    """Return what is here and how fast it is; takes a few seconds, more where kernels compile."""
    facts = environment("")
    versions = {name: facts[name] for name in ("looktwice", "python")}
    versions |= {name: metadata.version(name) for name in PACKAGES}
    found: dict[str, Any] = {
        "versions": versions,
        "platform": facts["platform"],
        "cpu": facts["cpu"],
        "cores": facts["cores"],
        "usable_cores": launched.usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "memory_gb": memory_gb(),
        "devices": devices(),
        "numba_cache": numba_cache(),
        "data": data_root(),
        "sgemm_gflops": round(sgemm_gflops(), 1),
        "augmentation": {name: augmentation(name) for name in RATES},
    }
    return {**found, "advice": advice(found)}


def memory_gb() -> float:
    """Return the memory in 10^9 bytes: the machine's, or what its control group may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _text(Path("/sys/fs/cgroup/memory.max"))
    return round(min(total, int(limit) if limit.isdigit() else total) / 1e9, 1)


def devices() -> list[str]:
    """Return each GPU in a line."""
    found = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(i)
        memory = f"{gpu.total_memory / 1e9:.0f} GB"
        found.append(f"cuda:{i} {gpu.name}, {memory}, CUDA {torch.version.cuda}")
    if torch.backends.mps.is_available():
        found.append(f"mps, macOS {platform.mac_ver()[0]}")
    return found


def numba_cache() -> str | None:
    """Return the folder that keeps compiled kernels; None where Numba found none to write to."""
    path = apply_rows._cache.cache_path
    return None if path is None else str(path)


def data_root() -> dict[str, Any]:
    """Return where data sets are looked for by name, and whether that is a folder."""
    given = os.environ.get("LOOKTWICE_DATA")
    return {
        "LOOKTWICE_DATA": given,
        "found": bool(given) and Path(str(given)).expanduser().is_dir(),
    }


def sgemm_gflops() -> float:
    """Measure the multiplication of float32 matrices by all of torch's threads, 10^9 operations/s.

    The best of several: what the machine can do, not what others left of it.
    """
    a, b = torch.randn(2, SGEMM_SIDE, SGEMM_SIDE)
    seconds = _best_seconds(lambda: a @ b, SGEMM_SECONDS)
    return 2 * SGEMM_SIDE**3 / seconds / 1e9


def augmentation(name: str) -> dict[str, Any]:
    """Measure a policy of `RATES` on one core, and tell how many cores would feed a GPU."""
    case: dict[str, Any] = RATES[name]
    generator = np.random.default_rng(0)
    side, count = case["source_size"], case["pictures"]
    pictures = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    chosen = policy(name, size=case["size"])

    def call() -> None:
        chosen(pictures, seed=0, epoch=0, indices=np.arange(count), threads=1)

    views = chosen.num_views * count / _best_seconds(call, AUGMENT_SECONDS)
    needed = views_needed(case["gpu_rate"], case["forward_passes"], chosen.num_views)
    return {
        "size": case["size"],
        "views_per_second_per_core": round(views),
        "gpu": case["gpu"],
        "views_per_second_needed": round(needed),
        "cores_needed": round(needed / views, 2),
    }


def views_needed(gpu_rate: float, forward_passes: int, num_views: int) -> float:
    """Return the views a second that a GPU takes in.

    Args:
        gpu_rate: pictures a second in supervised training: `TRAINED` forward passes each.
        forward_passes: of one view, that a picture costs the method.
        num_views: of a picture.
    """
    return gpu_rate * TRAINED / forward_passes * num_views


def advice(found: dict[str, Any]) -> list[str]:
    """Return what is not as it should be, and what to do about it."""
    made = []
    cores, threads = found["usable_cores"], found["torch_threads"]
    if threads < cores:
        variable = found["OMP_NUM_THREADS"]
        cause = f"OMP_NUM_THREADS is {variable}: unset it" if variable else "give --threads 0"
        made.append(f"torch uses {threads} of {cores} cores; {cause}")
    if cores < found["cores"]:
        made.append(
            f"this process may use {cores} of {found['cores']} cores: a scheduler, a container or "
            "taskset holds it"
        )
    if found["numba_cache"] is None:
        made.append(
            "compiled kernels cannot be kept, every start compiles again: set NUMBA_CACHE_DIR to a "
            "folder that can be written"
        )
    data = found["data"]
    if data["LOOKTWICE_DATA"] and not data["found"]:
        made.append(f"LOOKTWICE_DATA is {data['LOOKTWICE_DATA']}, which is no folder: mend it")
    return made


def lines(found: dict[str, Any]) -> list[str]:
    """Return what `examine` found in lines."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    omp = found["OMP_NUM_THREADS"]
    data = found["data"]["LOOKTWICE_DATA"]
    told = {
        "versions": versions,
        "platform": found["platform"],
        "cpu": f"{found['cpu']}, {found['cores']} cores, {found['usable_cores']} usable",
        "threads": f"torch {found['torch_threads']}, OMP_NUM_THREADS {omp or 'not set'}",
        "memory": f"{found['memory_gb']:.1f} GB",
        "devices": "; ".join(found["devices"]) or "no GPU: training runs on the CPU",
        "numba cache": found["numba_cache"] or "none",
        "data sets": f"$LOOKTWICE_DATA = {data}" if data else "$LOOKTWICE_DATA is not set",
        "SGEMM": f"{found['sgemm_gflops']:.0f} GFLOP/s, float32, {found['torch_threads']} threads",
    }
    made = [f"{name:<13}{text}" for name, text in told.items()]
    for name, rate in found["augmentation"].items():
        made += _augmentation_lines(name, rate)
    return made + ([f"to do: {text}" for text in found["advice"]] or ["nothing to mend"])


def _augmentation_lines(name: str, rate: dict[str, Any]) -> list[str]:
    passes = RATES[name]["forward_passes"]
    needed, cores = rate["views_per_second_needed"], rate["cores_needed"]
    texts = (
        f"{name}, {rate['size']} px: {rate['views_per_second_per_core']:,} views/s a core",
        f"  published: {rate['gpu']}, that is {TRAINED} forward passes a picture;",
        f"  at {passes} passes it takes {needed:,} views/s, from {cores:.2g} of these cores",
    )
    return [f"{'' if place else 'augmentation':<13}{text}" for place, text in enumerate(texts)]


def differences(*, whole: bool) -> Iterator[Difference]:
    """Measure whether layouts give equal gradients.

    Args:
        whole: all cases by 1, 2 and 4 processes in 1, 2 and 4 pieces; else
            `equivalence.sample` by 1 and 2 processes in 1 and 2 pieces.
    """
    if whole:
        return equivalence.measure(equivalence.cases())
    return equivalence.measure(equivalence.sample(), processes=(1, 2), pieces=(1, 2))


def difference_line(difference: Difference) -> str:
    """Return a case in a layout, its differences beside their limits, and whether they hold."""
    parts = [
        f"{'ok' if difference.holds else 'NO':<3}{difference.case!s:<35}",
        f"{difference.layout!s:<28}",
        f"loss {difference.loss:.0e}  gradient {difference.gradient:.0e} ≤ {difference.limit:.0e}",
    ]
    if difference.state is not None:
        parts.append(f"  state {difference.state:.0e} ≤ {MANY_STEPS:.0e}")
    if difference.error is not None:
        parts.append(f"  error {difference.error:.2f} ≤ {ERROR:g}")
    return "".join(parts)


def difference_record(difference: Difference) -> dict[str, Any]:
    """Return a difference as JSON holds it."""
    return {
        "case": str(difference.case),
        "layout": str(difference.layout),
        "loss": difference.loss,
        "gradient": difference.gradient,
        "limit": difference.limit,
        "state": difference.state,
        "error": difference.error,
        "holds": difference.holds,
    }


def verdict(measured: list[Difference]) -> str:
    """Return the final line of a check of equivalence."""
    failed = [difference for difference in measured if not difference.holds]
    if failed:
        return (
            f"{len(failed)} of {len(measured)} layouts do not give the gradients of one process "
            f"with the whole batch, first: {failed[0].case}, {failed[0].layout}; please report "
            "this table and `looktwice doctor --json`"
        )
    return f"all {len(measured)} layouts give the gradients of one process with the whole batch"


def _best_seconds(call: Callable[[], object], budget: float) -> float:
    """Return the shortest of the calls that fit into some seconds, after one that warms up."""
    call()
    best, begun = math.inf, time.perf_counter()
    while time.perf_counter() - begun < budget:
        before = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - before)
    return best


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
