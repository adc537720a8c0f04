"""Linear evaluation as the papers do it: a linear classifier on a frozen network, by SGD.

The network stays in eval mode and keeps every bit; the classifier sees crops and flips of train
and validation, and is tested on whole pictures (the shorter side resized, the centre cut). Nothing
is chosen: the numbers are the papers'.

``simclr``: arXiv 2002.05709, appendix B.6: Nesterov momentum .9, rate .1 × B/256, 90 epochs, no
warm-up, no decay, no regularisation. It states no schedule; its published code lets the rate fall
along half a cosine, and so do we. Departure: batch 256, not 4096, the rate in proportion.

``moco``: arXiv 1911.05722, section 4.1 and its published code: momentum .9, rate 30 at batch 256,
100 epochs, a tenth after 60 and 80, no weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from looktwice.data import Source, join
from looktwice.errors import UsageError, did_you_mean
from looktwice.evaluate.cached import about_data, check_readable, readable_part
from looktwice.evaluate.fitting import Recipe, fingerprint, fit, linear_head, unfinished
from looktwice.evaluate.labels import SplitLabels, known_labels
from looktwice.evaluate.scoring import Outcome, entries, rank, read_truth
from looktwice.evaluate.subject import Subject
from looktwice.features import encode, encoder_width, prepare
from looktwice.models import Encoder

VARIANTS: Mapping[str, Recipe] = {
    "simclr": Recipe(0.1, epochs=90, batch_size=256, nesterov=True),
    "moco": Recipe(30.0, epochs=100, batch_size=256, nesterov=False, drops=(0.6, 0.8)),
}


def run(
    subject: Subject,
    *,
    seed: int = 0,
    seeds: int = 1,
    epochs: float | None = None,
    variant: str = "simclr",
) -> dict[str, Any]:
    """Train a linear classifier on the frozen encoder and its baselines, and test it.

    Args:
        subject: what is evaluated.
        seed: of the first training; the others' follow it.
        seeds: number of trainings of each row.
        epochs: length; None takes the variant's.
        variant: "simclr" or "moco".

    Raises:
        UsageError: no such variant.
        DataError: the pictures have no labels, or too many cannot be read.
        RunError: the training diverged.
    """
    if variant not in VARIANTS:
        raise UsageError(
            f"--variant {variant} is not one of {', '.join(VARIANTS)}."
            f"{did_you_mean(variant, VARIANTS)}"
        )
    recipe = VARIANTS[variant].lasting(epochs)
    *parts, test = subject.labelled()
    train, validation = (readable_part(subject, part) for part in parts)
    assert train.class_names is not None
    labels = SplitLabels(train.labels, validation.labels, test.labels)
    known = known_labels(labels, train.class_names)
    pool = join(train, validation)
    pictures, kept = prepare(subject.encoder, test)
    check_readable(test, kept, subject.max_bad)
    chosen: dict[str, float | str] = {"variant": variant, "epochs": recipe.epochs}
    outcomes = {}
    for row, network in subject.networks.items():
        ranked = [
            _one(network, pool, pictures, recipe, subject, num_classes=known.num_classes, seed=s)
            for s in range(seed, seed + seeds)
        ]
        outcomes[row] = Outcome(torch.stack(ranked), chosen)
    assert test.labels is not None
    truth = read_truth(test.labels[kept], known.num_classes)
    titles = {"linear-sgd": f"linear, {variant}"}
    found = entries({"linear-sgd": outcomes}, truth, known.num_classes, titles=titles)
    data = about_data(subject, (train, validation, kept))
    return {"data": data, "protocols": found}


def _one(
    network: Encoder,
    pool: Source,
    test_pictures: Tensor,
    recipe: Recipe,
    subject: Subject,
    *,
    num_classes: int,
    seed: int,
) -> Tensor:
    """Train one classifier; return the ranked classes (T, K) of the test pictures."""
    before = fingerprint(network)
    head = linear_head(encoder_width(network), num_classes, seed).to(subject.device)
    fit(
        lambda pictures: head(network(pictures)),
        head,
        pool,
        recipe,
        size=network.spec.image_size,
        seed=seed,
        device=subject.device,
        threads=subject.threads,
        scaled_decoding=subject.scaled_decoding,
        folder=unfinished(subject.folder, recipe, seed, network.spec, before, pool.fingerprint()),
    )
    with torch.no_grad():
        scores = head(encode(network, test_pictures).to(subject.device)).cpu()
    assert fingerprint(network) == before, "the frozen network has moved"
    return rank(scores)
