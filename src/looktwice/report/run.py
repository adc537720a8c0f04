"""Pages and previews from a run folder or a configuration: its data and policy opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from looktwice.config import Config
from looktwice.data import Splits
from looktwice.errors import DataError, RunError, UsageError
from looktwice.report.operations import operation_lines, render_operations
from looktwice.report.page import write_report
from looktwice.report.preview import first_readable, view_pairs
from looktwice.report.preview_page import render_preview
from looktwice.report.scene import draw_scene
from looktwice.report.sheet import as_png, draw_operations, draw_preview
from looktwice.run import build_policy, check_pictures, open_data, open_run
from looktwice.storage import write_atomic

PAIR: Final = (".png", ".html")


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
    insight = None
    if splits is not None and run.encoder_file.exists():
        from looktwice.report.insight import look  # torch, which a page without features needs not

        insight = look(run.path, splits, seed=config.train.seed)
    policy = build_policy(config.augment)
    return write_report(run.path, splits=splits, policy=policy, insight=insight)


def preview_file(
    config: Config, out: Path | None, *, count: int, epoch: int = 0
) -> tuple[Path, Path]:
    """Draw views of a configuration's pictures into a new PNG and a new page; return their paths.

    Args:
        config: whose pictures, policy and seed.
        out: one of both names, ending in .png or .html; None takes the next free number.
        count: how many pictures.
        epoch: whose views, 0 to 2^32 - 1.

    Raises:
        UsageError: fewer than one picture asked for, another ending, or no such epoch.
        DataError: pictures that cannot be opened.
        RunError: one of the files exists, or its folder does not.
    """
    if count < 1:
        raise UsageError(f"--count is {count}; it must be at least 1")
    picture, page = _new_pair(out, "preview")
    splits, policy = open_data(config.data), build_policy(config.augment)
    seed = config.train.seed
    sets = view_pairs(splits.train, policy, count, seed, epoch)
    text = render_preview(sets, splits.train, policy, seed=seed, epoch=epoch)
    write_atomic(picture, as_png(draw_preview(sets)))
    write_atomic(page, text)
    return picture, page


def operations_file(config: Config, out: Path | None) -> tuple[Path, Path]:
    """Draw every operation at several strengths into a new PNG and a new page; return their paths.

    Args:
        config: its pictures, if it names any, give the first that is readable; otherwise a drawn
            scene is used.
        out: as for `preview_file`.

    Raises:
        UsageError, DataError, RunError: as `preview_file`.
    """
    picture, page = _new_pair(out, "operations")
    name, pixels = "a drawn scene", draw_scene()
    if config.data.source:
        name, pixels = first_readable(open_data(config.data).train)
    lines = operation_lines(pixels)
    text = render_operations(lines, name)
    write_atomic(picture, as_png(draw_operations(lines)))
    write_atomic(page, text)
    return picture, page


def _new_pair(out: Path | None, name: str) -> tuple[Path, Path]:
    """Return the names of a PNG and its page, neither of which is there yet."""
    if out is None:
        return _next_free(name)
    if out.suffix not in PAIR:
        raise UsageError(f"--out is {str(out)!r}; it must end in {' or '.join(PAIR)}")
    picture, page = (out.with_suffix(suffix) for suffix in PAIR)
    for path in (picture, page):
        if path.exists():
            raise RunError(f"{path} exists already and is left as it is; choose another --out")
    if not out.parent.is_dir():
        raise RunError(f"cannot write {out}: there is no folder {out.parent}")
    return picture, page


def _next_free(name: str) -> tuple[Path, Path]:
    number = 1
    while True:
        picture, page = (Path(f"{name}-{number:03d}{suffix}") for suffix in PAIR)
        if not picture.exists() and not page.exists():
            return picture, page
        number += 1
