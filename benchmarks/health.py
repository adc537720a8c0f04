"""Whether the verdict on a run names what is broken and leaves what is healthy alone.

Twenty runs broken on purpose, in four ways, and twenty healthy ones: four methods on grey and on
colour pictures, with several seeds, temperatures, batch sizes, rates and optimisers. Each trains
20 steps of warm-up and 100 more, is measured as `pretrain` measures, and gets its verdict; the
healthy ones train on, and get a second one 400 steps after warm-up, when every rule may accuse. One
accusation at either time counts. The k-NN accuracies beside it come from labels that the verdict
never sees.

The rules and thresholds (`metrics.health`) were chosen on the runs of --choose, whose seeds and
settings are others, and fixed before the runs of this campaign were made, once: 20 of 20 broken
runs named, 0 of 20 healthy ones accused (`docs/health.md`). Seeds 11-50 and 211-250, on which
earlier rules were tried and failed, are spent.

    python benchmarks/health.py [--choose] [--sample]
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looktwice.build import Training, build, settle
from looktwice.config import resolve
from looktwice.data import Splits, open_source, open_splits
from looktwice.errors import RunError
from looktwice.methods import Embedded
from looktwice.metrics import LEARNING_PATIENCE, PATIENCE, Health, health_verdict
from looktwice.monitor import Measurement
from looktwice.optim import learning_rate
from looktwice.train import train_step

WARMUP = 20
STEPS = 1000  # length of the runs that are stopped after their verdict: the rate is still high
ACCUSED = ("diverged", "collapsed", "not learning")


@dataclass(frozen=True)
class Case:
    """One run: how it is broken, if it is, and its settings."""

    broken: str
    method: str
    data: str
    seed: int
    temperature: float = 0.5
    batch_size: int = 64
    base_lr: float = 1.2
    optimizer: str = "sgd"


@dataclass(frozen=True)
class Outcome:
    """What was measured before and some steps after warm-up, and the verdict."""

    before: Measurement
    after: Measurement
    steps: int
    verdict: str
    rate_times: float

    @property
    def accused(self) -> bool:
        return self.verdict.startswith(ACCUSED)


HEALTHY = (
    Case("", "simclr", "grey", 311),
    Case("", "simclr", "grey", 312, temperature=0.2, base_lr=0.6),
    Case("", "simclr", "grey", 313, temperature=0.1, batch_size=128),
    Case("", "simclr", "colour", 314, batch_size=32, base_lr=2.4),
    Case("", "simclr", "colour", 315, temperature=0.2, base_lr=0.02, optimizer="adamw"),
    Case("", "moco", "grey", 316, temperature=0.2),
    Case("", "moco", "grey", 317, temperature=0.1, base_lr=0.6),
    Case("", "moco", "grey", 318, temperature=0.07, batch_size=128),
    Case("", "moco", "colour", 319, temperature=0.2, batch_size=32),
    Case("", "moco", "colour", 320, temperature=0.5, base_lr=2.4),
    Case("", "moco-v3", "grey", 321),
    Case("", "moco-v3", "grey", 322, temperature=0.2),
    Case("", "moco-v3", "grey", 323, temperature=1.0, batch_size=128, base_lr=0.6),
    Case("", "moco-v3", "colour", 324, temperature=0.2, batch_size=32),
    Case("", "moco-v3", "colour", 325, base_lr=0.02, optimizer="adamw"),
    Case("", "supcon", "grey", 326),
    Case("", "supcon", "grey", 327, temperature=0.1),
    Case("", "supcon", "grey", 328, temperature=0.2, batch_size=128, base_lr=0.6),
    Case("", "supcon", "colour", 329, batch_size=32),
    Case("", "supcon", "colour", 330, temperature=0.1, base_lr=2.4),
)

BROKEN = tuple(
    Case(broken, *others)
    for broken, first in (
        ("no negatives", 331),
        ("constant", 336),
        ("rank 1", 341),
        ("rate too high", 346),
    )
    for others in (
        ("simclr", "grey", first, 0.5),
        ("simclr", "colour", first + 1, 0.1),
        ("moco", "grey", first + 2, 0.2),
        # MoCo v3 without negatives is BYOL (arXiv 2006.07733), which its predictor keeps healthy.
        ("moco" if broken == "no negatives" else "moco-v3", "colour", first + 3, 0.5),
        ("supcon", "grey", first + 4, 0.2, 128),
    )
)

SAMPLE = (HEALTHY[0], BROKEN[0], BROKEN[6], BROKEN[10], BROKEN[16])
"""Made in CI: a healthy run and one of each way to break."""


def colour_pictures(count: int = 3000, seed: int = 5) -> tuple[Any, Any]:
    """Return some of the shipped pictures, each in two colours of its own, and their labels.

    Bright on dark, uint8 (N, 28, 28, 3).
    """
    source = open_source("fashion-mnist-10k")
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(source), count, replace=False)
    shape = np.stack([source.image(int(i)) for i in chosen]) / 255
    bright, dark = (generator.uniform(*ends, (count, 1, 1, 3)) for ends in ((120, 255), (0, 70)))
    assert source.labels is not None
    return (shape * bright + (1 - shape) * dark).round().astype(np.uint8), source.labels[chosen]


def open_pictures(name: str) -> Splits:
    return open_splits("fashion-mnist-10k" if name == "grey" else colour_pictures())


def train(case: Case, rate_times: float = 1.0, moments: Sequence[int] = ()) -> list[Outcome]:
    """Train a case and judge it at some moments, in steps after warm-up, unless it diverges.

    Without moments: at `PATIENCE`, and a healthy one at `LEARNING_PATIENCE` too.
    """
    splits = open_pictures(case.data)
    training = _build(case, splits, rate_times)
    BREAKS[case.broken](training)
    before = training.monitor.measure(training.method, training.encoder)
    found: list[Outcome] = []
    done = 0
    for steps in moments or ((PATIENCE,) if case.broken else (PATIENCE, LEARNING_PATIENCE)):
        training.method.train()
        diverged = _steps(training, done, WARMUP + steps)
        done = WARMUP + steps
        after = training.monitor.measure(training.method, training.encoder)
        verdict = diverged or health_verdict(after.health, before.health, steps=steps)
        found.append(Outcome(before, after, steps, verdict, rate_times))
        if diverged:
            break
    return found


def outcomes(case: Case, moments: Sequence[int] = ()) -> list[Outcome]:
    """Train a case; "rate too high" is 100 times as high until its k-NN falls below untrained."""
    if case.broken != "rate too high":
        return train(case, moments=moments)
    for rate_times in (1e2, 1e4, 1e6):
        found = train(case, rate_times, moments)
        last = found[-1]
        if _knn(last.after) < _knn(last.before) or last.verdict.startswith("diverged"):
            break
    return found


def _build(case: Case, splits: Splits, rate_times: float) -> Training:
    moco = case.method == "moco"
    flags: dict[str, object] = {
        "data.source": case.data,
        "augment.size": 16,
        "augment.gray_p": 0.0 if case.data == "grey" else 0.2,
        "method.name": case.method,
        "method.temperature": case.temperature,
        "method.queue_size": 1024,
        "method.momentum": 0.99,
        "optim.name": case.optimizer,
        "optim.base_lr": case.base_lr * rate_times,
        "optim.warmup_epochs": WARMUP / (len(splits.train) // case.batch_size),
        "train.seed": case.seed,
        "train.batch_size": case.batch_size,
        "train.bn_group": 16 if moco else "global",
        "train.steps": STEPS,
        "train.minutes": 0.0,
        "train.threads": torch.get_num_threads(),
    }
    config = resolve(recipe="moco-tiny" if moco else "simclr-tiny", flags=flags, environ={})
    training = build(settle(config, splits), splits)
    assert training.warmup_steps == WARMUP
    return training


def _steps(training: Training, start: int, stop: int) -> str:
    """Take some steps; return the verdict on a loss that is not finite, else nothing."""
    with contextlib.closing(training.loader.batches(start, stop)) as batches:
        for batch in batches:
            rate = learning_rate(
                batch.step,
                total_steps=STEPS,
                warmup_steps=training.warmup_steps,
                peak_lr=training.peak_lr,
            )
            try:
                train_step(training, batch, rate)
            except RunError as error:
                return f"diverged: {error}"
    return ""


def _without_negatives(training: Training) -> None:
    """The loss of positives alone, -cosine / temperature."""
    temperature = training.config.method.temperature

    def loss(batch: Embedded) -> Tensor:
        others = batch.online if batch.target is None else batch.target
        cosine = F.cosine_similarity(batch.online[:, 0], others[:, -1], dim=1)
        return -cosine.mean() / temperature

    training.method.loss = loss  # type: ignore[method-assign]


def _constant(training: Training) -> None:
    """Features without gain: zero whatever the picture, so that biases alone come out."""
    for module in training.method.modules():
        if isinstance(module, type(training.method.backbone)):
            module.register_forward_hook(lambda _m, _i, features: features * 0.0)


def _rank_one(training: Training) -> None:
    """Embeddings on one line: every head's output is its first number times a fixed direction."""
    width = training.config.model.embedding_dim
    direction = torch.randn(width, generator=torch.Generator().manual_seed(0))
    for module in training.method.modules():
        if isinstance(module, nn.Linear) and module.out_features == width:
            module.register_forward_hook(lambda _m, _i, z: z[:, :1] * direction)


BREAKS: dict[str, Callable[[Training], None]] = {
    "": lambda training: None,  # noqa: ARG005
    "no negatives": _without_negatives,
    "constant": _constant,
    "rank 1": _rank_one,
    "rate too high": lambda training: None,  # noqa: ARG005
}


CHOSEN_ON = (
    *(
        Case("", method, data, 101 + seed, temperature, base_lr=base_lr)
        for temperature, base_lr in ((0.3, 0.9), (0.15, 1.8))
        for seed, (method, data) in enumerate(
            (m, d) for m in ("simclr", "moco", "moco-v3", "supcon") for d in ("grey", "colour")
        )
    ),
    # Slow ones: rates near the highest and far below the usual.
    *(Case("", "moco", "colour", seed, 0.6, base_lr=3.0) for seed in (131, 132, 133, 134)),
    Case("", "moco", "grey", 135, 0.6, base_lr=3.0),
    Case("", "moco", "colour", 136, 1.0, base_lr=0.1),
    Case("", "moco-v3", "colour", 137, 0.6, base_lr=3.0),
    Case("", "simclr", "colour", 138, 0.6, base_lr=0.1),
    *(
        Case(broken, method, data, seed, temperature, base_lr=base_lr)
        for broken in list(BREAKS)[1:]
        for method, data, seed, temperature, base_lr in (
            ("simclr", "colour", 121, 0.3, 0.9),
            ("moco", "colour", 122, 0.15, 0.9),
            ("supcon" if broken == "no negatives" else "moco-v3", "grey", 123, 0.3, 0.9),
            ("simclr", "grey", 141, 0.15, 1.8),
            ("moco", "grey", 142, 0.6, 0.9),
            ("supcon", "colour", 143, 0.3, 0.9),
            ("moco" if broken == "no negatives" else "moco-v3", "colour", 144, 0.3, 1.8),
        )
    ),
)
"""What thresholds were chosen on: other seeds, temperatures and rates than the campaign's."""

CHOOSING = (*range(50, LEARNING_PATIENCE, 50), LEARNING_PATIENCE)
"""When the healthy ones of them are judged, in steps after warm-up."""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    cases = CHOSEN_ON if arguments.choose else SAMPLE if arguments.sample else HEALTHY + BROKEN
    print(
        f"{'':14}{'method':8} {'data':7}{'seed':>5}{'temp.':>6}{'batch':>6}{'rate':>9}{'steps':>6}"
        f"{'AUC':>12} {'errors':>6} {'rank':>10} {'dead':>5} {'alike':>11} {'k-NN %':>11}  verdict"
    )
    wrong: dict[bool, int] = {True: 0, False: 0}
    for case in cases:
        found = outcomes(case, CHOOSING if arguments.choose and not case.broken else ())
        wrong[bool(case.broken)] += any(each.accused for each in found) != bool(case.broken)
        print("\n".join(_row(case, each) for each in found), flush=True)
    broken = sum(bool(case.broken) for case in cases)
    print(f"broken runs named: {broken - wrong[True]} of {broken}")
    print(f"healthy runs accused: {wrong[False]} of {len(cases) - broken}")
    sys.exit(any(wrong.values()))


def _row(case: Case, found: Outcome) -> str:
    before, after = found.before.health, found.after.health
    rate = case.base_lr * found.rate_times
    return (
        f"{case.broken or 'healthy':14}{case.method:8} {case.data:7}{case.seed:5}"
        f"{case.temperature:6g}{case.batch_size:6}{rate:9.3g}{found.steps:6}"
        f" {before.auc:5.3f}>{after.auc:5.3f} {_errors(after, before):+6.1f} "
        f"{before.effective_rank:4.1f}>{after.effective_rank:5.1f} "
        f"{after.collapsed_dimensions:5.2f} "
        f"{after.positive_similarity:+5.2f}/{after.negative_similarity:+5.2f} "
        f"{100 * _knn(found.before):5.1f}>{100 * _knn(found.after):5.1f}  {found.verdict}"
    )


def _errors(after: Health, before: Health) -> float:
    """Return the gain in AUC in standard errors of the difference, as the verdict takes it."""
    error = math.hypot(after.auc_error, before.auc_error)
    return (after.auc - before.auc) / error if error else 0.0


def _knn(measured: Measurement) -> float:
    assert measured.knn is not None, "both data sets have labels"
    return measured.knn


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--choose", action="store_true", help="the runs thresholds were chosen on")
    parser.add_argument("--sample", action="store_true", help="the runs that CI makes")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
