"""Losses of queries that look for their keys: InfoNCE, with and without a queue."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from looktwice.losses.arguments import (
    check_floating,
    check_pairs,
    check_temperature,
    working_dtype,
)
from looktwice.losses.directions import through_unit_, unit_
from looktwice.losses.gradient import Gradients, with_gradient
from looktwice.losses.panels import Sums, cross_entropy_in_panels
from looktwice.losses.tiles import Pattern

LOG2_E = math.log2(math.e)


def info_nce(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float,
    normalize: bool = True,
    queue: Tensor | None = None,
) -> Tensor:
    """Return InfoNCE: each query must find its key among other keys, or among a queue.

    Query i's positive is key i. Without a queue its negatives are the other N - 1 keys (MoCo v3,
    arXiv 2104.02057, equation 1 and algorithm 1); with one they are the queue's rows alone, and no
    other key of the batch (MoCo, arXiv 1911.05722, equation 1 and algorithm 1). Guessing gives
    `info_nce_chance`. Exact in O((N + K)·D) memory.

    Gradients reach queries, keys and queue, whichever require them; MoCo detaches the latter two.

    Args:
        queries: (N, D), floating.
        keys: (N, D); row i belongs to row i of `queries`.
        temperature: positive.
        normalize: scale every embedding, the queue's too, to unit length first.
        queue: (K, D), K ≥ 1.

    Returns:
        The mean over queries in nats, at least 0, a scalar; float32 or float64.

    Raises:
        ValueError: shapes that do not fit, fewer than two pairs without a queue, an empty queue,
            embeddings that are not floating, or a temperature that is not a finite number above 0.
    """
    check_temperature(temperature)
    if queue is None:
        check_pairs("info_nce", queries, keys)
        return _find_keys(queries, keys, None, temperature, normalize)
    _check_queue(queries, keys, queue)
    return _find_keys(queries, keys, queue, temperature, normalize)


def symmetric_info_nce(
    q0: Tensor, q1: Tensor, k0: Tensor, k1: Tensor, *, temperature: float, normalize: bool = True
) -> Tensor:
    """Return MoCo v3's loss: the queries of each view look for the keys of the other.

    2τ (info_nce(q0, k1) + info_nce(q1, k0)); the factor 2τ, which keeps gradients of one size over
    temperatures, is that of arXiv 2104.02057, algorithm 1, and of its published code
    (`nn.CrossEntropyLoss()(logits, labels) * (2 * self.T)`). Guessing gives
    `symmetric_info_nce_chance`.

    Args:
        q0: queries of the first views, (N, D), floating.
        q1: queries of the second views, (N, D).
        k0: keys of the first views, (N, D); MoCo v3 detaches them.
        k1: keys of the second views, (N, D).
        temperature: positive.
        normalize: scale every embedding to unit length first.

    Returns:
        Nats times 2τ, at least 0, a scalar; float32 or float64.

    Raises:
        ValueError: as `info_nce` without a queue.
    """
    both = [
        info_nce(queries, keys, temperature=temperature, normalize=normalize)
        for queries, keys in ((q0, k1), (q1, k0))
    ]
    return 2 * temperature * (both[0] + both[1])


def _check_queue(queries: Tensor, keys: Tensor, queue: Tensor) -> None:
    fits = queries.ndim == 2 and queries.shape == keys.shape and queries.numel() > 0
    if not (fits and queue.ndim == 2 and len(queue) and queue.shape[1] == queries.shape[1]):
        raise ValueError(
            "info_nce needs queries and keys (N, D) of one shape and a queue (K, D), not "
            f"{tuple(queries.shape)}, {tuple(keys.shape)} and {tuple(queue.shape)}"
        )
    check_floating("info_nce", queries, keys, queue)


def _find_keys(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor | None,
    temperature: float,
    normalize: bool,
    *,
    panel: int | None = None,
) -> Tensor:
    scale = LOG2_E / temperature  # of similarities, as powers of 2 are computed faster than of e
    pattern = Pattern(positives=(0,) if queue is None else (), excluded=())

    def compute(wanted: tuple[bool, ...], inputs: tuple[Tensor, ...]) -> tuple[Tensor, Gradients]:
        dtype = working_dtype(*inputs)
        scaled = [z.to(dtype, copy=True, memory_format=torch.contiguous_format) for z in inputs]
        inverses = [unit_(z) if normalize else None for z in scaled]
        for z in scaled:
            z.mul_(math.sqrt(scale))
        gradients = [
            torch.zeros_like(z) if want else None for z, want in zip(scaled, wanted, strict=True)
        ]
        if queue is None:
            sums, beside = Sums(gradients[0], gradients[1]), None
        else:
            sums, beside = Sums(gradients[0], gradients[2], gradients[1]), scaled[1]
        entropies = cross_entropy_in_panels(
            scaled[0], scaled[-1], pattern, sums, beside=beside, panel=panel
        )
        for gradient, z, inverse in zip(gradients, scaled, inverses, strict=True):
            if gradient is not None:
                gradient.mul_(math.sqrt(scale) / (LOG2_E * len(entropies)))
                if inverse is not None:
                    through_unit_(gradient, z, inverse, scale)
        return entropies.mean().div_(LOG2_E), tuple(gradients)

    return with_gradient(compute, *((queries, keys) if queue is None else (queries, keys, queue)))
