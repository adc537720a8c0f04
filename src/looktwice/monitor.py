"""Does training work? Measured as it goes, on held-out pictures, without touching the test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from looktwice.augment import Policy
from looktwice.data import Source, Splits, permute, subset
from looktwice.errors import DataError
from looktwice.features import encode, prepare, readable
from looktwice.methods import Method, over_views
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
        self._views = _fixed_views(sample(splits.validation, NUM_HEALTH), policy, seed)
        self._labelled: tuple[Source, Source] | None = None
        self._prepared: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        if splits.train.labels is not None and splits.validation.labels is not None:
            self._labelled = (
                sample(splits.train, NUM_BANK),
                sample(splits.validation, NUM_QUERIES),
            )
            self._num_classes = int(splits.train.labels.max()) + 1

    @property
    def knn_chance(self) -> float | None:
        """Accuracy of guessing a class evenly; None without labels."""
        return 1 / self._num_classes if self._labelled else None

    @torch.no_grad()
    def measure(self, method: Method, encoder: Encoder) -> Measurement:
        """Measure; the method is left in the mode it was in, its buffers untouched."""
        training = method.training
        method.eval()
        device = encoder.mean.device
        embeddings = torch.cat(
            [
                over_views(method.project, (encoder.normalize(block.to(device)),)).cpu()
                for block in torch.split(self._views, BLOCK)
            ]
        )
        health = measure_health(embeddings[:, 0], embeddings[:, 1], self._temperature)
        knn = self._knn(encoder) if self._labelled else None
        method.train(training)
        return Measurement(health, knn)

    def _knn(self, encoder: Encoder) -> float:
        assert self._labelled is not None
        if self._prepared is None:  # decoded once: files are slow
            bank, queries = self._labelled
            self._prepared = *_prepare(encoder, bank), *_prepare(encoder, queries)
        bank_pictures, bank_labels, query_pictures, query_labels = self._prepared
        k = min(NUM_NEIGHBOURS, len(bank_pictures))
        bank_features, query_features = (
            encode(encoder, pictures) for pictures in (bank_pictures, query_pictures)
        )
        predicted = knn_predict(bank_features, bank_labels, query_features, [k], self._num_classes)[
            k
        ]
        return float((predicted == query_labels).double().mean())


def _prepare(encoder: Encoder, source: Source) -> tuple[Tensor, Tensor]:
    pictures, kept = prepare(encoder, source)
    assert source.labels is not None
    return pictures, torch.from_numpy(source.labels[kept])


def sample(source: Source, count: int) -> Source:
    """Return at most `count` pictures of a source, the same ones every time."""
    chosen = permute(len(source), 0, 0, np.arange(min(count, len(source))))
    return subset(source, np.sort(chosen))


def _fixed_views(source: Source, policy: Policy, seed: int) -> Tensor:
    """Return two views (N, 2, C, S, S), uint8, of all pictures that can be read.

    They are the first two of the first size; where a policy makes one, that of two epochs.
    """
    views = [
        _two_views(picture, policy, seed=seed, index=index) for index, picture in readable(source)
    ]
    if len(views) < 2:
        raise DataError(
            f"{len(views)} of the {len(source)} validation pictures of {source.name!r} can be "
            "read; health takes 2: add pictures, or raise --data.validation-fraction"
        )
    return torch.from_numpy(np.stack(views)).permute(0, 1, 4, 2, 3)


def _two_views(
    picture: NDArray[np.uint8], policy: Policy, *, seed: int, index: int
) -> NDArray[np.uint8]:
    made: list[NDArray[np.uint8]] = []
    for epoch in (MONITOR_EPOCH, MONITOR_EPOCH - 1):
        views = policy([picture], seed=seed, epoch=epoch, indices=np.array([index]))
        made += list(views[0][0] if isinstance(views, tuple) else views[0])
    return np.stack(made[:2])
