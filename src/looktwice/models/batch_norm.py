"""Batch-norm over fixed groups of the global batch, wherever its pictures are computed.

Which pictures share statistics is part of a recipe, not of the hardware: groups of n pictures of
the global batch (n divides what one process holds activations of), or the whole of it. Of a call
with several views of each picture, all views share their group's statistics.

Running statistics get one update a step: the means, over all groups of all calls and processes,
of the groups' means and unbiased variances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from looktwice import distributed
from looktwice.errors import UsageError

_PLAIN: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MOMENTUM: Final = 0.1


@final
class Grouping:
    """What every batch-norm layer of a method looks at when it trains.

    Attributes:
        num_groups: groups in the pictures of a call.
        synchronised: the group of a call goes on in the other processes.
        recording: whether a call's statistics count for the running ones.
    """

    def __init__(self) -> None:
        self.num_groups = 1
        self.synchronised = False
        self.recording = True


@final
class GroupedBatchNorm(nn.Module):
    """Batch-norm with the parameters and buffers of torch's, under the same names.

    Args:
        plain: the layer whose place it takes; its tensors are taken over.
        grouping: shared by all layers of a method.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    recorded: Tensor

    def __init__(self, plain: Any, grouping: Grouping) -> None:
        super().__init__()
        self.num_features, self.eps = plain.num_features, plain.eps
        self.momentum = _MOMENTUM if plain.momentum is None else plain.momentum
        self.weight, self.bias = plain.weight, plain.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(plain, name))
        # Sums over groups of mean and of variance, and how many groups: what a step leaves.
        self.register_buffer(
            "recorded", self.running_mean.new_zeros(2 * self.num_features + 1), persistent=False
        )
        self.grouping = grouping
        # timm's layers drop and activate as well.
        self.drop: nn.Module | None = getattr(plain, "drop", None)
        self.act: nn.Module | None = getattr(plain, "act", None)

    def extra_repr(self) -> str:
        """Describe the layer as torch's does."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (M, C, …): M / num_groups consecutive rows at a time, in training."""
        y = self._train(x) if self.training else self._eval(x)
        for layer in (self.drop, self.act):
            y = y if layer is None else layer(y)
        return y

    def _eval(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )

    def _train(self, x: Tensor) -> Tensor:
        if self.grouping.synchronised:
            y, mean, var = _synchronised(x, self.weight, self.bias, self.eps)
            self._record([(mean, var)], x.numel() // x.shape[1] * distributed.world_size())
            return y
        if x.numel() == x.shape[1] * self.grouping.num_groups:
            raise UsageError(
                "batch-norm groups of one value leave nothing but zeros; raise train.bn_group"
            )
        parts, statistics = [], []
        # The gradient of cutting into one part would be a copy.
        groups = self.grouping.num_groups
        for part in x.chunk(groups) if groups > 1 else (x,):
            y, mean, inverse = torch.native_batch_norm(
                part, self.weight, self.bias, None, None, True, 0.0, self.eps
            )
            parts.append(y)
            statistics.append((mean, inverse))
        if self.grouping.recording:
            variances = [(m, inverse.square().reciprocal() - self.eps) for m, inverse in statistics]
            self._record(variances, parts[0].numel() // x.shape[1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.no_grad()
    def _record(self, statistics: Sequence[tuple[Tensor, Tensor]], count: int) -> None:
        if not self.grouping.recording:
            return
        mean, var, groups = torch.split(self.recorded, [self.num_features, self.num_features, 1])
        for group_mean, group_var in statistics:
            mean += group_mean
            var += group_var * (count / max(1, count - 1))
            groups += 1


def _synchronised(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise rows (M, C, …) by the statistics of all processes' rows.

    Returns:
        The rows, in the input's dtype, and mean and biased variance (C,) over all processes.
    """
    y: Tensor
    y, mean, var = _Synchronised.apply(x, eps)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    if weight is not None:
        y = y * weight.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    return y.to(x.dtype), mean, var


class _Synchronised(torch.autograd.Function):
    """Whitening by the statistics of all processes, differentiable through them.

    With x^ = (x - mean) / std, the gradient is (g - E g - x^ E g x^) / std, E over all rows of all
    processes (arXiv 1502.03167, section 3).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        rows = [0, *range(2, x.ndim)]
        var, mean = torch.var_mean(wide, rows, correction=0)
        means, variances = (
            distributed.gather_rows(values[None]) for values in (mean, var)
        )  # equally many rows each
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        inverse = (var + eps).rsqrt().view(shape)
        whitened = (wide - mean.view(shape)) * inverse
        ctx.save_for_backward(whitened, inverse)
        ctx.mark_non_differentiable(mean, var)
        return whitened, mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        whitened, inverse = ctx.saved_tensors
        rows = [0, *range(2, gradient.ndim)]
        shape = (1, -1, *(1,) * (gradient.ndim - 2))
        means = torch.stack([gradient.mean(rows), (gradient * whitened).mean(rows)])
        distributed.sum_over_processes([means])
        mean, along = (means / dist.get_world_size()).unbind()
        return (gradient - mean.view(shape) - whitened * along.view(shape)) * inverse, None


def group_batch_norm(module: nn.Module, grouping: Grouping) -> nn.Module:
    """Replace every batch-norm layer within a module; return it (or what takes its place).

    Raises:
        UsageError: a layer without running statistics, or of a kind that is not known.
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        known = isinstance(module, _PLAIN) and module.track_running_stats
        if not known:
            raise UsageError(f"batch-norm groups: cannot replace the layer {module}")
        return GroupedBatchNorm(module, grouping)
    for name, child in module.named_children():
        setattr(module, name, group_batch_norm(child, grouping))
    return module


def update_running_statistics(module: nn.Module) -> None:
    """Move running statistics towards what was recorded since the last update, once.

    Every process must call it; all end with the same numbers.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, GroupedBatchNorm)]
    distributed.sum_over_processes([layer.recorded for layer in layers])
    for layer in layers:
        mean, var, groups = torch.split(layer.recorded, [layer.num_features, layer.num_features, 1])
        # Nothing recorded, nothing moved; asking the device would make it wait.
        weight = layer.momentum * (groups > 0).to(mean.dtype)
        groups = groups.clamp(min=1)
        layer.running_mean.lerp_(mean / groups, weight)
        layer.running_var.lerp_(var / groups, weight)
        layer.num_batches_tracked += 1
    forget_recorded(module)


def forget_recorded(module: nn.Module) -> None:
    """Drop what was recorded since the last update: of a step that was not taken."""
    for layer in module.modules():
        if isinstance(layer, GroupedBatchNorm):
            layer.recorded.zero_()
