"""Processes that train together: plain collectives of torch.distributed, and nothing when alone.

torchrun starts the processes and says who is who; `joined` is the only place that asks. Rank r
of a world of W holds pictures r·B/W … (r+1)·B/W - 1 of every global batch of B.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from looktwice import launched
from looktwice.errors import PeerError, UsageError

Value = TypeVar("Value")

BUCKET_BYTES = 25 * 2**20
"""Gradients summed in one call; the order of buckets, and so of additions, never changes."""

# Joining and the steps themselves; what the first process measures or writes may take longer.
_TIMEOUT = timedelta(minutes=10)
_LONG_TIMEOUT = timedelta(hours=2)

# The group of objects and flags: gloo, also beside NCCL.
_objects: list[Any] = []


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Tell whether this process is the one that writes and prints."""
    return rank() == 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started; alone, do nothing. A group that is there is taken.

    Args:
        device: where training runs: NCCL connects CUDA devices, gloo everything else.

    Raises:
        UsageError: the others cannot be reached, or the GPU is not this process's own.
    """
    if _objects or (launched.world_size() == 1 and not dist.is_initialized()):
        yield
        return
    ours = not dist.is_initialized()
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_cuda:
        _take_gpu(device)
    try:
        if ours:
            dist.init_process_group("nccl" if on_cuda else "gloo", timeout=_TIMEOUT)
        _objects.append(dist.new_group(backend="gloo", timeout=_LONG_TIMEOUT))
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"cannot reach the other processes: {_first_line(error)} (between machines, "
            "GLOO_SOCKET_IFNAME names the network interface to take)"
        ) from error
    try:
        yield
        dist.destroy_process_group(None if ours else _objects[0])
    finally:
        # After an error it is left without a farewell: the others must notice, not wait.
        _objects.clear()


def _take_gpu(device: str) -> None:
    if ":" in device:
        raise UsageError(
            f"--device {device} is one GPU, and there are {launched.world_size()} processes; "
            "give --device cuda: each takes the GPU of its number on its machine"
        )
    number, gpus = launched.local_rank(), torch.cuda.device_count()
    if number >= gpus:
        raise UsageError(
            f"process {number} of this machine finds no GPU of its own among {gpus}; start "
            f"torchrun with --nproc-per-node={gpus}, or train with --device cpu"
        )
    torch.cuda.set_device(number)


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
    """Replace tensors of one device by their sums over all processes, in buckets."""
    if world_size() == 1:
        return
    for bucket in _buckets(tensors):
        flat = _flat(bucket)
        with _peers():
            dist.all_reduce(flat)
        _fill(bucket, flat)


def any_process(flag: bool) -> bool:
    """Tell whether a flag is set in any process."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(float(flag))
    with _peers():
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=_objects[0])
    return bool(flags.item())


def from_first(value: Value) -> Value:
    """Return the first process's value in all of them."""
    if world_size() == 1:
        return value
    values: list[Any] = [value]
    with _peers():
        dist.broadcast_object_list(values, src=0, group=_objects[0])
    received: Value = values[0]
    return received


def wait_for_first() -> None:
    """Go on when the first process comes here too."""
    from_first(None)


def wait_for_all() -> None:
    """Go on when every process has come here."""
    from_all(None)


def from_all(value: Value) -> list[Value]:
    """Return every process's value, in the order of ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with _peers():
        dist.all_gather_object(values, value, group=_objects[0])
    return values


def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors of one device by the first process's, in buckets."""
    if world_size() == 1:
        return
    for bucket in _buckets(tensors):
        flat = _flat(bucket)
        with _peers():
            dist.broadcast(flat, src=0)
        _fill(bucket, flat)


@torch.no_grad()
def _flat(bucket: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in bucket])


@torch.no_grad()
def _fill(bucket: Sequence[Tensor], flat: Tensor) -> None:
    sizes = [tensor.numel() for tensor in bucket]
    for tensor, part in zip(bucket, torch.split(flat, sizes), strict=True):
        tensor.copy_(part.view(tensor.shape))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield runs of tensors of one dtype, of at most `BUCKET_BYTES` or one tensor."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        other = bool(bucket) and tensor.dtype != bucket[0].dtype
        if bucket and (other or held + tensor.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.nbytes
    if bucket:
        yield bucket


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Turn a broken connection into one line: the process that broke it has told why."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(f"another process ended first ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
