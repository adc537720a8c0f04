"""The loss of views whose classes are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from looktwice.losses.arguments import check_floating, check_temperature
from looktwice.losses.directions import similarities


def sup_con(z: Tensor, labels: Tensor, *, temperature: float, normalize: bool = True) -> Tensor:
    """Return the supervised contrastive loss: all views of a class are each other's positives.

    The mean over views i of `-1/|P(i)| Σ_{p in P(i)} log (exp(z_i·z_p/τ) / Σ_{a≠i} exp(z_i·z_a/τ))`
    (arXiv 2004.11362, equation 2, L_out; without the published code's factor τ/0.07), where P(i)
    are the other views with i's label. A view that has none is a candidate of the others but not
    counted in the mean; when no view has any, the loss is 0. With a label for each picture it is
    NT-Xent; guessing gives `sup_con_chance(M)`. O(M²) memory.

    Views (N, V, D) of N labelled pictures are `z.flatten(0, 1)` with
    `labels.repeat_interleave(V)`.

    Args:
        z: embeddings of views, (M, D), floating, M ≥ 2.
        labels: of the views, (M,), integers.
        temperature: positive.
        normalize: scale every embedding to unit length first.

    Returns:
        Nats, at least 0, a scalar; float32 or float64.

    Raises:
        ValueError: shapes that do not fit, fewer than two views, embeddings that are not floating,
            labels that are, or a temperature that is not a finite number above 0.
    """
    if z.ndim != 2 or len(z) < 2 or z.shape[1] < 1 or labels.shape != z.shape[:1]:
        raise ValueError(
            "sup_con needs embeddings (M, D) with M ≥ 2 and labels (M,), "
            f"not {tuple(z.shape)} and {tuple(labels.shape)}"
        )
    check_floating("sup_con", z)
    if labels.is_floating_point():
        raise ValueError(f"sup_con needs integer labels, not {labels.dtype}")
    check_temperature(temperature)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (similarities(z, normalize) / temperature).masked_fill(itself, -math.inf)
    positive = (labels[:, None] == labels) & ~itself
    log_shares = logits.log_softmax(dim=1).masked_fill(~positive, 0.0)
    counts = positive.sum(dim=1)
    of_views = -log_shares.sum(dim=1) / counts.clamp_min(1)
    return of_views.sum() / (counts > 0).sum().clamp_min(1)
