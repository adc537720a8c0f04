"""Libraries that only some commands need, each behind an extra of the package."""

from __future__ import annotations

import importlib
from typing import Any

from looktwice.errors import UsageError


def need(module: str, extra: str) -> Any:
    """Import a module of an extra.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        raise UsageError(f"this needs {name}: pip install 'looktwice[{extra}]'") from error
