"""Contrastive losses: pure functions of embeddings.

Each takes embeddings (N, D) of any floating type and returns a scalar in nats, float32 or wider:
half precision is widened before anything is computed, under autocast too, and float64 stays.
`normalize` scales every embedding to unit length first; one whose entries are all below 1e-12 in
size has no direction: it is similar to nothing, and gets no gradient.

None of them communicates. Across processes, gather the embeddings of the whole batch first; then
every process computes the same loss.

`nt_xent`, `dcl` and `info_nce` never hold an (N, N) matrix: they cost O(N·D) memory, and take the
gradient while they compute the value, so their gradient cannot be differentiated again.
"""

from looktwice.losses.chance import (
    dcl_chance,
    info_nce_chance,
    margin_triplet_chance,
    nt_logistic_chance,
    nt_xent_chance,
    sup_con_chance,
    symmetric_info_nce_chance,
)
from looktwice.losses.hinges import margin_triplet, nt_logistic
from looktwice.losses.labelled import sup_con
from looktwice.losses.pairs import dcl, nt_xent
from looktwice.losses.queries import info_nce, symmetric_info_nce

__all__ = [
    "dcl",
    "dcl_chance",
    "info_nce",
    "info_nce_chance",
    "margin_triplet",
    "margin_triplet_chance",
    "nt_logistic",
    "nt_logistic_chance",
    "nt_xent",
    "nt_xent_chance",
    "sup_con",
    "sup_con_chance",
    "symmetric_info_nce",
    "symmetric_info_nce_chance",
]
