"""Projection heads: from features to the space the loss looks at."""

from __future__ import annotations

from torch import nn


def build_head(
    kind: str,
    *,
    num_features: int,
    num_layers: int,
    width: int,
    embedding_dim: int,
    norm: str = "hidden",
) -> nn.Module:
    """Build a projection head (N, num_features) -> (N, embedding_dim).

    Args:
        kind: ``none`` (identity; then embedding_dim is num_features), ``linear``, or ``mlp``:
            linear layers with ReLU between.
        num_features: width of the features.
        num_layers: linear layers of the mlp, at least 2.
        width: hidden units of the mlp.
        embedding_dim: dimensions of the embedding.
        norm: ``hidden``: batch-norm of hidden layers (SimCLR's published code); ``all``: of the
            last one too, there without scale and shift (MoCo v3's); ``none``: biases instead
            (MoCo v2's).
    """
    if kind == "none":
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(num_features, embedding_dim, bias=False)
    layers: list[nn.Module] = []
    num_in = num_features
    for _ in range(num_layers - 1):
        layers += [nn.Linear(num_in, width, bias=norm == "none")]
        layers += [] if norm == "none" else [nn.BatchNorm1d(width)]
        layers += [nn.ReLU()]
        num_in = width
    layers += [nn.Linear(num_in, embedding_dim, bias=norm == "none")]
    layers += [nn.BatchNorm1d(embedding_dim, affine=False)] if norm == "all" else []
    return nn.Sequential(*layers)
