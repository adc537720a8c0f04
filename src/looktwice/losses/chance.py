"""What each loss is for an encoder whose similarities are all equal, so that it can only guess.

With semi-hard negatives there is no such level: no negative is farther than the positive.
"""

from __future__ import annotations

import math


def nt_xent_chance(num_pairs: int) -> float:
    """Return the loss of guessing among the 2N - 1 others, log(2N - 1), in nats."""
    return math.log(2 * num_pairs - 1)


def dcl_chance(num_pairs: int) -> float:
    """Return `dcl` at equal similarities, log(2N - 2), in nats."""
    return math.log(2 * num_pairs - 2)


def info_nce_chance(num_pairs: int, queue_size: int | None = None) -> float:
    """Return the loss of guessing among N keys, log N, or beside a queue of K, log(1 + K)."""
    return math.log(num_pairs if queue_size is None else 1 + queue_size)


def symmetric_info_nce_chance(num_pairs: int, temperature: float) -> float:
    """Return the loss of guessing among N keys in both directions, 4τ log N."""
    return 4 * temperature * info_nce_chance(num_pairs)


def sup_con_chance(num_views: int) -> float:
    """Return the loss of guessing among the M - 1 others, log(M - 1), whatever the labels."""
    return math.log(num_views - 1)


def nt_logistic_chance() -> float:
    """Return 2 log 2, the least that equal similarities reach: when all are 0, or τ is large.

    At similarity c it is log(1 + exp(c/τ)) + log(1 + exp(-c/τ)).
    """
    return 2 * math.log(2)


def margin_triplet_chance(margin: float) -> float:
    """Return the margin: with equal similarities every triplet lacks all of it."""
    return margin
