"""Does one batch give one gradient, however it is computed? Measured on this machine.

The same steps are taken by one process, by several, and in pieces, with small networks on made-up
pictures; what differs from one process with the whole batch is told as relative differences,
‖a - b‖ / ‖b‖ over all parameters together.
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from torch import Tensor, nn

from looktwice import distributed
from looktwice.config import MethodConfig
from looktwice.errors import RunError
from looktwice.large_batch import LargeBatch
from looktwice.methods import Method, Parts, build_method
from looktwice.models import ResNetTiny, build_head
from looktwice.optim import build_optimizer

METHODS: Final = ("simclr", "moco", "moco-v3", "supcon")
CLASSES: Final = 10
BATCH_SIZE: Final = 128
SIDE: Final = 8
STEPS: Final = 20
BN_GROUP: Final = 8
LEARNING_RATE: Final = 0.02

ONE_STEP: Final = 1e-12
MANY_STEPS: Final = 1e-10
SINGLE: Final = 1e-5
ERROR: Final = 3.0
"""Limits: fp64 after one step, fp64 after `STEPS`, fp32's gradient of one step, and its error."""

Result = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        method: by name.
        optimizer: by name.
        bn_group: pictures of a batch-norm group, or "global".
        dtype: of all numbers.
    """

    method: str
    optimizer: str
    bn_group: int | str
    dtype: torch.dtype

    def __str__(self) -> str:
        """Return the case in a line."""
        name = str(self.dtype).removeprefix("torch.float")
        return f"{self.method}, {self.optimizer}, bn_group {self.bn_group}, fp{name}"


@dataclass(frozen=True)
class Layout:
    """How a batch is computed: by how many processes, each in how many pieces."""

    processes: int
    pieces: int

    def __str__(self) -> str:
        """Return the layout in a few words."""
        pieces = "" if self.pieces == 1 else f" × 1/{self.pieces} at a time"
        return f"{self.processes} process{'es' if self.processes > 1 else ''}{pieces}"


@dataclass(frozen=True)
class Difference:
    """What a layout changes against one process with the whole batch.

    Attributes:
        loss: relative, of the first step.
        gradient: relative, of the first step.
        state: largest relative difference after all steps of weights, of batch-norm statistics,
            and of the queue; None where only one step was taken.
        error: fp32 alone: how far its gradient is from that of fp64, in units of how far that of
            the whole batch in fp32 is.
    """

    case: Case
    layout: Layout
    loss: float
    gradient: float
    state: float | None
    error: float | None

    @property
    def holds(self) -> bool:
        """Whether every difference is within its limit."""
        return (
            self.loss <= self.limit
            and self.gradient <= self.limit
            and (self.state is None or self.state <= MANY_STEPS)
            and (self.error is None or self.error <= ERROR)
        )

    @property
    def limit(self) -> float:
        """What loss and gradient may differ by."""
        return ONE_STEP if self.case.dtype == torch.float64 else SINGLE


def cases() -> list[Case]:
    """Return all cases: every method that couples pictures, two optimisers, grouped and global."""
    groups: tuple[int | str, ...] = (BN_GROUP, "global")
    made = [
        Case(method, optimizer, group, torch.float64)
        for method in METHODS
        for optimizer in ("sgd", "lars")
        for group in groups
    ]
    singles = [Case(method, "sgd", BN_GROUP, torch.float32) for method in METHODS]
    return made + singles


def sample() -> list[Case]:
    """Return a few cases that go through all of the code: about half a minute's work."""
    return [
        Case("simclr", "sgd", BN_GROUP, torch.float64),
        Case("moco", "sgd", BN_GROUP, torch.float64),
        Case("moco-v3", "sgd", BN_GROUP, torch.float64),
        Case("supcon", "sgd", BN_GROUP, torch.float64),
        Case("simclr", "sgd", "global", torch.float64),
        Case("moco", "lars", BN_GROUP, torch.float64),
        Case("simclr", "sgd", BN_GROUP, torch.float32),
    ]


def measure(
    chosen: Sequence[Case],
    *,
    processes: Sequence[int] = (1, 2, 4),
    pieces: Sequence[int] = (1, 2, 4),
) -> Iterator[Difference]:
    """Yield the differences of every case in every layout.

    Raises:
        RunError: a process ended with an error, which it has printed.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        layouts = {n: [(c, p) for c in chosen for p in pieces if _fits(c, p)] for n in processes}
        for number, tasks in layouts.items():
            _run(number, tasks, folder)
        for case in chosen:
            whole: Result = torch.load(folder / _file(case, Layout(1, 1)))
            exact = take_steps(dataclasses.replace(case, dtype=torch.float64), 1, 1)["gradient"]
            for number, parts in itertools.product(processes, pieces):
                layout = Layout(number, parts)
                if layout != Layout(1, 1) and _fits(case, parts):
                    found: Result = torch.load(folder / _file(case, layout))
                    yield _difference(case, layout, found, whole, exact)


def _fits(case: Case, pieces: int) -> bool:
    """Batch-norm over the whole batch is not computed in pieces."""
    return case.bn_group != "global" or pieces == 1


def _difference(
    case: Case, layout: Layout, found: Result, whole: Result, exact: Tensor
) -> Difference:
    errors = [relative(result["gradient"], exact) for result in (found, whole)]
    state = [relative(found[key], whole[key]) for key in whole if key.startswith("state.")]
    return Difference(
        case,
        layout,
        loss=relative(found["loss"], whole["loss"]),
        gradient=relative(found["gradient"], whole["gradient"]),
        # Unlike Python's, this maximum is NaN where one is.
        state=float(torch.tensor(state, dtype=torch.float64).max()) if state else None,
        error=errors[0] / errors[1] if case.dtype == torch.float32 else None,
    )


def relative(found: Tensor, whole: Tensor) -> float:
    """Return ‖found - whole‖ / ‖whole‖."""
    found, whole = found.double(), whole.double()
    return float((found - whole).norm() / whole.norm().clamp(min=1e-300))


def take_steps(case: Case, pieces: int, steps: int) -> Result:
    """Take steps in this process's layout.

    Returns:
        ``loss`` and ``gradient`` (all parameters' after one another) of the first step; of more
        than one step ``state.weights``, ``state.statistics`` and ``state.queue`` in the end.
    """
    torch.manual_seed(0)
    method = build(case)
    learnt = [p for p in method.parameters() if p.requires_grad]
    optimizer = build_optimizer(method, name=case.optimizer, momentum=0.9, weight_decay=1e-4)
    large_batch = LargeBatch(
        method,
        lambda views: (views.to(case.dtype) / 255 - 0.5) / 0.25,
        batch_size=BATCH_SIZE,
        micro_batch=BATCH_SIZE // distributed.world_size() // pieces,
        bn_group=case.bn_group,
    )
    result: Result = {}
    for step in range(steps):
        own = distributed.share(BATCH_SIZE)
        views, labels = made_up_views(step)[own], (torch.arange(BATCH_SIZE) % CLASSES)[own]
        known = labels if method.uses_labels else None
        loss, batch = large_batch.backward((views,), known, step=step)
        if step == 0:
            result["loss"] = loss
            result["gradient"] = _flat([p.grad for p in learnt if p.grad is not None]).clone()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE
        optimizer.step()
        method.after_step(batch, (step + 1) / steps)
    if steps > 1:
        buffers = dict(method.named_buffers())
        statistics = [b for name, b in buffers.items() if ".running_" in name]
        result["state.weights"] = _flat([p.detach() for p in method.parameters()])
        result["state.statistics"] = _flat(statistics)
        if "queue" in buffers:
            result["state.queue"] = buffers["queue"].clone()
    return result


def build(case: Case) -> Method:
    """Return the small method of a case, in train mode."""
    backbone = ResNetTiny(3, small_stem=False, widths=(4, 8, 16))
    width, dim = backbone.num_features, 16

    def head(num_in: int) -> nn.Module:
        return build_head("mlp", num_features=num_in, num_layers=2, width=32, embedding_dim=dim)

    parts = Parts(
        backbone=backbone,
        projection_head=head(width),
        predictor=lambda: head(dim),
        classifier=lambda classes: nn.Linear(width, classes),
        embedding_dim=dim,
        num_views=2,
        num_full=2,
        num_classes=CLASSES,
        batch_size=BATCH_SIZE,
    )
    # 128 keys do not divide a queue of 200.
    config = MethodConfig(name=case.method, temperature=0.2, queue_size=200, momentum=0.9)  # type: ignore[arg-type]
    return build_method(config, parts).to(case.dtype).train()


def made_up_views(step: int) -> Tensor:
    """Return uint8 views (B, 2, 3, S, S): two noisy versions of each picture."""
    generator = torch.Generator().manual_seed(step)
    shape = BATCH_SIZE, 1, 3, SIDE, SIDE
    pictures = torch.randint(0, 200, shape, generator=generator)
    noise = torch.randint(0, 56, (BATCH_SIZE, 2, 3, SIDE, SIDE), generator=generator)
    return (pictures + noise).to(torch.uint8)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _file(case: Case, layout: Layout) -> str:
    return f"{case}, {layout.processes}, {layout.pieces}.pt"


def _run(processes: int, tasks: list[tuple[Case, int]], folder: Path) -> None:
    """Let new processes take the steps of all tasks, and leave the results in a folder."""
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    started = [
        context.Process(target=_work, args=(rank, processes, port, tasks, folder))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise RunError(f"a check with {processes} processes ended early; its reason stands above")


def _work(
    rank: int, processes: int, port: int, tasks: list[tuple[Case, int]], folder: Path
) -> None:
    torch.set_num_threads(1)
    with _environment(rank, processes, port), distributed.joined("cpu"):
        for case, pieces in tasks:
            steps = STEPS if case.dtype == torch.float64 else 1
            result: Any = take_steps(case, pieces, steps)
            if distributed.is_first():
                torch.save(result, folder / _file(case, Layout(processes, pieces)))


@contextmanager
def _environment(rank: int, processes: int, port: int) -> Iterator[None]:
    """Set what torchrun sets."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    yield


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
