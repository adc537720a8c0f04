"""The page of a study: what it shows, the figure, the table, and the runs behind it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from looktwice.evaluate.statistics import Estimate
from looktwice.report import charts, numbers
from looktwice.report.templating import render_page
from looktwice.storage import write_atomic
from looktwice.study import Found, Plan, Results
from looktwice.study.measures import ENCODER, UNITS, title
from looktwice.study.results import AGREES, CANNOT_TELL, DISAGREES, Difference, Verdict
from looktwice.study.tables import p_value, shown, signed

WARN_SEEDS = 3  # fewer seeds, and intervals say little about other seeds


@dataclass(frozen=True)
class Cell:
    """A number of the table; ``interval`` and ``words`` are empty where there are none."""

    value: str
    interval: str = ""
    words: str = ""


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    name: str
    reference: bool
    baseline: bool
    cells: tuple[Cell, ...]
    gain: Cell


@dataclass(frozen=True)
class Judged:
    """A claim of the source, and what it comes to here."""

    text: str
    outcome: str
    evidence: tuple[str, ...]


def write_study(results: Results, plan: Plan, *, command: str, search: Found | None = None) -> Path:
    """Write ``report.html`` and ``figure.svg`` of a study; return the page's path.

    Args:
        results: of the plan's runs.
        plan: its runs, which are linked from the page.
        command: that makes the study again.
        search: for a policy, whose proof the study is.

    Raises:
        RunError: the folder cannot be written.
    """
    folder = plan.folder
    write_atomic(folder / "figure.svg", charts.as_file(results))
    page = render_study(results, plan, command=command, search=search)
    write_atomic(folder / "report.html", page)
    return folder / "report.html"


def render_study(results: Results, plan: Plan, *, command: str, search: Found | None = None) -> str:
    """Return the page's text."""
    study = results.study
    return render_page(
        "study.html.j2",
        study=study,
        headline=search.sentence if search else headline(results),
        search=search,
        tried=_tried(search) if search else [],
        use=shlex.join(["looktwice", "pretrain", "--config", str(search.recipe)]) if search else "",
        evidence=_evidence(results),
        caveat=_caveat(results),
        facts=_facts(results),
        wide=Markup(charts.draw(results, charts.WIDE)),
        narrow=Markup(charts.draw(results, charts.NARROW)),
        weights=[Markup(charts.draw_weights(w)) for w in (charts.WIDE, charts.NARROW)]
        if study.figure.also == "negative-weights"
        else None,
        claims=[_judged(verdict) for verdict in results.verdicts],
        measures=[_heading(measure) for measure in results.measures],
        main=title(study.measures[0]),
        lines=_table(results),
        compared=_compared(results),
        runs=_runs(plan),
        command=command,
    )  # fmt: skip


def _tried(search: Found) -> list[tuple[str, tuple[str, ...]]]:
    """Return each candidate of a search and its scores, "–" where it was not tried at a length.

    Those that came furthest are first, among them the best.
    """
    rungs = [dict(scores) for scores in search.rungs]
    names = dict.fromkeys(name for scores in reversed(search.rungs) for name, _ in scores)
    return [
        (name, tuple(f"{100 * scores[name]:.1f}" if name in scores else "–" for scores in rungs))
        for name in names
    ]


def headline(results: Results) -> str:
    """Return what the study shows, in one sentence."""
    if not results.rows:
        return "No run is finished yet."
    if results.verdicts:
        return _of_claims([verdict.outcome for verdict in results.verdicts])
    main, reference = results.study.measures[0], results.study.reference
    better = [
        row.name
        for row in results.rows
        if (gain := row.differences.get(main)) and gain.words == "above"
    ]
    if better:
        return f"Better than {reference}, by {title(main)}: {numbers.listed(better)}."
    return f"No variant can be told to be better than {reference}, by {title(main)}."


def _of_claims(outcomes: Sequence[str]) -> str:
    total = len(outcomes)
    counts = {name: outcomes.count(name) for name in (AGREES, DISAGREES, CANNOT_TELL)}
    parts = [
        f"{counts[AGREES]} {'agrees' if counts[AGREES] == 1 else 'agree'}",
        f"{counts[DISAGREES]} {'disagrees' if counts[DISAGREES] == 1 else 'disagree'}",
        f"{counts[CANNOT_TELL]} cannot be told",
    ]
    kept = [part for part in parts if not part.startswith("0 ")]
    if total == 1:
        return {
            AGREES: "The source's claim holds here.",
            DISAGREES: "The source's claim does not hold here.",
            CANNOT_TELL: "Whether the source's claim holds here cannot be told.",
        }[outcomes[0]]
    return f"Of {total} claims of the source, {numbers.listed(kept)} here."


def _evidence(results: Results) -> str:
    seeds = sorted({e.seeds for row in results.rows for e in row.estimates.values()})
    if not seeds:
        return ""
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    word = "seed" if many == "1" else "seeds"
    pictures = numbers.plural(results.test_pictures, "test picture")
    on = f" and {pictures}, every class with equal weight" if results.test_pictures else ""
    return (
        f"{many} {word} a variant{on}. Intervals of 95 % cover seeds, and test pictures where "
        "these are scored; differences are of equal seeds and pictures, their p-values corrected "
        "by Holm's method over the table, a claim's over its own."
    )


def _caveat(results: Results) -> str:
    if results.missing:
        return f"{numbers.plural(results.missing, 'run')} are missing: this is a part of the study."
    seeds = [e.seeds for row in results.rows for e in row.estimates.values()]
    if seeds and min(seeds) < WARN_SEEDS:
        return f"With {numbers.plural(min(seeds), 'seed')}, little can be said about other seeds."
    return ""


def _facts(results: Results) -> list[str]:
    study = results.study
    return [f"data {results.data}", f"recipe {study.recipe}", f"compared with {study.reference}"]


def _heading(measure: str) -> str:
    unit = UNITS.get(measure, "%")
    return f"{title(measure)}, {unit}" if unit else title(measure)


def _table(results: Results) -> list[Line]:
    main = results.study.measures[0]
    rows = [(row, False) for row in results.rows] + [(row, True) for row in results.baselines]
    return [
        Line(
            name=row.name,
            reference=row.name == results.study.reference,
            baseline=baseline,
            cells=tuple(_cell(m, row.estimates.get(m)) for m in results.measures),
            gain=_gain(main, row.differences.get(main)),
        )
        for row, baseline in rows
    ]


def _cell(measure: str, estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell("")
    value = shown(measure, estimate.mean)
    if estimate.sd is not None:
        value += f" ± {shown(measure, estimate.sd)}"
    low, high = estimate.interval
    interval = f"[{shown(measure, low)} to {shown(measure, high)}]" if low == low else ""
    return Cell(_minus(value), _minus(interval))


def _gain(measure: str, difference: Difference | None) -> Cell:
    if difference is None:
        return Cell("")
    low, high = (signed(measure, end) for end in difference.estimate.interval)
    value = signed(measure, difference.estimate.mean)
    return Cell(_minus(value), _minus(f"[{low} to {high}]"), difference.words)


def _minus(text: str) -> str:
    return text.replace("-", numbers.MINUS)


def _judged(verdict: Verdict) -> Judged:
    claim = verdict.claim
    evidence = tuple(_pair(claim.measure, difference) for difference in verdict.differences)
    return Judged(claim.text, verdict.outcome, evidence)


def _pair(measure: str, difference: Difference) -> str:
    low, high = (signed(measure, end) for end in difference.estimate.interval)
    value = _minus(f"{signed(measure, difference.estimate.mean)} [{low} to {high}]")
    return (
        f"{difference.name} {numbers.MINUS} {difference.other}: {value}, {difference.words}, "
        f"{p_value(difference)}"
    )


def _compared(results: Results) -> Mapping[str, list[str]]:
    return {
        title(measure): [_pair(measure, difference) for difference in found]
        for measure, found in results.compared.items()
        if found
    }


def _runs(plan: Plan) -> list[tuple[str, int, str, str]]:
    """Return (variant, seed, what the run reached, its folder) of every run that is there."""
    main = plan.study.measures[0]
    runs = []
    for task in plan.tasks:
        record = task.measured().get(ENCODER, {}).get(main, {})
        value = record.get("balanced_accuracy", record.get("value"))
        if value is not None:
            runs.append((task.variant, task.seed, shown(main, value), task.folder.name))
    return runs
