"""t-SNE of features, and how much of their neighbourhoods a flat map keeps.

van der Maaten and Hinton 2008 (JMLR 9), by openTSNE. Neighbours are those of k-NN: exact, by
cosine. Starting from the two first principal components keeps what there is of global order
(Kobak and Berens 2019, doi:10.1038/s41467-019-13056-x, who give the learning rate too).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from looktwice.errors import DataError
from looktwice.metrics import nearest

PERPLEXITY = 30.0
FEWEST = 8  # pictures: fewer have no neighbourhoods to speak of
KEPT = 10  # neighbours that are looked for again on the map

Flat = NDArray[np.float32]


def perplexity_of(count: int) -> float:
    """Return the perplexity for a number of points: 30, or a third of the others if that is less.

    It is about the number of neighbours that each point is held to; openTSNE looks at three
    times as many.
    """
    return min(PERPLEXITY, (count - 1) / 3)


def tsne(features: Tensor, *, seed: int = 0, threads: int = 1) -> Flat:
    """Lay out features on a plane; equal arguments give equal bits.

    Args:
        features: (N, D), N at least `FEWEST`; only their directions count.
        seed: of the jitter that keeps equal features apart, 0 to 2^32 - 1.
        threads: 1 or more; any number gives the same bits.

    Returns:
        Places float32 (N, 2).

    Raises:
        DataError: too few pictures, features that are not finite, or all equal.
    """
    import openTSNE  # a second of import, paid only here

    directions = _directions(features)
    perplexity = perplexity_of(len(features))
    similarity, indices = _others(directions, int(3 * perplexity))
    # Of directions: squared distance 2 - 2 cosine.
    distances = (2 - 2 * similarity).clamp(min=0).sqrt()
    known: Any = openTSNE.nearest_neighbors.PrecomputedNeighbors(
        indices.numpy(), distances.double().numpy()
    )
    affinities = openTSNE.affinity.PerplexityBasedNN(
        perplexity=perplexity, knn_index=known, n_jobs=threads
    )
    start = openTSNE.initialization.pca(
        directions.double().numpy(), svd_solver="covariance_eigh", random_state=seed
    )
    layout = openTSNE.TSNE(n_jobs=threads, random_state=seed).fit(
        affinities=affinities, initialization=start
    )
    return np.asarray(layout, np.float32)


def kept_neighbours(features: Tensor, flat: Flat) -> float:
    """Return which share of each picture's nearest others are also its nearest on a map, 0 to 1.

    Args:
        features: (N, D); near by cosine. The `KEPT` nearest are compared, or N - 1.
        flat: (N, 2); near by distance.
    """
    k = min(KEPT, len(features) - 1)
    own = _others(_directions(features), k)[1]
    places = torch.from_numpy(flat).double()
    shared = 0
    for block in torch.split(torch.arange(len(flat)), 1024):
        far = torch.cdist(places[block], places)
        far[torch.arange(len(block)), block] = torch.inf
        found = far.topk(k, largest=False).indices
        shared += int((found[:, :, None] == own[block][:, None, :]).sum())
    return shared / (k * len(flat))


def agreement(features: Tensor, labels: Tensor) -> float:
    """Return the share of pictures (N, D) whose nearest other has their label (N,), 0 to 1."""
    indices = _others(_directions(features), 1)[1]
    return float((labels[indices[:, 0]] == labels).double().mean())


def _directions(features: Tensor) -> Tensor:
    """Return unit vectors (N, D) float32; DataError where there is nothing to lay out."""
    if len(features) < FEWEST:
        raise DataError(f"{len(features)} pictures are too few for a map; give at least {FEWEST}")
    if not features.isfinite().all():
        raise DataError("features are not finite numbers: the encoder has diverged")
    directions = F.normalize(features.float(), dim=1)
    if float(directions.std(dim=0, correction=0).max()) < 1e-6:
        raise DataError("all pictures have the same features: the encoder has collapsed")
    return directions


def _others(directions: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return similarities and indices (N, k) of the pictures nearest to each, without itself."""
    similarity, indices = nearest(directions, directions, k + 1)
    itself = indices == torch.arange(len(indices))[:, None]
    # Among more than k copies of one picture it may be missing: then the last one goes.
    itself[~itself.any(dim=1), -1] = True
    return similarity[~itself].view(-1, k), indices[~itself].view(-1, k)
