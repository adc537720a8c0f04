"""Fine-tuning: the whole network trained on 1 % and 10 % of the labels.

arXiv 2002.05709, appendix B.5: Nesterov momentum .9, rate .05 × B/256, no warm-up, crop and flip,
no regularisation of any kind, weight decay included; 60 epochs of 1 % and 30 of 10 %; tested on
whole pictures. The schedule is its published code's, half a cosine to 0, and so is the classifier
that starts at 0. Departures: batch 64, not 4096, the rate in proportion; and because networks this
small want other rates than ResNet-50, the base rate is chosen on validation among three, for every
row. The fit with the chosen rate learns from a draw of train + validation, as with few labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from looktwice.data import Source, join, subset
from looktwice.evaluate.cached import about_data, check_readable, readable_part
from looktwice.evaluate.fitting import Recipe, fingerprint, fit, unfinished
from looktwice.evaluate.labels import (
    Draws,
    Known,
    SplitLabels,
    amount_title,
    draw,
    known_labels,
)
from looktwice.evaluate.scoring import Outcome, entries, rank, read_truth, share
from looktwice.evaluate.subject import Subject
from looktwice.features import BLOCK, encoder_width, prepare
from looktwice.models import Encoder

EPOCHS: Mapping[str, int] = {"percent-1": 60, "percent-10": 30}
BASE_RATES = (0.01, 0.05, 0.2)
BATCH_SIZE = 64


@dataclass(frozen=True)
class _Pictures:
    """What is learnt from, chosen on and tested on; whole pictures are uint8 (N, C, S, S)."""

    train: Source
    pool: Source
    validation: Tensor
    validation_labels: Tensor
    test: Tensor


def run(
    subject: Subject, *, seed: int = 0, seeds: int = 1, epochs: float | None = None
) -> dict[str, Any]:
    """Fine-tune the encoder, and train its baselines in the same way, on few labels.

    Args:
        subject: what is evaluated.
        seed: of the draws of labels and of the first training; the others' follow it.
        seeds: number of draws, each with a training of its own.
        epochs: length, for every amount of labels; None takes the paper's.

    Raises:
        DataError: the pictures have no labels, or too many cannot be read.
        RunError: a training diverged.
    """
    *parts, test = subject.labelled()
    train, validation = (readable_part(subject, part) for part in parts)
    assert train.class_names is not None
    labels = SplitLabels(train.labels, validation.labels, test.labels)
    known = known_labels(labels, train.class_names)
    whole, _ = prepare(subject.encoder, validation)
    tested, kept = prepare(subject.encoder, test)
    check_readable(test, kept, subject.max_bad)
    pictures = _Pictures(train, join(train, validation), whole, known.validation, tested)
    outcomes = {}
    for amount, own_epochs in EPOCHS.items():
        draws = draw(known, amount, seed, num_draws=seeds)
        length = own_epochs if epochs is None else epochs
        outcomes[amount] = {
            row: _outcome(network, pictures, known, draws, length, subject, seed)
            for row, network in subject.networks.items()
        }
    assert test.labels is not None
    truth = read_truth(test.labels[kept], known.num_classes)
    titles = {amount: f"tuned, {amount_title(amount)}" for amount in EPOCHS}
    found = entries(outcomes, truth, known.num_classes, titles=titles)
    data = about_data(subject, (train, validation, kept))
    return {"data": data, "protocols": found}


def _outcome(
    network: Encoder,
    pictures: _Pictures,
    known: Known,
    draws: Draws,
    epochs: float,
    subject: Subject,
    seed: int,
) -> Outcome:
    """Choose the rate on validation, then predict test with it, once a draw."""
    before = fingerprint(network)

    def scores(source: Source, drawn: Tensor, base_lr: float, place: int, tested: Tensor) -> Tensor:
        recipe = Recipe(base_lr, epochs, BATCH_SIZE, nesterov=True)
        few = subset(source, drawn.numpy())
        tuned = _tuned(network, few, recipe, known.num_classes, subject, seed + place)
        return _predict(tuned, network, tested)

    def accuracy(base_lr: float) -> float:
        shares = [
            share(
                scores(pictures.train, drawn, base_lr, place, pictures.validation).argmax(dim=1),
                pictures.validation_labels,
            )
            for place, drawn in enumerate(draws.choosing)
        ]
        return sum(shares) / len(shares)

    tried = {base_lr: accuracy(base_lr) for base_lr in BASE_RATES}
    best = max(tried, key=tried.__getitem__)
    ranked = [
        rank(scores(pictures.pool, drawn, best, place, pictures.test))
        for place, drawn in enumerate(draws.scoring)
    ]
    assert fingerprint(network) == before, "the encoder itself has been tuned"
    return Outcome(torch.stack(ranked), {"base_lr": best, "epochs": epochs}, tried[best])


def _tuned(
    network: Encoder, few: Source, recipe: Recipe, num_classes: int, subject: Subject, seed: int
) -> nn.ModuleDict:
    """Return a copy of the backbone and a classifier, trained together on a few pictures."""
    head = nn.Linear(encoder_width(network), num_classes).to(subject.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    trained = nn.ModuleDict({"backbone": copy.deepcopy(network.backbone), "head": head})
    trained.requires_grad_(True).train()
    fit(
        _forward(trained, network),
        trained,
        few,
        recipe,
        size=network.spec.image_size,
        seed=seed,
        device=subject.device,
        threads=subject.threads,
        scaled_decoding=subject.scaled_decoding,
        folder=unfinished(
            subject.folder, recipe, seed, network.spec, fingerprint(network), few.fingerprint()
        ),
    )
    return trained.eval()


def _forward(trained: nn.ModuleDict, network: Encoder) -> Callable[[Tensor], Tensor]:
    """Return the map from pictures uint8 (B, C, S, S) to logits, prepared as the encoder does."""

    def logits(pictures: Tensor) -> Tensor:
        prepared = network.normalize(network.prepare(pictures))
        features = trained["backbone"](prepared.contiguous(memory_format=torch.channels_last))
        found: Tensor = trained["head"](features.float())
        return found

    return logits


@torch.no_grad()
def _predict(tuned: nn.ModuleDict, network: Encoder, pictures: Tensor) -> Tensor:
    forward = _forward(tuned, network)
    blocks = (block.to(network.mean.device) for block in torch.split(pictures, BLOCK))
    return torch.cat([forward(block).cpu() for block in blocks])
