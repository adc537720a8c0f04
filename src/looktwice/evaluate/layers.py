"""Which layer to keep: the features h, the hidden layers of the projection head, its output z.

arXiv 2002.05709, section 4.2 and figure 8: h is better than g(h) by more than ten points. The head
is that of the run's last checkpoint; hidden layers are taken after their ReLU, z before it is
scaled to unit length. Each is measured by k-NN and by the linear probe, with choices of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from looktwice import build, config
from looktwice.checkpoint import checkpoint_name, load_checkpoint
from looktwice.errors import RunError, UsageError
from looktwice.evaluate.cached import cached_features
from looktwice.evaluate.protocol import SplitFeatures, measure_features
from looktwice.evaluate.subject import Subject
from looktwice.features import BLOCK, encoder_width
from looktwice.models import Encoder
from looktwice.run import Run


def run(subject: Subject, *, seed: int = 0) -> dict[str, Any]:
    """Measure h, every hidden layer of the head, z, and h of the untrained network.

    Raises:
        UsageError: the encoder is no run's, or its method has no projection head.
        RunError: the run has no whole checkpoint, or a method of one's own.
        DataError: the pictures have no labels, or too many cannot be read.
    """
    head = projection_head(subject, "layers")
    cached = cached_features(subject)
    rows = layer_features(cached.rows["encoder"], head)
    if "untrained" in cached.rows:
        rows["untrained"] = cached.rows["untrained"]
    found = measure_features(rows, cached.labels, cached.class_names, ("knn", "linear"), seed=seed)
    return {"data": cached.data, "protocols": found}


def has_head(settings: config.Config) -> bool:
    """Return whether a run's method has a projection head that looktwice knows."""
    return settings.method.name not in ("supervised", config.OWN) and settings.model.head != "none"


def layer_features(features: SplitFeatures, head: nn.Module) -> dict[str, SplitFeatures]:
    """Return h, "hidden-1", … and z, by name, of the features h."""
    splits = [layers(part, head) for part in (features.train, features.validation, features.test)]
    return {name: SplitFeatures(*(split[name] for split in splits)) for name in splits[0]}


@torch.no_grad()
def layers(features: Tensor, head: nn.Module) -> dict[str, Tensor]:
    """Return h (N, D), what each ReLU of a head gives (N, width), and z (N, E), float32."""
    steps = list(head) if isinstance(head, nn.Sequential) else [head]
    found = [_through(steps, block) for block in torch.split(features, BLOCK)]
    return {name: torch.cat([block[name] for block in found]) for name in found[0]}


def _through(steps: list[nn.Module], x: Tensor) -> dict[str, Tensor]:
    named = {"h": x}
    for step in steps:
        x = step(x)
        if isinstance(step, nn.ReLU):
            named[f"hidden-{len(named)}"] = x
    return {**named, "z": x}


def projection_head(subject: Subject, protocol: str) -> nn.Module:
    """Return the projection head that belongs to the encoder of a run, in eval mode on the CPU.

    Raises:
        UsageError: the encoder is no run's, or its method has no projection head.
        RunError: the run has no whole checkpoint, or a method of one's own.
    """
    return head_of(subject.need_run(protocol), subject.encoder, f"protocol {protocol}")


def head_of(run: Run, encoder: Encoder, what: str) -> nn.Module:
    """Return the projection head of a run's last checkpoint, in eval mode on the CPU.

    Args:
        run: a finished run.
        encoder: its encoder.
        what: needs the head, for errors.

    Raises:
        UsageError: the run's method has no projection head.
        RunError: the run has no whole checkpoint, or a method of one's own.
    """
    settings = run.config()
    if settings.method.name == config.OWN:
        raise RunError(
            f"{what}: {run.path} has a method of one's own, whose head looktwice cannot build again"
        )
    if not has_head(settings):
        raise UsageError(
            f"{what} needs the layers of a projection head, and {run.path} was trained without one"
        )
    head = build.projection_head(settings.model, encoder_width(encoder))
    weights = _last_weights(run, settings.train.steps)
    prefix = "projection_head."
    head.load_state_dict(
        {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    )
    return head.eval()


def _last_weights(run: Run, steps: int) -> dict[str, Tensor]:
    path = run.checkpoints / checkpoint_name(steps)
    if not path.is_dir():
        raise RunError(f"{path} is gone, and the projection head is kept nowhere else")
    return load_checkpoint(path)[0]["method"]
