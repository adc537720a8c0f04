"""Names of classes: lists of them in files, and labels turned into numbers."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from looktwice.data.sources import Labels
from looktwice.errors import DataError, UsageError, did_you_mean

SHIPPED_LISTS: Final = ("imagenet100",)
"""``data/shipped/<name>.txt``; its NOTICE says where each comes from."""


def read_class_list(name: str) -> tuple[str, ...]:
    """Read a shipped list, or a text file, of class folders, one a line.

    Raises:
        UsageError: neither a shipped list nor a file.
        DataError: unreadable, empty, or a name twice.
    """
    if name in SHIPPED_LISTS:
        resource = importlib.resources.files("looktwice.data") / "shipped" / f"{name}.txt"
        return tuple(resource.read_text("utf-8").split())
    path = Path(name).expanduser()
    if not path.is_file():
        raise UsageError(
            f"data.classes is {name!r}, which is no file: give a text file with one class folder "
            f"a line, or a shipped list.{did_you_mean(name, SHIPPED_LISTS)}"
        )
    return read_names(path)


def read_names(path: Path) -> tuple[str, ...]:
    """Read names, one a line; blank lines are left out.

    Raises:
        DataError: unreadable, empty, or a name twice.
    """
    try:
        text = path.read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror})") from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not names:
        raise DataError(f"{str(path)!r} has no class names: write one a line")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(f"{str(path)!r} names the class {twice!r} twice: remove one")
    return names


def number_labels(
    labels: Mapping[str, NDArray[Any] | None], where: str
) -> tuple[dict[str, Labels | None], tuple[str, ...] | None]:
    """Turn labels of any kind, one array (N,) a split, into numbers of the train split's classes.

    Args:
        labels: by split; integers or strings, or None.
        where: the data set's name, for errors.

    Returns:
        The numbers by split and the classes' names, sorted; all None where train has no labels.

    Raises:
        DataError: not integers or strings, negative, or a class that train does not have.
    """
    train = labels["train"]
    if train is None:
        return dict.fromkeys(labels), None
    for split, values in labels.items():
        if values is not None:
            _check(values, split, where)
    classes = np.unique(train)
    numbers: dict[str, Labels | None] = {}
    for split, values in labels.items():
        if values is not None:
            same_kind = (values.dtype.kind == "U") == (classes.dtype.kind == "U")
            unknown = values[~np.isin(values, classes)] if same_kind else values
            if unknown.size:
                raise DataError(
                    f"label {unknown[0].item()!r} of the {split} split of {where!r} is not one of "
                    f"the {len(classes)} in train: mend it, or add pictures of it to train"
                )
        numbers[split] = None if values is None else np.searchsorted(classes, values)
    return numbers, tuple(str(value) for value in classes.tolist())


def _check(values: NDArray[Any], split: str, where: str) -> None:
    if values.ndim != 1 or values.dtype.kind not in "iubU":
        raise DataError(
            f"labels of the {split} split of {where!r} must be integers or strings, one a picture; "
            f"found {values.dtype} {values.shape}"
        )
    if values.size and values.dtype.kind == "i" and values.min() < 0:
        raise DataError(
            f"label {values.min()} in the {split} split of {where!r}: labels are 0 or more; leave "
            "unlabelled pictures out, or give no labels"
        )
