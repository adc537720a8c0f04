"""Does training work? Measured as it goes, on held-out pictures, without touching the test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from looktwice.augment import Policy
from looktwice.data import Source, Splits, permute, subset
from looktwice.features import extract, read_pictures
from looktwice.methods import Method
from looktwice.metrics import Health, knn_predict, measure_health
from looktwice.models import Encoder

NUM_HEALTH = 512  # validation pictures whose two views are compared
NUM_BANK, NUM_QUERIES = 2000, 500  # training and validation pictures of the k-NN
NUM_NEIGHBOURS = 20
MONITOR_EPOCH = 2**31 - 1  # an epoch training never reaches: its views are seen here alone
BLOCK = 256


@dataclass(frozen=True)
class Measurement:
    """Health of the embeddings, and k-NN accuracy in 0-1 where there are labels."""

    health: Health
    knn: float | None


@final
class Monitor:
    """Measures a method in eval mode on fixed pictures and fixed views.

    k-NN is MoCo's vote with k = 20, from at most 2,000 training pictures on at most 500
    validation pictures: coarse (± 2 points), quick, and the same pictures every time.
    """

    def __init__(self, splits: Splits, policy: Policy, *, seed: int, temperature: float) -> None:
        self._temperature = temperature
        self._views = _fixed_views(_sample(splits.validation, NUM_HEALTH), policy, seed)
        self._bank: Source | None = None
        if splits.train.labels is not None and splits.validation.labels is not None:
            self._bank = _sample(splits.train, NUM_BANK)
            self._queries = _sample(splits.validation, NUM_QUERIES)
            self._num_classes = int(splits.train.labels.max()) + 1

    @property
    def knn_chance(self) -> float | None:
        """Accuracy of guessing a class evenly; None without labels."""
        return 1 / self._num_classes if self._bank is not None else None

    @torch.no_grad()
    def measure(self, method: Method, encoder: Encoder) -> Measurement:
        """Measure; the method is left in the mode it was in, its buffers untouched."""
        training = method.training
        method.eval()
        embeddings = torch.cat(
            [method.embed(encoder.normalize(block)) for block in torch.split(self._views, BLOCK)]
        )
        health = measure_health(embeddings[:, 0], embeddings[:, 1], self._temperature)
        knn = self._knn(encoder) if self._bank is not None else None
        method.train(training)
        return Measurement(health, knn)

    def _knn(self, encoder: Encoder) -> float:
        assert self._bank is not None
        bank, bank_labels = _labelled(encoder, self._bank)
        queries, query_labels = _labelled(encoder, self._queries)
        k = min(NUM_NEIGHBOURS, len(bank))
        predicted = knn_predict(bank, bank_labels, queries, [k], self._num_classes)[k]
        return float((predicted == query_labels).double().mean())


def _labelled(encoder: Encoder, source: Source) -> tuple[Tensor, Tensor]:
    features, kept = extract(encoder, source)
    assert source.labels is not None
    return features, torch.from_numpy(source.labels[kept])


def _sample(source: Source, count: int) -> Source:
    """Return at most `count` pictures of a source, the same ones every time."""
    chosen = permute(len(source), 0, 0, np.arange(min(count, len(source))))
    return subset(source, np.sort(chosen))


def _fixed_views(source: Source, policy: Policy, seed: int) -> Tensor:
    """Return views (N, V, C, S, S), uint8, of all pictures that can be read."""
    pictures, kept = read_pictures(source)
    views = policy(pictures, seed=seed, epoch=MONITOR_EPOCH, indices=kept)
    return torch.from_numpy(views).permute(0, 1, 4, 2, 3)
