"""Optimisers and the learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn, optim

from looktwice.errors import UsageError


def peak_learning_rate(base_lr: float, batch_size: int, scaling: str) -> float:
    """Return the learning rate after warm-up.

    ``linear``: base × batch/256; ``sqrt``: base × √(batch/256), the rule of SimCLR's appendix
    B.1 (0.075·√batch there, base 1.2 here); ``none``: base.
    """
    ratio = batch_size / 256
    return base_lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[scaling]


def learning_rate(
    step: int,
    *,
    total_steps: int,
    warmup_steps: int,
    peak_lr: float,
    drops: Sequence[float] | None = None,
) -> float:
    """Return the rate of step 0 … total_steps - 1: linear warm-up, then half a cosine to 0.

    The first step takes peak/warmup_steps; the last one is just above 0 (arXiv 1608.03983). With
    `drops`, shares of the run, there is no cosine: the rate is a tenth after each of them.
    """
    if step < warmup_steps:
        return peak_lr * (step + 1) / warmup_steps
    if drops is not None:
        return peak_lr * float(0.1 ** sum(step >= drop * total_steps for drop in drops))
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak_lr * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_steps(warmup_epochs: float, *, steps_per_epoch: int, total_steps: int) -> int:
    """Return the steps of warm-up: as asked, but at most a tenth of a short run."""
    return min(round(warmup_epochs * steps_per_epoch), total_steps // 10)


def parse_drops(text: str) -> tuple[float, ...]:
    """Read shares of a run, as in "0.6,0.8" (UsageError: none, or not rising from 0 to 1)."""
    try:
        drops = tuple(float(part) for part in text.split(","))
    except ValueError:
        drops = ()
    if not drops or list(drops) != sorted(set(drops)) or not 0 < drops[0] <= drops[-1] < 1:
        raise UsageError(
            'optim.drops takes rising shares of the run between 0 and 1, as "0.6,0.8", '
            f"not {text!r}"
        )
    return drops


def build_optimizer(
    module: nn.Module, *, name: str, momentum: float, weight_decay: float
) -> optim.Optimizer:
    """Build the optimiser; its learning rate is set before every step by the loop.

    Biases and normalisation (tensors of fewer than two dimensions) are kept from weight decay
    and from LARS' adaptation.

    Args:
        module: the method whose parameters are trained.
        name: ``sgd``, ``adam`` (its weight decay is added to the gradient), ``adamw``, or
            ``lars``. LARS is timm's, after arXiv 1708.03888 with trust
            coefficient .001. Departures from SimCLR's published code: timm divides by
            ‖g‖ + wd·‖w‖ + 1e-8 where that divides by ‖g + wd·w‖, and multiplies the learning
            rate in after the momentum buffer, as PyTorch's SGD does, where that does before
            (they differ only while the rate changes).
        momentum: of SGD and LARS.
        weight_decay: of weights.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    weights = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if name == "sgd":
        return optim.SGD(groups, lr=0.0, momentum=momentum)
    if name == "adam":
        return optim.Adam(groups, lr=0.0)
    if name == "adamw":
        return optim.AdamW(groups, lr=0.0)
    from timm.optim.lars import Lars  # seconds of import, paid only by those who ask for it

    groups[0]["always_adapt"] = True
    lars: optim.Optimizer = Lars(groups, lr=0.0, momentum=momentum, trust_coeff=0.001)
    return lars
