"""Health of any encoder on any pictures, without labels: what its features do and do not see."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from looktwice.augment import Policy
from looktwice.augment.operations import CenterCrop, Operation
from looktwice.augment.policy import View
from looktwice.data import Source
from looktwice.errors import DataError
from looktwice.evaluate.statistics import mean_interval
from looktwice.features import BLOCK, encode, readable
from looktwice.metrics import Health, bound_in_blocks, health_verdict, invariance, measure_health
from looktwice.models import Encoder
from looktwice.monitor import MONITOR_EPOCH, sample

MAX_PICTURES: Final = 2048
"""Pictures that are looked at: at most these, the same ones every time."""

CANDIDATES: Final = 64
"""Views among which a view looks for its other one in the InfoNCE bound: 63 negatives."""

MIN_BLOCKS: Final = 8
"""Blocks of that many pictures below which the bound has no interval."""

CRITIC_TEMPERATURE: Final = 0.1
"""Of the bound's critic, cosine / temperature, whatever a run was trained with."""

MEASURES: Final = (
    "alignment",
    "uniformity",
    "positive_similarity",
    "negative_similarity",
    "effective_rank",
    "collapsed_dimensions",
    "top1",
)
"""What is taken from `metrics.Health`."""


def health_report(
    encoder: Encoder,
    source: Source,
    policy: Policy,
    *,
    seed: int,
    untrained: Encoder | None = None,
    project: nn.Module | None = None,
) -> dict[str, Any]:
    """Measure an encoder on pictures it was not trained on, without their labels.

    Views are made at the side at which the encoder takes whole pictures. At most 2,048 pictures
    are looked at, 256 at once, so that memory is bounded whatever the source.

    Args:
        encoder: in eval mode.
        source: held-out pictures.
        policy: its first two views of the first size should be alike (of a policy of one view,
            that view drawn twice); its operations are tried one by one.
        seed: of views, blocks and bootstrap.
        untrained: the same network before training, in eval mode, to compare with.
        project: features (N, D) to embeddings (N, D'), in eval mode, where a run has such a head.

    Returns:
        What JSON holds; None stands for what cannot be measured. ``features``, ``embeddings`` (with
        `project`) and ``untrained`` (its features): `MEASURES`, ``dimensions``, and as ``infonce``
        the ``bound``, its 95 % ``interval`` and its ``ceiling``, in nats. ``invariance``: for each
        operation of the policy its ``operation``, its ``settings``, and what `metrics.invariance`
        gives for ``encoder`` and ``untrained``. ``verdict``: that on the features beside the
        untrained ones, in words.

    Raises:
        UsageError: an operation of the policy needs colours, and the pictures have none.
        DataError: fewer than two pictures can be read.
    """
    policy.check_channels(source.channels)
    side = encoder.spec.image_size
    steps = _steps(policy, side)
    plain = (CenterCrop(side),)
    plan = [_pair(policy, side), Policy((plain,)), *(_alone(step, plain) for step in steps)]
    encoders = [encoder] if untrained is None else [encoder, untrained]
    found = _encoded(encoders, sample(source, MAX_PICTURES), plan, seed)
    views = [_shuffled(each[0], seed) for each in found]
    healths = [measure_health(v[:, 0], v[:, 1], CRITIC_TEMPERATURE) for v in views]
    kept = [[invariance(each[1][:, 0], e[:, 0]) for e in each[2:]] for each in found]
    return {
        "source": source.name,
        "pictures": len(views[0]),
        "side": side,
        "seed": seed,
        "temperature": CRITIC_TEMPERATURE,
        "candidates": CANDIDATES,
        "features": _measures(healths[0], views[0], seed),
        "embeddings": _embedded(project, encoder, views[0], seed) if project else None,
        "untrained": _measures(healths[1], views[1], seed) if untrained else None,
        "invariance": [
            {"operation": name, "settings": settings, **_row(kept, number)}
            for number, (name, settings) in enumerate(steps.values())
        ],
        "verdict": health_verdict(healths[0], healths[1]) if untrained else None,
    }


def view_features(
    encoders: Sequence[Encoder], source: Source, policy: Policy, count: int, *, seed: int
) -> list[Tensor]:
    """Return each encoder's features (N, 2, D) of the two views that `health_report` looks at.

    Args:
        encoders: in eval mode, of one size.
        source: held-out pictures.
        policy: as for `health_report`.
        count: N, at most.
        seed: of the views.

    Raises:
        UsageError, DataError: as `health_report`.
    """
    policy.check_channels(source.channels)
    plan = [_pair(policy, encoders[0].spec.image_size)]
    return [each[0] for each in _encoded(encoders, sample(source, count), plan, seed)]


def lines(report: dict[str, Any]) -> list[str]:
    """Return a report as lines for a terminal."""
    columns = [name for name in ("features", "embeddings", "untrained") if report[name]]
    told = [_line("", columns)]
    for measure in (*MEASURES, "dimensions"):
        cells = [_number(report[column][measure]) for column in columns]
        told.append(_line(measure.replace("_", " "), cells))
    ceiling = math.log(report["candidates"])
    cells = [_bound(report[column]["infonce"]) for column in columns]
    told.append(_line(f"infonce bound, of {ceiling:.2f}", cells))
    told.append(
        "what an operation leaves of the features: 1 all, 0 no more than another picture has"
    )
    for row in report["invariance"]:
        known = {"features": _number(row["encoder"]), "untrained": _number(row["untrained"])}
        told.append(_line(row["operation"], [known.get(column, "") for column in columns]))
    told.append(f"{report['pictures']:,} pictures of {report['source']}, {report['side']} px")
    told.append(
        f"the bound, at temperature {report['temperature']:g} with {report['candidates'] - 1} "
        "negatives: nats that two views share at least"
    )
    return [*told, report["verdict"]] if report["verdict"] else told


def _line(title: str, cells: list[str]) -> str:
    return f"{title:26}{''.join(f'{cell:>24}' for cell in cells)}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _bound(infonce: dict[str, Any]) -> str:
    if infonce["bound"] is None or infonce["interval"] is None:
        return _number(infonce["bound"])
    low, high = infonce["interval"]
    return f"{infonce['bound']:.2f} [{low:.2f}, {high:.2f}]"


def _row(kept: list[list[float | None]], number: int) -> dict[str, float | None]:
    return {"encoder": kept[0][number], "untrained": kept[1][number] if len(kept) > 1 else None}


def _pair(policy: Policy, side: int) -> Policy:
    """Return the first two views of the first size, made at another side."""
    views = [policy.views[number] for number in policy.groups[policy.size]]
    return Policy(tuple((_sized(view[0], side), *view[1:]) for view in (views * 2)[:2]))


def _steps(policy: Policy, side: int) -> dict[Any, tuple[str, str]]:
    """Return each distinct operation, made certain, with its name and settings."""
    certain = [
        dataclasses.replace(cast(Any, step), p=1.0)
        if isinstance(step, Operation)
        else _sized(step, side)
        for view in policy.views
        for step in view
    ]
    return {step: (step.name, str(step)) for step in certain}


def _sized(crop: Any, side: int) -> Any:
    """Return a crop of the same part of a picture, to another side."""
    if isinstance(crop, CenterCrop) and crop.resize is not None:
        return dataclasses.replace(crop, size=side, resize=round(crop.resize * side / crop.size))
    return dataclasses.replace(crop, size=side)


def _alone(step: Any, plain: View) -> Policy:
    """Return the policy of one operation on pictures that are else as they are."""
    return Policy(((*plain, step) if isinstance(step, Operation) else (step,),))


def _encoded(
    encoders: Sequence[Encoder], source: Source, plan: Sequence[Policy], seed: int
) -> list[list[Tensor]]:
    """Return, for each encoder and each policy, the features (N, V, D) of its views.

    Each picture is read once, and no more than 256 are held.
    """
    found: list[list[list[Tensor]]] = [[[] for _ in plan] for _ in encoders]
    read = readable(source)
    while piece := list(islice(read, BLOCK)):
        indices, pictures = [index for index, _ in piece], [picture for _, picture in piece]
        for number, policy in enumerate(plan):
            made = policy(pictures, seed=seed, epoch=MONITOR_EPOCH, indices=indices)
            assert isinstance(made, np.ndarray)  # all views of a policy of ours have one size
            views = torch.from_numpy(made).permute(0, 1, 4, 2, 3)
            for encoder, kept in zip(encoders, found, strict=True):
                features = encode(encoder, views.flatten(0, 1))
                kept[number].append(features.view(*views.shape[:2], -1))
    count = sum(map(len, found[0][0]))
    if count < 2:
        raise DataError(
            f"{count} of the {len(source)} pictures of {source.name!r} can be read; health takes 2"
        )
    return [[torch.cat(parts) for parts in kept] for kept in found]


def _shuffled(features: Tensor, seed: int) -> Tensor:
    """Return pictures in random order: a source may be sorted, and blocks must be alike."""
    return features[torch.from_numpy(np.random.default_rng(seed).permutation(len(features)))]


def _embedded(project: nn.Module, encoder: Encoder, views: Tensor, seed: int) -> dict[str, Any]:
    pieces = torch.split(views.flatten(0, 1).to(encoder.mean.device), BLOCK)
    with torch.no_grad():
        embeddings = torch.cat([project(piece).cpu() for piece in pieces])
    embeddings = embeddings.view(*views.shape[:2], -1)
    health = measure_health(embeddings[:, 0], embeddings[:, 1], CRITIC_TEMPERATURE)
    return _measures(health, embeddings, seed)


def _measures(health: Health, views: Tensor, seed: int) -> dict[str, Any]:
    """Return the measures of views (N, 2, D) in random order."""
    bounds = bound_in_blocks(
        views[:, 0], views[:, 1], temperature=CRITIC_TEMPERATURE, candidates=CANDIDATES
    )
    bounds = bounds if bounds.isfinite().all() else bounds[:0]
    known = {name: value for name, value in health.as_dict().items() if math.isfinite(value)}
    return {
        **{name: known.get(name) for name in MEASURES},
        "dimensions": health.dimensions,
        "infonce": {
            "bound": float(bounds.mean()) if len(bounds) else None,
            "interval": mean_interval(bounds.numpy(), seed) if len(bounds) >= MIN_BLOCKS else None,
            "ceiling": math.log(CANDIDATES),
        },
    }
