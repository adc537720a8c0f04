"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from looktwice.report import figures, gallery, words
from looktwice.report.record import Record, RunRecord, read_run
from looktwice.report.sheet import write_preview
from looktwice.report.templating import render_page
from looktwice.storage import write_atomic

if TYPE_CHECKING:
    from looktwice.augment import Policy
    from looktwice.data import Splits
    from looktwice.report.insight import Insight

MATRIX_UP_TO = 12  # classes: more do not fit a telephone's width as numbers
CONFUSIONS = 5


def write_report(
    run: Path, *, splits: Splits | None, policy: Policy | None, insight: Insight | None = None
) -> Path:
    """Write ``run/report.html`` and, given data and policy, ``run/figures/views.png``.

    Args:
        run: a run folder; what it lacks is left out of the page, which says so.
        splits: the run's data; None leaves out everything with pictures.
        policy: the run's augmentation; None leaves out the views.
        insight: what its features show; None leaves that out.

    Returns:
        The path of the page.

    Raises:
        RunError: the folder holds no run, one of its files is damaged, or it cannot be written.
        DataError: no picture of the training split can be read.
    """
    record = read_run(run)
    page = render(record, splits, policy, insight)
    if splits is not None and policy is not None:
        write_preview(splits.train, policy, run / "figures" / "views.png", seed=_seed(record))
    path = run / "report.html"
    write_atomic(path, page)
    return path


def render(
    run: RunRecord, splits: Splits | None, policy: Policy | None, insight: Insight | None = None
) -> str:
    """Return the page's text."""
    evaluation = run.evaluation
    return render_page(
        "report.html.j2",
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
        insight=insight,
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
