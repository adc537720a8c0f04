"""Processes that train together: plain collectives of torch.distributed, and nothing when alone.

torchrun starts the processes and says who is who; `joined` is the only place that asks. Rank r
of a world of W holds pictures r·B/W … (r+1)·B/W - 1 of every global batch of B.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from looktwice.errors import PeerError, UsageError

Value = TypeVar("Value")

BUCKET_BYTES = 25 * 2**20
"""Gradients summed in one call; the order of buckets, and so of additions, never changes."""

# The first process may measure, evaluate or calibrate while the others wait.
_TIMEOUT = timedelta(hours=2)


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Tell whether this process is the one that writes and prints."""
    return rank() == 0


def local_world_size() -> int:
    """Return how many of the processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return this process's number on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started; alone, do nothing.

    Args:
        device: where training runs: NCCL connects CUDA devices, gloo everything else.

    Raises:
        UsageError: the others cannot be reached.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_cuda:
        torch.cuda.set_device(local_rank())
    try:
        dist.init_process_group("nccl" if on_cuda else "gloo", timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"cannot reach the other processes: {_first_line(error)}") from error
    # Left without a farewell after an error: the others must notice, not wait for this one.
    yield
    dist.destroy_process_group()


def share(total: int) -> slice:
    """Return which of `total` rows, a multiple of the world's size, are this process's."""
    each = total // world_size()
    return slice(rank() * each, (rank() + 1) * each)


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes (W·N, …), from (N, …) of each, in the order of ranks.

    No gradient flows through it: losses are taken at the gathered rows themselves.
    """
    if world_size() == 1:
        return rows.detach()
    rows = rows.detach().contiguous()
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    with _peers():
        dist.all_gather(parts, rows)
    return torch.cat(parts)


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one dtype and device by their sums over all processes, in buckets."""
    if world_size() == 1:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        with _peers():
            dist.all_reduce(flat)
        for tensor, part in zip(
            bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True
        ):
            tensor.copy_(part.view_as(tensor))


def any_process(flag: bool) -> bool:
    """Tell whether a flag is set in any process."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(float(flag), device=_device())
    with _peers():
        dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


def from_first(value: Value) -> Value:
    """Return the first process's value in all of them."""
    if world_size() == 1:
        return value
    values: list[Any] = [value]
    with _peers():
        dist.broadcast_object_list(values, src=0, device=_device())
    received: Value = values[0]
    return received


def from_all(value: Value) -> list[Value]:
    """Return every process's value, in the order of ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with _peers():
        dist.all_gather_object(values, value)
    return values


def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors with the first process's."""
    if world_size() == 1:
        return
    for tensor in tensors:
        with _peers():
            dist.broadcast(tensor, src=0)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if bucket and held + tensor.nbytes > BUCKET_BYTES:
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.nbytes
    if bucket:
        yield bucket


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Turn a broken connection into one line: the process that broke it has told why."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(f"another process ended first ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
