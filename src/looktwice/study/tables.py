"""A study's table as text for a terminal, JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from looktwice.evaluate.statistics import Estimate
from looktwice.storage import write_atomic
from looktwice.study.definition import Claim
from looktwice.study.measures import UNITS, title
from looktwice.study.results import COSTS, Difference, Results, Row


def shown(measure: str, value: float) -> str:
    """Return a value of a measure as text, without its unit."""
    if measure not in UNITS:
        return f"{100 * value:.1f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(results: Results) -> str:
    """Return the results as text for a terminal; accuracies in %, balanced over classes."""
    measures = results.measures
    rows = (*results.rows, *results.baselines)
    if not rows:
        return "no run is finished yet; the same command makes them"
    widths = [
        2 + max(len(title(m)), *(len(_cell(m, row.estimates.get(m))) for row in rows))
        for m in measures
    ]
    name_width = max(len(row.name) for row in rows) + 2
    head = "".join(f"{title(m):>{w}}" for m, w in zip(measures, widths, strict=True))
    main = results.study.measures[0]
    lines = [f"{'':{name_width}}{head}  {title(main)} against {results.study.reference}"]
    for row in rows:
        cells = "".join(
            f"{_cell(measure, row.estimates.get(measure)):>{width}}"
            for measure, width in zip(measures, widths, strict=True)
        )
        lines.append(f"{row.name:{name_width}}{cells}  {_gain(main, row)}".rstrip())
    lines += [f"{verdict.outcome}: {verdict.claim.text}" for verdict in results.verdicts]
    if results.missing:
        lines.append(f"{results.missing} runs are missing; the same command makes them")
    return "\n".join(lines)


def _cell(measure: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    sd = f" ± {shown(measure, estimate.sd)}" if estimate.sd is not None else ""
    return shown(measure, estimate.mean) + sd


def _gain(measure: str, row: Row) -> str:
    difference = row.differences.get(measure)
    if difference is None:
        return ""
    low, high = (signed(measure, end) for end in difference.estimate.interval)
    return f"{signed(measure, difference.estimate.mean)} [{low}, {high}] {difference.words}"


def signed(measure: str, value: float) -> str:
    """Return a difference of a measure as text, with its sign."""
    text = shown(measure, value)
    return text if text.startswith("-") else f"+{text}"


def as_json(results: Results) -> dict[str, Any]:
    """Return the results ready for JSON: what is not finite is None."""
    found: dict[str, Any] = _finite(_as_plain(results))
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_plain(results: Results) -> dict[str, Any]:
    return {
        "study": results.study.name,
        "title": results.study.title,
        "data": results.data,
        "reference": results.study.reference,
        "test_pictures": results.test_pictures,
        "missing_runs": results.missing,
        "rows": [_row_json(row) for row in results.rows],
        "baselines": [_row_json(row) for row in results.baselines],
        "compared": {
            measure: [asdict(difference) | {"words": difference.words} for difference in found]
            for measure, found in results.compared.items()
        },
        "claims": [
            {
                "text": verdict.claim.text,
                "outcome": verdict.outcome,
                "differences": [asdict(d) | {"words": d.words} for d in verdict.differences],
            }
            for verdict in results.verdicts
        ],
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "published": row.published,
        "validation_accuracy": row.validation,
        "measures": {name: asdict(estimate) for name, estimate in row.estimates.items()},
        "differences": {
            name: asdict(difference) | {"words": difference.words}
            for name, difference in row.differences.items()
        },
    }


def as_csv(results: Results) -> str:
    """Return one line a variant and measure; accuracies and their differences as fractions."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = ("mean", "sd", "low", "high", "seeds")
    head = ("variant", "measure", *columns, "difference", "difference_low", "difference_high")
    writer.writerow((*head, "p_holm", "published"))
    for row in (*results.rows, *results.baselines):
        for measure, estimate in row.estimates.items():
            if measure in COSTS and not results.timed:
                continue
            gain = row.differences.get(measure)
            difference = (
                (gain.estimate.mean, *gain.estimate.interval, gain.p) if gain else ("",) * 4
            )
            published = row.published if measure == results.study.measures[0] else None
            numbers = (estimate.mean, estimate.sd, *estimate.interval, estimate.seeds)
            writer.writerow((row.name, measure, *numbers, *difference, published))
    return file.getvalue()


def write_results(results: Results, folder: Path) -> None:
    """Write ``results.json``, ``results.csv`` and ``results.md`` into a study's folder."""
    write_atomic(folder / "results.json", json.dumps(as_json(results), indent=1, allow_nan=False))
    write_atomic(folder / "results.csv", as_csv(results))
    write_atomic(folder / "results.md", as_markdown(results))


def as_markdown(results: Results) -> str:
    """Return the claims and the numbers as Markdown tables."""
    measures, main = results.measures, results.study.measures[0]
    heads = [f"{title(m)}{_unit_in_brackets(m)}" for m in measures]
    published = any(row.published is not None for row in results.rows)
    columns = ["variant", *heads, f"difference by {title(main)}", *(["its source"] * published)]
    lines = [_line(columns), _line(["---", *["--:"] * (len(columns) - 1)])]
    for row in (*results.rows, *results.baselines):
        reference = row.name == results.study.reference
        name = f"**{row.name}**" if reference else row.name
        cells = [_with_interval(m, row.estimates.get(m)) for m in measures]
        gain = "the reference" if reference else _gain(main, row)
        theirs = ["" if row.published is None else f"{row.published:g}"] * published
        lines.append(_line([name, *cells, gain, *theirs]))
    if results.verdicts:
        lines += ["", _line(["claim of the source", "here", "differences, p over the claim's own"])]
        lines.append(_line(["---"] * 3))
    for verdict in results.verdicts:
        found = "; ".join(_pair(verdict.claim, difference) for difference in verdict.differences)
        lines.append(_line([verdict.claim.text, f"**{verdict.outcome}**", found]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _unit_in_brackets(measure: str) -> str:
    unit = UNITS.get(measure, "%")
    return f" ({unit})" if unit else ""


def _with_interval(measure: str, estimate: Estimate | None) -> str:
    if estimate is None or estimate.sd is None:
        return _cell(measure, estimate)
    low, high = (shown(measure, end) for end in estimate.interval)
    return f"{_cell(measure, estimate)} [{low}, {high}]"


def _pair(claim: Claim, difference: Difference) -> str:
    low, high = (signed(claim.measure, end) for end in difference.estimate.interval)
    mean = signed(claim.measure, difference.estimate.mean)
    return f"{difference.name} - {difference.other}: {mean} [{low}, {high}], {p_value(difference)}"


def p_value(difference: Difference) -> str:
    """Return a difference's p-value as text."""
    return "p < 0.001" if difference.p < 0.001 else f"p {difference.p:.2g}"
