"""One gradient of one global batch, however many processes and pieces compute it.

Gradient caching (arXiv 2101.06983): embed all pieces without a graph, gather the embeddings of
all processes, take the loss and its gradient at the embeddings, then embed each piece again, with
the graph, and propagate its part of that gradient. Every process takes the same loss of the same
embeddings; parameters' gradients are summed over processes. With one piece the first pass is left
out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import final

import torch
from torch import Tensor, nn

from looktwice import distributed
from looktwice.allocation import give_back_freed_memory
from looktwice.errors import NotFiniteError, UsageError
from looktwice.methods import Embedded, Method, Views
from looktwice.models import (
    Grouping,
    forget_recorded,
    group_batch_norm,
    update_running_statistics,
)

# Layers that draw random numbers would draw others in the second pass.
_RANDOM_LAYERS = ("Dropout", "DropPath", "DropBlock", "StochasticDepth", "PatchDropout")

# Pieces between which gaps in the memory are kept: less often and they grow, more often and it
# costs time (docs/measured.md).
_GIVE_BACK_EVERY = 16


@final
class LargeBatch:
    """Computes gradients of a method; its batch-norm layers are replaced by grouped ones.

    Args:
        method: on its device; in train mode when `backward` is called.
        normalize: maps uint8 views (…, C, S, S) to normalised floats.
        batch_size: pictures of the global batch, a multiple of the number of processes.
        micro_batch: pictures this process holds activations of at once, a divisor of its share
            of the batch; 0, or more than its share, for all of them.
        bn_group: pictures of a batch-norm group, a divisor of the micro-batch, or "global".
        amp: compute embeddings in bfloat16.
        seed: of the orders in which a shuffling method sees pictures.

    Raises:
        UsageError: sizes that do not divide, or layers whose random numbers a second pass would
            draw again.
    """

    def __init__(
        self,
        method: Method,
        normalize: Callable[[Tensor], Tensor],
        *,
        batch_size: int,
        micro_batch: int = 0,
        bn_group: int | str = "global",
        amp: bool = False,
        seed: int = 0,
    ) -> None:
        own = _share(batch_size)
        self.micro_batch = min(micro_batch or own, own)
        self._group = batch_size if bn_group == "global" else int(bn_group)
        self._check(method, own, batch_size)
        self._method, self._normalize = method, normalize
        self._batch_size, self._amp, self._seed = batch_size, amp, seed
        self._obey: Callable[[], None] = lambda: None
        self._grouping = Grouping()
        self._grouping.synchronised = self._group > own
        group_batch_norm(method, self._grouping)

    def backward(
        self,
        views: Views,
        labels: Tensor | None = None,
        *,
        step: int,
        obey: Callable[[], None] = lambda: None,
    ) -> tuple[Tensor, Embedded]:
        """Set the parameters' gradients to those of the global batch; update running statistics.

        Whatever is raised, statistics are as before, and what was begun does not count.

        Args:
            views: this process's pictures, uint8 (B / processes, views, C, S, S), by size.
            labels: int64 (B / processes,), for methods that use them.
            step: decides the order in which a shuffling method sees pictures.
            obey: called before each piece, equally often in every process; raises to leave.

        Returns:
            The global batch's loss, a scalar, and its embeddings; equal on all processes.

        Raises:
            NotFiniteError: the loss or a gradient is not, on all processes alike.
        """
        method = self._method
        forget_recorded(method)
        for parameter in method.parameters():
            parameter.grad = None
        self._obey = obey
        target = self._targets(views, step)
        parts = self._parts(views)
        online = self._first_pass(parts)
        leaf = distributed.gather_rows(online).requires_grad_()
        gathered = None if labels is None else distributed.gather_rows(labels)
        loss = method.loss(Embedded(leaf, target, gathered))
        batch = Embedded(leaf.detach(), target, gathered)
        if not torch.isfinite(loss):
            raise NotFiniteError("loss", f"the loss is {loss.item()}")
        (gradient,) = torch.autograd.grad(loss, leaf)
        gradient = gradient[distributed.share(len(gradient))]
        if len(parts) == 1:
            obey()
            online.backward(gradient)  # type: ignore[no-untyped-call]
        else:
            pieces = torch.split(gradient, self.micro_batch)
            for part, piece in zip(self._in_turn(parts), pieces, strict=True):
                self._embed(part).backward(piece)  # type: ignore[no-untyped-call]
        gradients = self._sum_gradients()
        if not _all_finite(gradients):
            raise NotFiniteError(
                "gradient", f"the loss is {loss.item():.4g}, its gradient infinite"
            )
        update_running_statistics(method)
        return loss.detach(), batch

    def _first_pass(self, parts: list[Views]) -> Tensor:
        """Return this process's embeddings: with their graph if they are one piece."""
        if len(parts) == 1:
            self._obey()
            return self._embed(parts[0])
        with torch.no_grad(), self._unrecorded():
            return torch.cat([self._embed(part) for part in self._in_turn(parts)])

    def _embed(self, part: Views) -> Tensor:
        with self._running(part):
            return self._method.embed(self._normalized(part))

    @torch.no_grad()
    def _targets(self, views: Views, step: int) -> Tensor | None:
        """Return all pictures' embeddings by the method's second network, if it has one."""
        shuffled = self._method.shuffles and self._group < self._batch_size
        order = self._order(step) if shuffled else None
        if order is not None:
            views = tuple(distributed.gather_rows(v)[order[_slice(len(v))]] for v in views)
        targets = []
        for part in self._in_turn(self._parts(views)):
            with self._running(part):
                target = self._method.embed_target(self._normalized(part))
            if target is None:
                return None
            targets.append(target)
        gathered = distributed.gather_rows(torch.cat(targets))
        return gathered if order is None else gathered[order.argsort()]

    def _in_turn(self, parts: list[Views]) -> Iterator[Views]:
        """Yield pieces; now and then give back the gaps that those before left in the memory."""
        for number, part in enumerate(parts):
            self._obey()
            if len(parts) >= _GIVE_BACK_EVERY and number % _GIVE_BACK_EVERY == 0:
                give_back_freed_memory()
            yield part

    def _order(self, step: int) -> Tensor:
        """Return an order of the global batch, the same on every process."""
        generator = torch.Generator().manual_seed((self._seed * 0x9E3779B1 + step) % 2**63)
        return torch.randperm(self._batch_size, generator=generator)

    def _parts(self, views: Views) -> list[Views]:
        return list(zip(*(torch.split(part, self.micro_batch) for part in views), strict=True))

    def _normalized(self, views: Views) -> Views:
        return tuple(self._normalize(part) for part in views)

    @contextlib.contextmanager
    def _running(self, part: Views) -> Iterator[None]:
        """Let the network run on some pictures: their batch-norm groups, the precision."""
        grouping = self._grouping
        grouping.num_groups = max(1, len(part[0]) // self._group)
        with torch.autocast(part[0].device.type, torch.bfloat16, enabled=self._amp):
            yield

    @contextlib.contextmanager
    def _unrecorded(self) -> Iterator[None]:
        self._grouping.recording = False
        try:
            yield
        finally:
            self._grouping.recording = True

    def _sum_gradients(self) -> list[Tensor]:
        learnt = {n: p for n, p in self._method.named_parameters() if p.requires_grad}
        idle = [name for name, parameter in learnt.items() if parameter.grad is None]
        if idle:
            raise UsageError(
                f"{type(self._method).__name__}: parameter {idle[0]!r} has no part in embed(); "
                "use it there, or set requires_grad_(False)"
            )
        gradients = [p.grad for p in learnt.values() if p.grad is not None]
        distributed.sum_over_processes(gradients)
        return gradients

    def _check(self, method: Method, own: int, batch_size: int) -> None:
        """Refuse sizes with which the layout would decide, and layers that would draw twice."""
        if own % self.micro_batch:
            raise UsageError(
                f"train.micro_batch {self.micro_batch} does not divide the {own} pictures of "
                f"a process; take one of {_divisors(own)}"
            )
        cut = self.micro_batch < own
        normalises = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in method.modules())
        if self._group == batch_size:
            if cut and normalises:
                raise UsageError(
                    f"train.micro_batch {self.micro_batch}: batch-norm over the whole batch "
                    "(train.bn_group global) cannot be computed in pieces; set train.bn_group to "
                    f"one of {_divisors(self.micro_batch)}"
                )
        elif self.micro_batch % self._group and normalises:
            raise UsageError(
                f"train.bn_group {self._group} does not divide the {self.micro_batch} pictures "
                f"that are computed together; take one of {_divisors(self.micro_batch)}, or global"
            )
        random = [m for m in method.modules() if _is_random(m)]
        if cut and random:
            raise UsageError(
                f"train.micro_batch needs a network without random layers, found "
                f"{type(random[0]).__name__}; its second pass would draw other numbers"
            )


def activation_bytes(method: Method, views: Views) -> int:
    """Return the bytes that the embeddings of some normalised views keep for their gradient."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        embeddings = method.embed(views)
    del embeddings
    return sum(size for place, size in kept.items() if place not in weights)


def fitting_micro_batch(
    own: int, bn_group: int | str, *, bytes_per_picture: float, budget: float
) -> int:
    """Return the largest piece of `own` pictures, of whole batch-norm groups, within a budget.

    The whole share if batch-norm covers the batch, or the smallest piece if none fits.
    """
    if bn_group == "global":
        return own
    group = min(int(bn_group), own)
    pieces = [n for n in range(group, own + 1, group) if own % n == 0] or [own]
    return max((n for n in pieces if n * bytes_per_picture <= budget), default=pieces[0])


def _all_finite(tensors: list[Tensor]) -> bool:
    """Tell whether no element is infinite or no number: largest magnitudes keep both."""
    largest = torch._foreach_norm([tensor for tensor in tensors if tensor.numel()], torch.inf)
    return bool(torch.stack(largest).isfinite().all())


def _share(batch_size: int) -> int:
    processes = distributed.world_size()
    if batch_size % processes:
        raise UsageError(
            f"train.batch_size {batch_size} is no multiple of the {processes} processes"
        )
    return batch_size // processes


def _slice(own: int) -> slice:
    return distributed.share(own * distributed.world_size())


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(number, 0, -1) if number % n == 0)


def _is_random(module: nn.Module) -> bool:
    """Tell whether a layer drops something, with a probability above 0."""
    drops = any(getattr(module, name, 0.0) for name in ("p", "drop_prob", "prob"))
    return type(module).__name__.startswith(_RANDOM_LAYERS) and drops
