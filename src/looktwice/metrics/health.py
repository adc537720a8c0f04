"""Health of embeddings without labels, and a verdict in words.

All measures look at what the contrastive loss sees: embeddings on the unit sphere, two views of
each picture. Everything is computed in float64 and takes O(N^2) memory: meant for a sample of
some hundreds to some thousands of pictures.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from looktwice.errors import UsageError
from looktwice.metrics.contrastive import contrastive_top1

RANK_EPSILON = 1e-7  # RankMe (Garrido et al. 2023), equation 1
UNIFORMITY_T = 2.0  # Wang & Isola 2020, section 4.1

# The verdict. A network has learned something once the bound is above the untrained network's by
# this share of the ceiling.
LEARNED_SHARE = 0.05
# The loss is at chance while the bound is below this share of the ceiling.
CHANCE_SHARE = 0.02
# Embeddings are constant when two views of one picture, and of two pictures, are this similar ...
CONSTANT_SIMILARITY = 0.95
# ... and collapsed, constant or not, when they use no more dimensions than this.
COLLAPSED_RANK = 2.0
# An untrained network is often nearly constant: until this share of the training it may stay so.
EARLY_PROGRESS = 0.1


@dataclass(frozen=True)
class Health:
    """What two views of N pictures say about an encoder; ``nan`` when it diverged.

    Attributes:
        positive_similarity: mean cosine of the two views of a picture, -1 .. 1.
        negative_similarity: mean cosine of views of different pictures, -1 .. 1.
        alignment: mean squared distance of the two views, 0 .. 4; lower is tighter.
        uniformity: log mean Gaussian potential of different pictures, -8 .. 0; lower is more
            even.
        effective_rank: dimensions in use, 1 .. ``dimensions``.
        dimensions: width of the embedding.
        infonce_bound: nats of information shared by the views that the loss has shown; below 0
            when it is worse than guessing.
        infonce_ceiling: what the bound cannot exceed, log(2N - 1).
        top1: share of views whose other view is nearest among all 2N - 1.
    """

    positive_similarity: float
    negative_similarity: float
    alignment: float
    uniformity: float
    effective_rank: float
    dimensions: int
    infonce_bound: float
    infonce_ceiling: float
    top1: float

    def as_dict(self) -> dict[str, float]:
        """Return the measures by name."""
        return asdict(self)


def alignment(z0: Tensor, z1: Tensor) -> float:
    """Return E ||z0 - z1||^2 of unit vectors (Wang & Isola 2020, equation 6, alpha = 2)."""
    return float((_unit(z0) - _unit(z1)).square().sum(dim=1).mean())


def uniformity(z: Tensor) -> float:
    """Return log E exp(-t ||z_i - z_j||^2), i < j, of unit vectors (Wang & Isola, equation 7)."""
    squared = torch.pdist(_unit(z)).square()
    return float(squared.mul(-UNIFORMITY_T).exp().mean().log())


def effective_rank(z: Tensor) -> float:
    """Return RankMe: exp of the entropy of the singular values of unit vectors (N, D)."""
    singular = torch.linalg.svdvals(_unit(z))
    share = singular / singular.sum() + RANK_EPSILON
    return float((-(share * share.log()).sum()).exp())


def infonce_bound(z0: Tensor, z1: Tensor, temperature: float) -> tuple[float, float]:
    """Return log(2N - 1) - NT-Xent, and its ceiling log(2N - 1), in nats.

    The bound on mutual information of van den Oord et al. 2018, with SimCLR's candidates: each of
    2N views looks for its positive among the 2N - 1 others.
    """
    positive, cosine = _similarities(_unit(z0), _unit(z1))
    loss = float((cosine / temperature).logsumexp(dim=1).sub(positive / temperature).mean())
    ceiling = math.log(len(cosine) - 1)
    return ceiling - loss, ceiling


def measure_health(z0: Tensor, z1: Tensor, temperature: float) -> Health:
    """Measure embeddings of two views of the same pictures.

    Args:
        z0: first views, (N, D) with N >= 2, of any float type, normalised here.
        z1: second views, (N, D), row by row of the same pictures.
        temperature: of the contrastive loss, > 0.

    Raises:
        UsageError: the shapes differ or there are fewer than two pictures.
    """
    if z0.shape != z1.shape or z0.ndim != 2 or len(z0) < 2:
        found = f"{tuple(z0.shape)} and {tuple(z1.shape)}"
        raise UsageError(
            f"health needs two (N, D) embeddings of equal shape, N >= 2; found {found}"
        )
    count, dimensions = z0.shape
    ceiling = math.log(2 * count - 1)
    if not (z0.isfinite().all() and z1.isfinite().all()):
        nan = math.nan
        return Health(nan, nan, nan, nan, nan, dimensions, nan, ceiling, nan)
    unit = torch.cat([_unit(z0), _unit(z1)])
    positive = (unit[:count] * unit[count:]).sum(dim=1)
    # All pairs at once, less each view with itself and with its positive.
    others = unit.sum(dim=0).square().sum() - 2 * count - 2 * positive.sum()
    return Health(
        positive_similarity=float(positive.mean()),
        negative_similarity=float(others / (2 * count * (2 * count - 2))),
        alignment=alignment(z0, z1),
        uniformity=(uniformity(z0) + uniformity(z1)) / 2,
        effective_rank=effective_rank(unit),
        dimensions=dimensions,
        infonce_bound=infonce_bound(z0, z1, temperature)[0],
        infonce_ceiling=ceiling,
        top1=contrastive_top1(z0, z1),
    )


def _unit(z: Tensor) -> Tensor:
    return F.normalize(z.detach().double(), dim=1)


def _similarities(z0: Tensor, z1: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors' positive cosines (2N,), and all (2N, 2N) with -inf on the diagonal."""
    z = torch.cat([z0, z1])
    cosine = z @ z.T
    cosine.fill_diagonal_(-math.inf)
    # Read from the matrix, not computed apart, so that a positive equals itself to the last bit.
    positive = cosine.diagonal(len(z0))
    return torch.cat([positive, cosine.diagonal(-len(z0))]), cosine


def health_verdict(current: Health, untrained: Health, *, progress: float = 1.0) -> str:
    """Say in words how training goes, relative to the untrained network.

    The first rule that holds decides:

    1. not finite: "diverged";
    2. the untrained network itself: "untrained";
    3. two dimensions or fewer in use, and nothing learned or fewer dimensions than untrained:
       "collapsed", constant when all similarities are near 1 (an untrained network that was as
       constant gets the first tenth of the training to leave that state);
    4. the bound has not risen above the untrained network's: "not learning yet";
    5. "healthy".

    Args:
        current: measures now.
        untrained: measures of the same network before the first step.
        progress: share of the training that is done, 0 .. 1.
    """
    if not math.isfinite(current.infonce_bound):
        return "diverged: the embeddings are not finite numbers; lower the learning rate"
    if current == untrained:
        return "untrained: the measures before the first step, to compare with"
    learned = (
        current.infonce_bound - untrained.infonce_bound > LEARNED_SHARE * current.infonce_ceiling
    )
    excused = progress < EARLY_PROGRESS and _is_constant(untrained)
    narrowed = current.effective_rank < untrained.effective_rank
    if _is_collapsed(current) and not excused and (narrowed or not learned):
        return _collapse(current, untrained)
    if not learned:
        at_chance = current.infonce_bound < CHANCE_SHARE * current.infonce_ceiling
        state = "at chance" if at_chance else "no better than the untrained network's"
        return f"not learning yet: the loss is {state}"
    return (
        f"healthy: two views of a picture are {current.positive_similarity:.2f} similar, of "
        f"different pictures {current.negative_similarity:.2f}; {_dimensions(current, untrained)}"
    )


def _is_collapsed(health: Health) -> bool:
    return health.effective_rank <= min(COLLAPSED_RANK, health.dimensions / 2)


def _is_constant(health: Health) -> bool:
    lowest = min(health.positive_similarity, health.negative_similarity)
    return _is_collapsed(health) and lowest >= CONSTANT_SIMILARITY


def _collapse(current: Health, untrained: Health) -> str:
    if _is_constant(current):
        return (
            "collapsed: all pictures get nearly the same embedding (similarity "
            f"{current.negative_similarity:.3f} between different pictures)"
        )
    return f"collapsed: {_dimensions(current, untrained)}"


def _dimensions(current: Health, untrained: Health) -> str:
    return (
        f"{current.effective_rank:.1f} of {current.dimensions} dimensions in use "
        f"(untrained {untrained.effective_rank:.1f})"
    )
