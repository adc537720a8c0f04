"""Health of embeddings without labels, and a verdict in words.

All measures look at what the contrastive loss sees: embeddings on the unit sphere, two views of
each picture. Everything is computed in float64 and takes O(N^2) time, and O(N) memory but for
`uniformity`, which holds N^2 / 2 distances: meant for some hundreds to some thousands of pictures.
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
# A dimension is collapsed when its standard deviation over unit vectors is below this share of
# 1/sqrt(D), what each dimension of evenly spread vectors has (SimSiam, arXiv 2011.10566, section
# 4.1): less than a ten-thousandth of an even dimension's variance.
COLLAPSED_DEVIATION = 0.01
ALIKE = 1e-6  # cosines this near 1 differ by float32's rounding alone
BLOCK = 1024  # rows of similarities held at once

# The verdict; chosen on the runs of `benchmarks/health.py --choose`. A network has learned
# something once it tells views apart better than both guessing and the untrained network by this
# many standard errors.
LEARNED_ERRORS = 2.0
# Embeddings are constant when different pictures are this similar: what is a picture's own is then
# a tenth of its vector's length or less ...
CONSTANT_SIMILARITY = 0.99
# ... and collapsed, constant or not, when they use no more dimensions than this.
COLLAPSED_RANK = 3.0
# Steps after warm-up before which a run is not called collapsed: an untrained network is often
# nearly constant, and a warm-up moves it little.
PATIENCE = 100
# Steps after warm-up before which to have learned nothing is no accusation: the slowest healthy
# run that this was chosen on needed 200, twice that is granted.
LEARNING_PATIENCE = 400


@dataclass(frozen=True)
class Health:
    """What two views of N pictures say about an encoder; ``nan`` when it diverged.

    Attributes:
        positive_similarity: mean cosine of the two views of a picture, -1 .. 1.
        negative_similarity: mean cosine of views of different pictures, -1 .. 1.
        alignment: mean squared distance of the two views, 0 .. 4; lower is tighter.
        uniformity: log mean Gaussian potential of different pictures, -4N/(N-1) .. 0;
            lower is more even.
        effective_rank: dimensions in use, 1 .. ``dimensions``.
        collapsed_dimensions: share of dimensions that hardly differ between pictures, 0 .. 1.
        dimensions: width of the embedding.
        infonce_bound: nats of information shared by the views that the loss has shown; below 0
            when it is worse than guessing.
        infonce_error: standard error of the bound over pictures, nats; negatives taken as given.
        infonce_ceiling: what the bound cannot exceed, log(2N - 1).
        top1: share of views whose other view is nearest among all 2N - 1.
        auc: chance that a view is more like its other view than like a view of another picture,
            0 .. 1, ties counted half: 0.5 is guessing. The temperature has no part in it.
        auc_error: standard error of ``auc`` over pictures, the others taken as given.
    """

    positive_similarity: float
    negative_similarity: float
    alignment: float
    uniformity: float
    effective_rank: float
    collapsed_dimensions: float
    dimensions: int
    infonce_bound: float
    infonce_error: float
    infonce_ceiling: float
    top1: float
    auc: float
    auc_error: float

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
    """Return RankMe: exp of the entropy of the singular values of unit vectors (N, D).

    Vectors that are all zero have rank 1, as any others that are all alike.
    """
    singular = torch.linalg.svdvals(_unit(z))
    share = singular / singular.sum().clamp_min(RANK_EPSILON) + RANK_EPSILON
    return float((-(share * share.log()).sum()).exp())


def collapsed_dimensions(z: Tensor) -> float:
    """Return the share of dimensions of (N, D) that hardly differ between pictures, 0 .. 1.

    See `COLLAPSED_DEVIATION`: the standard deviation is that of unit vectors over the N pictures.
    """
    deviation = _unit(z).std(dim=0, correction=0)
    return float((deviation < COLLAPSED_DEVIATION / math.sqrt(z.shape[1])).double().mean())


def infonce_bound(z0: Tensor, z1: Tensor, temperature: float) -> tuple[float, float]:
    """Return log(2N - 1) - NT-Xent, and its ceiling log(2N - 1), in nats.

    The bound on mutual information of van den Oord et al. 2018, with SimCLR's candidates: each of
    2N views looks for its positive among the 2N - 1 others.
    """
    ceiling = math.log(2 * len(z0) - 1)
    return ceiling - float(_losses(z0, z1, temperature).mean()), ceiling


def view_auc(z0: Tensor, z1: Tensor) -> Tensor:
    """Return how often each picture's view is more like its other view than like other pictures'.

    The area under the ROC curve of cosines, positives against negatives, picture by picture (Mann &
    Whitney 1947): the share of the 2N - 2 views of other pictures that are less like the view, ties
    within `ALIKE` counted half; the mean of a picture's two views. (N,) float64, 0 .. 1.
    """
    z = torch.cat([_unit(z0), _unit(z1)])
    partners = torch.arange(len(z), device=z.device).roll(len(z0))
    shares = []
    for rows in torch.split(torch.arange(len(z), device=z.device), BLOCK):
        cosine = z[rows] @ z.T
        positive = cosine.gather(1, partners[rows, None])
        for own in (rows, partners[rows]):  # neither less nor alike
            cosine.scatter_(1, own[:, None], math.inf)
        less = (cosine < positive - ALIKE).sum(dim=1)
        alike = ((cosine - positive).abs() <= ALIKE).sum(dim=1)
        shares.append((less + alike / 2) / (len(z) - 2))
    return torch.cat(shares).double().view(2, -1).mean(dim=0)


def _losses(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent of each of the N pictures, the mean of its two views."""
    z = torch.cat([_unit(z0), _unit(z1)])
    partners = torch.arange(len(z), device=z.device).roll(len(z0))
    rows = torch.split(torch.arange(len(z), device=z.device), BLOCK)
    losses = torch.cat([_nt_xent(z, r, partners[r], temperature) for r in rows])
    return losses.view(2, -1).mean(dim=0)


def _nt_xent(z: Tensor, rows: Tensor, partners: Tensor, temperature: float) -> Tensor:
    """Return the losses of some rows of unit vectors among all others."""
    logits = torch.einsum("id,jd->ij", z[rows], z) / temperature
    logits.scatter_(1, rows[:, None], -math.inf)
    # The positive is read from the matrix, so that it equals itself to the last bit.
    return logits.logsumexp(dim=1) - logits.gather(1, partners[:, None])[:, 0]


def bound_in_blocks(z0: Tensor, z1: Tensor, *, temperature: float, candidates: int) -> Tensor:
    """Return InfoNCE bounds, in nats, of disjoint blocks of pictures: (N // candidates,) float64.

    In each block every view looks for its other view among the block's other views, from first to
    second and from second to first: log K - cross-entropy, K = `candidates`, averaged (van den Oord
    et al. 2018, equations 4 and 5; Poole et al. 2019, equation 12). Each block's expectation is
    a lower bound on the information that two views share, since all candidates are views of
    pictures drawn independently; NT-Xent's own candidates are not, as they hold both views
    of each other picture. Blocks share no picture: their values are independent. Rows left over
    are not used.

    Args:
        z0: first views, (N, D).
        z1: second views, (N, D), row by row of the same pictures, which stand in random order.
        temperature: of the critic, cosine / temperature, > 0.
        candidates: K, 2 .. N.
    """
    count = len(z0) // candidates
    shape = count, candidates, z0.shape[1]
    first, second = (_unit(z[: count * candidates]).view(shape) for z in (z0, z1))
    logits = torch.einsum("bid,bjd->bij", first, second) / temperature
    positive = logits.diagonal(dim1=1, dim2=2)
    losses = [(logits.logsumexp(dim=d) - positive).mean(dim=1) for d in (1, 2)]
    return math.log(candidates) - (losses[0] + losses[1]) / 2


def invariance(features: Tensor, changed: Tensor) -> float | None:
    """Return how little a change of pictures changes their features: 1 not at all.

    (s - d) / (1 - d), where s is the mean cosine of a picture's features before and after, and d
    that of different pictures before: 0 when a picture is as far from itself, changed, as from
    others; below 0 when it is farther. None where all pictures have the same features: then there
    is nothing to compare with.

    Args:
        features: of pictures as they are, (N, D) with N >= 2.
        changed: of the same pictures, changed, (N, D).
    """
    before, after = _unit(features), _unit(changed)
    count = len(before)
    norms = before.square().sum()  # N, or less where features are zero
    different = float((before.sum(dim=0).square().sum() - norms) / (count * (count - 1)))
    if not different < 1 - ALIKE:  # also where they are not finite
        return None
    same = float((before * after).sum(dim=1).mean())
    return (same - different) / (1 - different)


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
        return Health(nan, nan, nan, nan, nan, nan, dimensions, nan, nan, ceiling, nan, nan, nan)
    unit = torch.cat([_unit(z0), _unit(z1)])
    losses = _losses(z0, z1, temperature)
    auc = view_auc(z0, z1)
    positive = (unit[:count] * unit[count:]).sum(dim=1)
    # All pairs at once, less each view with itself and with its positive.
    others = unit.sum(dim=0).square().sum() - unit.square().sum() - 2 * positive.sum()
    return Health(
        positive_similarity=float(positive.mean()),
        negative_similarity=float(others / (2 * count * (2 * count - 2))),
        alignment=alignment(z0, z1),
        uniformity=(uniformity(z0) + uniformity(z1)) / 2,
        effective_rank=effective_rank(unit),
        collapsed_dimensions=collapsed_dimensions(unit),
        dimensions=dimensions,
        infonce_bound=ceiling - float(losses.mean()),
        infonce_error=float(losses.std()) / math.sqrt(count),
        infonce_ceiling=ceiling,
        top1=contrastive_top1(z0, z1),
        auc=float(auc.mean()),
        auc_error=float(auc.std()) / math.sqrt(count),
    )


def _unit(z: Tensor) -> Tensor:
    return F.normalize(z.detach().double(), dim=1)


def health_verdict(current: Health, untrained: Health, *, steps: int = LEARNING_PATIENCE) -> str:
    """Say in words how training goes, relative to the untrained network.

    The first rule that holds decides:

    1. not finite: "diverged";
    2. measures that are the untrained network's, before warm-up has ended: "untrained";
    3. different pictures have a cosine of `CONSTANT_SIMILARITY` or more, no dimension differs
       between pictures, or the effective rank is `COLLAPSED_RANK` or less (half the dimensions or
       less, of fewer than twice that): "collapsed", or "too early to tell" fewer than `PATIENCE`
       steps after warm-up;
    4. the AUC is not above both 0.5 (guessing) and the untrained network's by `LEARNED_ERRORS`
       standard errors of the difference, the two taken as independent: "not learning", or "too
       early to tell" fewer than `LEARNING_PATIENCE` steps after warm-up;
    5. "healthy".

    Rules 3 and 4 hold for every method; but SupCon on two to four classes is asked for one to three
    dimensions, and is then called collapsed when it is not.

    Args:
        current: measures now.
        untrained: measures of the same network, on the same pictures, before the first step.
        steps: taken since the end of the warm-up; below 0 within it. Of a run that is finished or
            unknown: the default, for which no rule is too early.
    """
    if not math.isfinite(current.infonce_bound):
        return "diverged: the embeddings are not finite numbers; lower the learning rate"
    if current == untrained and steps <= 0:
        return "untrained: the measures before the first step, to compare with"
    early = f"too early to tell: {_dimensions(current, untrained)}"
    if _is_collapsed(current):
        return early if steps < PATIENCE else _collapse(current, untrained)
    if not _has_learned(current, untrained):
        return early if steps < LEARNING_PATIENCE else _no_learning(current)
    return (
        f"healthy: two views of a picture are {current.positive_similarity:.2f} similar, of "
        f"different pictures {current.negative_similarity:.2f}; {_dimensions(current, untrained)}"
    )


def _no_learning(current: Health) -> str:
    better_than = "by chance" if _at_chance(current) else "by the untrained network"
    return (
        f"not learning: views are told apart no better than {better_than}; "
        "train longer, or try another learning rate, a lower one first"
    )


def _has_learned(current: Health, untrained: Health) -> bool:
    error = math.hypot(current.auc_error, untrained.auc_error)
    better = current.auc - untrained.auc > LEARNED_ERRORS * error
    return better and not _at_chance(current)


def _at_chance(health: Health) -> bool:
    return health.auc - 0.5 <= LEARNED_ERRORS * health.auc_error


def _is_collapsed(health: Health) -> bool:
    limit = min(COLLAPSED_RANK, health.dimensions / 2)
    return _is_constant(health) or health.effective_rank <= limit


def _is_constant(health: Health) -> bool:
    return health.negative_similarity >= CONSTANT_SIMILARITY or health.collapsed_dimensions == 1


def _collapse(current: Health, untrained: Health) -> str:
    if current.negative_similarity < CONSTANT_SIMILARITY and _is_constant(current):
        return "collapsed: no dimension differs between pictures"
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
