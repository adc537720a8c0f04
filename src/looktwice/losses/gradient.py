"""A scalar whose gradient is known as soon as its value is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from looktwice.losses.arguments import without_autocast

Gradients: TypeAlias = tuple[Tensor | None, ...]
# From which inputs need a gradient, and the inputs, to the scalar and those gradients.
Compute: TypeAlias = Callable[[tuple[bool, ...], tuple[Tensor, ...]], tuple[Tensor, Gradients]]


def with_gradient(compute: Compute, *inputs: Tensor) -> Tensor:
    """Return the scalar that `compute` makes of inputs, differentiable once by its gradients.

    Only the gradients are kept until backward, which multiplies them by the incoming one in their
    own precision before it narrows them to the inputs'. With create_graph it raises RuntimeError.
    """
    wanted = tuple(torch.is_grad_enabled() and z.requires_grad for z in inputs)
    loss: Tensor = _GradientInForward.apply(compute, wanted, *inputs)
    return loss


@final
class _GradientInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Compute, wanted: tuple[bool, ...], *inputs: Tensor) -> Tensor:
        with without_autocast(inputs[0].device):
            loss, gradients = compute(wanted, inputs)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [z.dtype for z in inputs]
        return loss

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # once_differentiable would be silent here unless the incoming gradient needs one.
            raise RuntimeError(
                "the gradient of a loss computed in tiles cannot be differentiated again: "
                "call backward without create_graph"
            )
        scaled = (
            None if gradient is None else (gradient * incoming).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return None, None, *scaled
