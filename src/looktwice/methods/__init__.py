"""Methods: what is learnt."""

from __future__ import annotations

from looktwice.methods.base import Embedded, Method, Pairs, Views, over_views
from looktwice.methods.builders import METHODS, OwnMethod, Parts, build_method
from looktwice.methods.moco import MoCo
from looktwice.methods.moco_v3 import MoCoV3
from looktwice.methods.momentum import MomentumEncoder, momentum_at
from looktwice.methods.simclr import SimCLR
from looktwice.methods.supervised import SupCon, Supervised

__all__ = [
    "METHODS",
    "Embedded",
    "Method",
    "MoCo",
    "MoCoV3",
    "MomentumEncoder",
    "OwnMethod",
    "Pairs",
    "Parts",
    "SimCLR",
    "SupCon",
    "Supervised",
    "Views",
    "build_method",
    "momentum_at",
    "over_views",
]
