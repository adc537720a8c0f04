"""Downloads, asked for by name and flag alone: torchvision's, with its addresses and checksums."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from looktwice.errors import DataError
from looktwice.storage import in_turn

SIZES: Final = {"CIFAR10": "0.2 GB", "CIFAR100": "0.2 GB", "STL10": "2.6 GB, 3.2 GB unpacked",
                "FashionMNIST": "0.03 GB"}  # fmt: skip
"""Torchvision's class to what its files take."""


def download(kind: str, folder: Path, is_there: Callable[[], bool]) -> None:
    """Fetch and unpack a data set; processes that do so at once take turns, and one fetches.

    Nothing is unpickled here: torchvision's data set classes, which would, are not made.

    Args:
        kind: torchvision's class, one of `SIZES`.
        folder: where it goes; made when it is not there.
        is_there: tells whether another process has fetched it.

    Raises:
        DataError: no connection, a wrong checksum, or no room.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with in_turn(folder / ".download.lock"):
            if not is_there():
                print(f"downloading {kind} ({SIZES[kind]}) into {folder}", file=sys.stderr)
                _fetch(kind, folder)
    # URLError is an OSError; torchvision raises RuntimeError for a wrong checksum.
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{kind} could not be downloaded into {str(folder)!r} ({reason}): try again, or put "
            "its files there by hand"
        ) from error


def _fetch(kind: str, folder: Path) -> None:
    from torchvision import datasets  # imports torch

    made = getattr(datasets, kind)
    fetch = datasets.utils.download_and_extract_archive
    if kind != "FashionMNIST":
        fetch(made.url, str(folder), filename=made.filename, md5=made.tgz_md5)
        return
    for name, md5 in made.resources:
        raw = str(folder / "FashionMNIST" / "raw")
        fetch(f"{made.mirrors[0]}{name}", raw, filename=name, md5=md5)
