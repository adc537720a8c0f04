"""Methods by name, from a configuration's section."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torch import nn

from looktwice import losses
from looktwice.config import OWN, MethodConfig
from looktwice.errors import UsageError
from looktwice.methods.base import Method, Pairs
from looktwice.methods.moco import MoCo
from looktwice.methods.moco_v3 import MoCoV3
from looktwice.methods.simclr import PairLoss, SimCLR
from looktwice.methods.supervised import SupCon, Supervised


@dataclass(frozen=True)
class Parts:
    """What methods are made of.

    Attributes:
        backbone: pictures to features.
        projection_head: features to embeddings.
        predictor: makes a head from embeddings to predictions, for methods that have one.
        classifier: makes a linear map from features to a number of classes.
        embedding_dim: width of embeddings.
        num_views: views of a picture, of all sizes.
        num_full: views of the first size: what queries look for when there are several sizes.
        num_classes: of the labels; 0 where there are none.
        batch_size: pictures of a global batch.
    """

    backbone: nn.Module
    projection_head: nn.Module
    predictor: Callable[[], nn.Module]
    classifier: Callable[[int], nn.Module]
    embedding_dim: int
    num_views: int
    num_full: int
    num_classes: int
    batch_size: int


OwnMethod = Callable[[nn.Module, nn.Module], Method]
"""Makes a method of one's own from a backbone and a projection head; a class can be one."""


def build_method(config: MethodConfig, parts: Parts, own: OwnMethod | None = None) -> Method:
    """Build a method by its name, or one's own.

    Args:
        config: the section ``method``.
        parts: what it is made of.
        own: makes the method called `OWN`; given if, and only if, that is its name.

    Raises:
        UsageError: views or labels that the method cannot use, a method of one's own that is not
            given, or one beside another name.
    """
    if (own is not None) != (config.name == OWN):
        raise UsageError(
            f"method.name {config.name}: "
            + (
                "but a method of one's own is given; leave the name or the method out"
                if own is not None
                else "it is given in Python, as `method` of looktwice.pretrain or looktwice.resume"
            )
        )
    if own is not None:
        method = own(parts.backbone, parts.projection_head)
    else:
        method = METHODS[config.name](config, parts)
        method.normalize = config.normalize
    if method.uses_labels and not parts.num_classes:
        raise UsageError(f"method.name {config.name} needs labels, and these pictures have none")
    if config.name not in ("supervised", OWN) and parts.num_views < 2:
        raise UsageError(
            f"method.name {config.name} needs two views of each picture or more, and the policy "
            "makes one; give another --augment.policy"
        )
    return method


def _simclr(config: MethodConfig, parts: Parts) -> Method:
    loss, chance = PAIR_LOSSES[config.loss](config)
    pairs = tuple((i, j) for i in range(parts.num_full) for j in range(i + 1, parts.num_views))
    return SimCLR(parts.backbone, parts.projection_head, loss=loss, chance=chance, pairs=pairs)


def _moco(config: MethodConfig, parts: Parts) -> Method:
    pair = parts.num_views == parts.num_full == 2 and not config.symmetric
    pairs = ((0, 1),) if pair else _ordered_pairs(parts)
    new_keys = parts.batch_size * len({key for _, key in pairs})
    if new_keys > config.queue_size:
        raise UsageError(
            f"method.queue_size {config.queue_size} cannot hold the {new_keys} keys of one batch; "
            f"set it to {new_keys} or more, or lower train.batch_size"
        )
    return MoCo(
        parts.backbone,
        parts.projection_head,
        embedding_dim=parts.embedding_dim,
        temperature=config.temperature,
        queue_size=config.queue_size,
        momentum=config.momentum,
        momentum_schedule=config.momentum_schedule,
        pairs=pairs,
        normalize=config.normalize,
        shuffle=config.shuffle_bn,
    )


def _moco_v3(config: MethodConfig, parts: Parts) -> Method:
    return MoCoV3(
        parts.backbone,
        parts.projection_head,
        parts.predictor(),
        temperature=config.temperature,
        momentum=config.momentum,
        momentum_schedule=config.momentum_schedule,
        pairs=_ordered_pairs(parts),
        normalize=config.normalize,
        shuffle=config.shuffle_bn,
    )


def _sup_con(config: MethodConfig, parts: Parts) -> Method:
    return SupCon(
        parts.backbone,
        parts.projection_head,
        num_views=parts.num_views,
        temperature=config.temperature,
        normalize=config.normalize,
    )


def _supervised(_config: MethodConfig, parts: Parts) -> Method:
    classifier = parts.classifier(max(1, parts.num_classes))
    return Supervised(parts.backbone, classifier, num_classes=max(1, parts.num_classes))


METHODS: Final[dict[str, Callable[[MethodConfig, Parts], Method]]] = {
    "simclr": _simclr,
    "moco": _moco,
    "moco-v3": _moco_v3,
    "supcon": _sup_con,
    "supervised": _supervised,
}


def _ordered_pairs(parts: Parts) -> Pairs:
    """Return every (query, key), keys being views of the first size."""
    return tuple((i, j) for i in range(parts.num_views) for j in range(parts.num_full) if i != j)


_PairLoss = tuple[PairLoss, Callable[[int], float] | None]


def _nt_xent(config: MethodConfig) -> _PairLoss:
    return functools.partial(
        losses.nt_xent, temperature=config.temperature, normalize=config.normalize
    ), losses.nt_xent_chance


def _dcl(config: MethodConfig) -> _PairLoss:
    return functools.partial(
        losses.dcl, temperature=config.temperature, normalize=config.normalize
    ), losses.dcl_chance


def _nt_logistic(config: MethodConfig) -> _PairLoss:
    return functools.partial(
        losses.nt_logistic,
        temperature=config.temperature,
        normalize=config.normalize,
        semi_hard=config.semi_hard,
    ), None if config.semi_hard else lambda _: losses.nt_logistic_chance()


def _margin(config: MethodConfig) -> _PairLoss:
    return functools.partial(
        losses.margin_triplet,
        margin=config.margin,
        normalize=config.normalize,
        semi_hard=config.semi_hard,
    ), None if config.semi_hard else lambda _: losses.margin_triplet_chance(config.margin)


PAIR_LOSSES: Final[dict[str, Callable[[MethodConfig], _PairLoss]]] = {
    "nt-xent": _nt_xent,
    "nt-logistic": _nt_logistic,
    "margin": _margin,
    "dcl": _dcl,
}
