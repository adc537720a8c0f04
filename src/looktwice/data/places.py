"""Where named data sets lie: under --data-root, $LOOKTWICE_DATA or the cache folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from looktwice.errors import DataError

CACHE: Final = "~/.cache/looktwice"
"""Where downloads go when neither a data root nor $LOOKTWICE_DATA is given."""


def find(
    root: Path | None, sub_folders: Iterable[str], holds: Callable[[Path], bool]
) -> Path | None:
    """Find the first folder that holds a data set: under root, `$LOOKTWICE_DATA`, or the cache.

    Args:
        root: looked under first.
        sub_folders: of each of the three, in order; ``""`` is the folder itself.
        holds: tells whether a folder has the data set.

    Raises:
        DataError: root is not a folder.
    """
    if root is not None and not root.is_dir():
        raise DataError(f"the data root {str(root)!r} is not a folder: create it, or leave it out")
    bases = [root, _environment(), Path(CACHE).expanduser()]
    places = [base / sub for base in bases if base is not None for sub in sub_folders]
    return next((place for place in places if place.is_dir() and holds(place)), None)


def download_folder(root: Path | None) -> Path:
    """Return where downloads go: root, else `$LOOKTWICE_DATA`, else the cache."""
    return root or _environment() or Path(CACHE).expanduser()


def _environment() -> Path | None:
    given = os.environ.get("LOOKTWICE_DATA")
    return Path(given).expanduser() if given else None
