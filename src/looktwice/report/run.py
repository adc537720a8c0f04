"""Pages and previews from a run folder or a configuration: its data and policy opened again."""

from __future__ import annotations

from pathlib import Path

from looktwice.config import Config
from looktwice.data import Splits
from looktwice.errors import DataError, RunError, UsageError
from looktwice.report.page import write_report
from looktwice.report.preview import write_preview
from looktwice.run import build_policy, check_pictures, open_data, open_run


def report_run(path: Path, *, splits: Splits | None = None) -> Path:
    """Write a run's ``report.html`` and return its path.

    Args:
        path: the run folder.
        splits: the pictures, where the run was started from arrays in memory. Pictures that
            cannot be opened, or are not those of the start, are left out; the page says so.

    Raises:
        RunError: there is no run, or its folder cannot be written.
    """
    run = open_run(path)
    config = run.config()
    if splits is None:
        try:
            splits = open_data(config.data)
            check_pictures(run, splits)
        except (DataError, RunError):
            splits = None
    return write_report(run.path, splits=splits, policy=build_policy(config.augment))


def preview_file(config: Config, out: Path | None, *, count: int) -> Path:
    """Draw views of a configuration's pictures into a new PNG and return its path.

    Raises:
        UsageError: fewer than one picture asked for.
        DataError: pictures that cannot be opened.
        RunError: the file exists.
    """
    if count < 1:
        raise UsageError(f"--count is {count}; it must be at least 1")
    splits, policy = open_data(config.data), build_policy(config.augment)
    path = out or _next_free()
    if path.exists():
        raise RunError(f"{path} exists already and is left as it is; choose another --out")
    if not path.parent.is_dir():
        raise RunError(f"cannot write {path}: there is no folder {path.parent}")
    return write_preview(splits.train, policy, path, count=count, seed=config.train.seed)


def _next_free() -> Path:
    number = 1
    while (path := Path(f"preview-{number:03d}.png")).exists():
        number += 1
    return path
