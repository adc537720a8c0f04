"""Views of pictures: policies of operations, drawn by key and applied by one kernel."""

from __future__ import annotations

from looktwice.augment.compiling import kernel
from looktwice.augment.named import policy
from looktwice.augment.operations import *  # noqa: F403
from looktwice.augment.operations import __all__ as _operations
from looktwice.augment.policy import Policy
from looktwice.augment.tables import from_tables, from_toml, to_tables, to_toml
from looktwice.augment.transform import Transform

__all__ = [
    "Policy",
    "Transform",
    "from_tables",
    "from_toml",
    "kernel",
    "policy",
    "to_tables",
    "to_toml",
    *_operations,
]
