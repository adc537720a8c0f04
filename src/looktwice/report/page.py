"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from looktwice.report import figures, gallery, numbers, words
from looktwice.report.preview import write_preview
from looktwice.report.record import Record, RunRecord, read_run
from looktwice.storage import write_atomic

if TYPE_CHECKING:
    from looktwice.augment import Policy
    from looktwice.data import Splits

MATRIX_UP_TO = 12  # classes: more do not fit a telephone's width as numbers
CONFUSIONS = 5
BAD_FILES_SHOWN = 200
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for tab and newline
    "\u2028\u2029\u202a-\u202e\u2066-\u2069"  # line separators, embeddings, overrides, isolates
    "\ud800-\udfff]"  # what os.fsdecode makes of bytes that are not UTF-8
)
NAME_LENGTH = 60  # letters of a class or file name before its middle is left out


def write_report(run: Path, *, splits: Splits | None, policy: Policy | None) -> Path:
    """Write ``run/report.html`` and, given data and policy, ``run/figures/views.png``.

    Args:
        run: a run folder; what it lacks is left out of the page, which says so.
        splits: the run's data; None leaves out everything with pictures.
        policy: the run's augmentation; None leaves out the views.

    Returns:
        The path of the page.

    Raises:
        RunError: the folder holds no run, one of its files is damaged, or it cannot be written.
        DataError: no picture of the training split can be read.
    """
    record = read_run(run)
    page = render(record, splits, policy)
    if splits is not None and policy is not None:
        write_preview(splits.train, policy, run / "figures" / "views.png", seed=_seed(record))
    path = run / "report.html"
    write_atomic(path, page)
    return path


def render(run: RunRecord, splits: Splits | None, policy: Policy | None) -> str:
    """Return the page's text."""
    evaluation = run.evaluation
    template = _templates().get_template("report.html.j2")
    return template.render(
        run=run,
        name=run.folder.resolve().name,
        verdict=words.verdict(run),
        facts=words.facts(run),
        proof=figures.proof_figure(evaluation) if evaluation else None,
        protocols=figures.protocols_in_order(evaluation) if evaluation else [],
        health=words.health(run),
        panels=figures.learning_panels(run),
        view_sets=gallery.view_sets(splits, policy, _seed(run)),
        strips=gallery.strips(evaluation, splits),
        confusion=_confusion(evaluation) if evaluation else None,
        cost=words.cost(run),
        again=words.again(run),
        missing_pictures=splits is None,
    )


def _seed(run: RunRecord) -> int:
    return int(run.settings.get("train.seed") or 0)


@dataclass(frozen=True)
class _Confusion:
    """Counts by true class (rows); ``matrix`` is None with too many classes to print."""

    classes: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...] | None
    totals: tuple[int, ...]
    worst: tuple[tuple[str, str, int, int], ...]


def _confusion(evaluation: Record) -> _Confusion | None:
    counts = evaluation.get("confusion")
    if not counts:
        return None
    classes = tuple(evaluation["data"]["classes"])
    matrix = tuple(tuple(row) for row in counts)
    totals = tuple(sum(row) for row in matrix)
    mistakes = sorted(
        (-number, true, taken)
        for true, row in enumerate(matrix)
        for taken, number in enumerate(row)
        if number and true != taken
    )
    return _Confusion(
        classes=classes,
        matrix=matrix if len(classes) <= MATRIX_UP_TO else None,
        totals=totals,
        worst=tuple(
            (classes[true], classes[taken], -number, totals[true])
            for number, true, taken in mistakes[:CONFUSIONS]
        ),
    )


def shorten(text: str, length: int = NAME_LENGTH) -> str:
    """Return a name without its middle when it is longer than ``length`` letters."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def printable(value: object) -> object:
    """Return text with control letters, bidi overrides and stray surrogates shown as escapes.

    What is left can be written as UTF-8 and cannot reorder the text around it.
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), value)


@functools.cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        autoescape=True,
        finalize=printable,
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    helpers: dict[str, Any] = {
        "count": numbers.count,
        "decimals": numbers.decimals,
        "interval": numbers.interval,
        "percent": numbers.percent,
        "points": numbers.points,
        "row_name": figures.row_name,
        "short": numbers.short,
        "shorten": shorten,
    }
    templates.filters.update(helpers)
    templates.globals.update(
        bad_files_shown=BAD_FILES_SHOWN,
        line_widths=gallery.line_widths,
        panel_height=figures.PANEL_HEIGHT,
    )
    return templates
