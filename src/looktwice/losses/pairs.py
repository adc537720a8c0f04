"""Losses of pairs of views, each view against all others of the batch: NT-Xent and DCL."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from looktwice.losses.arguments import check_pairs, check_temperature, working_dtype
from looktwice.losses.directions import through_unit_, unit_
from looktwice.losses.gradient import Gradients, with_gradient
from looktwice.losses.panels import Sums, cross_entropy_in_panels
from looktwice.losses.tiles import Pattern, cross_entropy_in_tiles

# Similarities of unit vectors over temperature stay within ±40 nats from here on: exponentials and
# their sums fit float32 with none subtracted.
TILES_FROM_TEMPERATURE = 0.025
LOG2_E = math.log2(math.e)


def nt_xent(z0: Tensor, z1: Tensor, *, temperature: float, normalize: bool = True) -> Tensor:
    """Return NT-Xent, the normalised temperature-scaled cross-entropy of SimCLR.

    Each of the 2N embeddings must find its partner among the other 2N - 1 (arXiv 2002.05709,
    equation 1 and algorithm 1); guessing gives `nt_xent_chance(N)`. Exact in O(N·D) memory.

    Args:
        z0: embeddings of the first views, (N, D), floating.
        z1: embeddings of the second views, (N, D); row i belongs to row i of `z0`.
        temperature: positive.
        normalize: scale every embedding to unit length first.

    Returns:
        The mean over all 2N embeddings in nats, at least 0, a scalar; float32 or float64.

    Raises:
        ValueError: shapes that differ, fewer than two pairs, embeddings that are not floating, or
            a temperature that is not a finite number above 0.
    """
    check_pairs("nt_xent", z0, z1)
    num = len(z0)
    pattern = Pattern(positives=(num, -num), excluded=(0,))
    return _each_against_all(z0, z1, pattern, temperature, normalize)


def dcl(z0: Tensor, z1: Tensor, *, temperature: float, normalize: bool = True) -> Tensor:
    """Return the decoupled contrastive loss: NT-Xent whose sums leave the positive out.

    The mean over all 2N embeddings of -z·z⁺/τ + log Σ exp(z·z⁻/τ), over the 2N - 2 views of other
    pictures (arXiv 2110.06848, equations 5 and 6, without weights). It may be negative; guessing
    gives `dcl_chance(N)`. Exact in O(N·D) memory.

    Args:
        z0: embeddings of the first views, (N, D), floating.
        z1: embeddings of the second views, (N, D); row i belongs to row i of `z0`.
        temperature: positive.
        normalize: scale every embedding to unit length first.

    Returns:
        The mean over all 2N embeddings in nats, a scalar; float32 or float64.

    Raises:
        ValueError: as `nt_xent`.
    """
    check_pairs("dcl", z0, z1)
    num = len(z0)
    pattern = Pattern(positives=(num, -num), excluded=(0, num, -num))
    return _each_against_all(z0, z1, pattern, temperature, normalize)


def _each_against_all(
    z0: Tensor,
    z1: Tensor,
    pattern: Pattern,
    temperature: float,
    normalize: bool,
    *,
    tile: int | None = None,
) -> Tensor:
    """Return the mean entropy of 2N embeddings, in tiles if no exponential can overflow."""
    check_temperature(temperature)
    in_tiles = normalize and temperature >= TILES_FROM_TEMPERATURE
    scale = LOG2_E / temperature  # of similarities, as powers of 2 are computed faster than of e

    def compute(wanted: tuple[bool, ...], views: tuple[Tensor, ...]) -> tuple[Tensor, Gradients]:
        z = torch.cat(views).to(working_dtype(*views))
        inverse = unit_(z) if normalize else None
        z.mul_(math.sqrt(scale))
        if in_tiles:
            entropies, gradient = cross_entropy_in_tiles(
                z, pattern, with_gradient=any(wanted), tile=tile
            )
        else:
            gradient = torch.zeros_like(z) if any(wanted) else None
            both = Sums(gradient, gradient)
            entropies = cross_entropy_in_panels(z, z, pattern, both, panel=tile)
        loss = entropies.mean().div_(LOG2_E)
        if gradient is None:
            return loss, (None, None)
        # Entropies are log2; embeddings carry the root of the scale.
        gradient.mul_(math.sqrt(scale) / (LOG2_E * len(z)))
        if inverse is not None:
            through_unit_(gradient, z, inverse, scale)
        return loss, (gradient[: len(z0)], gradient[len(z0) :])

    return with_gradient(compute, z0, z1)
