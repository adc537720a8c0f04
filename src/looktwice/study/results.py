"""What a study found: means and intervals, differences, and what the source's claims come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from looktwice.evaluate.statistics import Estimate, holm, over_pictures, over_seeds
from looktwice.run import Run
from looktwice.study.definition import Claim, Study
from looktwice.study.measures import BASELINES, ENCODER, parts, title
from looktwice.study.planning import Plan
from looktwice.study.work import Task

SIGNIFICANT: Final = 0.05
COSTS: Final = ("seconds", "memory_mb", "pictures_per_second")
AGREES, DISAGREES, CANNOT_TELL = "agrees", "disagrees", "cannot be told"

Records = Mapping[int, Mapping[str, Any]]
"""One measure of one row of one variant, by seed."""


@dataclass(frozen=True)
class Difference:
    """One variant minus another, in the same seeds and pictures.

    Attributes:
        name: of the variant; with its measure, where a claim compares two measures.
        other: what is subtracted.
        estimate: of the difference.
        p: two-sided, Holm's correction over all differences of the measure in the table, or over
            those of a claim.
    """

    name: str
    other: str
    estimate: Estimate
    p: float

    @property
    def words(self) -> str:
        """Above, below, or cannot be told apart."""
        if not self.p < SIGNIFICANT:
            return "cannot be told apart"
        return "above" if self.estimate.mean > 0 else "below"


@dataclass(frozen=True)
class Row:
    """A variant, or a baseline.

    Attributes:
        name: of the variant.
        estimates: by measure.
        differences: from the reference, by measure; none for the reference itself.
        validation: mean accuracy of the main measure on validation, if it has one.
        published: the source's number.
    """

    name: str
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Difference]
    validation: float | None = None
    published: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What a claim comes to here.

    Attributes:
        claim: of the source.
        outcome: `AGREES`, `DISAGREES` or `CANNOT_TELL`.
        differences: of every pair that the claim names.
    """

    claim: Claim
    outcome: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Results:
    """What a study found.

    Attributes:
        study: what was compared.
        data: the pictures' name.
        rows: variants, in order, those without a run left out.
        baselines: raw pixels and the untrained network, where they were measured.
        compared: what is compared beside the reference.
        verdicts: on the source's claims.
        missing: runs that are not there.
        timed: whether the cost columns mean something: runs were made one at a time.
        test_pictures: T.
    """

    study: Study
    data: str
    rows: tuple[Row, ...]
    baselines: tuple[Row, ...]
    compared: Mapping[str, tuple[Difference, ...]]
    verdicts: tuple[Verdict, ...]
    missing: int
    timed: bool
    test_pictures: int

    @property
    def measures(self) -> tuple[str, ...]:
        """Return the names of what was measured, the main one first, costs last."""
        names = dict.fromkeys(name for row in self.rows for name in row.estimates)
        order = [m for m in self.study.measures if m in names]
        others = [name for name in names if name not in order and name not in COSTS]
        return (*order, *others, *(COSTS if self.timed else ()))


def read_results(plan: Plan, *, timed: bool = False) -> Results:
    """Put together what the runs of a study have measured so far.

    Args:
        plan: of the study.
        timed: whether costs are told: if all runs were made as the plan says, one at a time.

    Raises:
        RunError: a damaged file of a run.
    """
    study = plan.study
    found = {name: _by_measure(tasks, ENCODER) for name, tasks in _by_variant(plan).items()}
    present = [name for name, measures in found.items() if measures]
    reference = found[study.reference]
    differences = _from_reference(study, found, present)
    compared = {
        measure: _corrected(
            [(a, b, found[a].get(measure, {}), found[b].get(measure, {})) for a, b in study.compare]
        )
        for measure in study.measures
        if study.compare
    }
    rows = tuple(
        Row(
            name,
            {measure: _estimate(records) for measure, records in found[name].items()},
            differences.get(name, {}),
            _validation(found[name].get(study.measures[0], {})),
            study.published.values.get(name),
        )
        for name in present
    )
    return Results(
        study=study,
        data=plan.data,
        rows=rows,
        baselines=tuple(_baselines(plan)),
        compared=compared,
        verdicts=tuple(_verdict(claim, found) for claim in study.claims),
        missing=sum(bool(task.missing()) for task in plan.tasks),
        timed=timed and all(map(_made_as_planned, plan.tasks)),
        test_pictures=_test_pictures(reference),
    )


def _made_as_planned(task: Task) -> bool:
    """Tell whether a run, if it is there, had the threads that it would have had now."""
    run = Run(task.folder)
    return not task.measured() or run.config().train.threads == task.config.train.threads


def _by_variant(plan: Plan) -> dict[str, list[Task]]:
    return {v.name: [t for t in plan.tasks if t.variant == v.name] for v in plan.study.variants}


def _by_measure(tasks: Sequence[Task], row: str) -> dict[str, dict[int, Any]]:
    """Return the records of a row by measure and seed, those that the study asks for."""
    found: dict[str, dict[int, Any]] = {}
    for task in tasks:
        asked = [parts(name) for name in (*task.wanted.get(row, ()), *COSTS)]
        if Run(task.folder).summary_file.exists():
            for measure, record in task.measured().get(row, {}).items():
                if any(is_asked(measure) for is_asked in asked):
                    found.setdefault(measure, {})[task.seed] = record
    return found


def _baselines(plan: Plan) -> list[Row]:
    tasks = _by_variant(plan)[plan.study.reference]
    rows = {name: _by_measure(tasks, name) for name in BASELINES}
    return [
        Row(name, {m: _estimate(records) for m, records in measures.items()}, {})
        for name, measures in rows.items()
        if measures
    ]


def _estimate(records: Records) -> Estimate:
    first = next(iter(records.values()))
    if "value" in first:
        return over_seeds([records[seed]["value"] for seed in sorted(records)])
    return over_pictures(_shares(records, sorted(records)), _truth(records, sorted(records)))


def _shares(records: Records, seeds: Sequence[int]) -> Any:
    """Return in what share of its draws each picture was right with each seed, (S, T)."""
    return np.stack([_right(records[seed]) for seed in seeds])


def _truth(records: Records, seeds: Sequence[int]) -> Any:
    """Return the classes of the pictures with each seed, (S, T)."""
    return np.array([records[seed]["truth"] for seed in seeds])


def _right(record: Mapping[str, Any]) -> Any:
    digits = np.frombuffer(record["right"].encode("ascii"), np.uint8) - ord("0")
    return digits / record["draws"]


def _from_reference(
    study: Study, found: Mapping[str, Mapping[str, Records]], present: Sequence[str]
) -> dict[str, dict[str, Difference]]:
    """Return each variant's differences from the reference, by variant and measure."""
    differences: dict[str, dict[str, Difference]] = {name: {} for name in present}
    others = [name for name in present if name != study.reference]
    for measure, records in found[study.reference].items():
        if measure in COSTS:
            continue
        pairs = [
            (name, study.reference, found[name][measure], records)
            for name in others
            if measure in found[name]
        ]
        for difference in _corrected(pairs):
            differences[difference.name][measure] = difference
    return differences


def _corrected(pairs: Sequence[tuple[str, str, Records, Records]]) -> tuple[Difference, ...]:
    """Return the differences of pairs, their p-values corrected for their number."""
    named = [(a, b, _difference(ours, theirs)) for a, b, ours, theirs in pairs]
    known = [(a, b, estimate) for a, b, estimate in named if estimate is not None]
    corrected = holm([estimate.p for _, _, estimate in known])
    return tuple(
        Difference(a, b, estimate, p) for (a, b, estimate), p in zip(known, corrected, strict=True)
    )


def _difference(ours: Records, theirs: Records) -> Estimate | None:
    """Return ours minus theirs over the seeds that both have; None if there are none."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    if "value" in ours[seeds[0]]:
        return over_seeds([ours[seed]["value"] - theirs[seed]["value"] for seed in seeds])
    if any(ours[seed]["truth"] != theirs[seed]["truth"] for seed in seeds):
        return None  # an encoder could not read all of the other's pictures
    return over_pictures(_shares(ours, seeds) - _shares(theirs, seeds), _truth(ours, seeds))


def _verdict(claim: Claim, found: Mapping[str, Mapping[str, Records]]) -> Verdict:
    """Weigh a claim: every pair must be significant in its direction to agree.

    One pair that is significant in the other direction disagrees.
    """
    measures = claim.measure, claim.against
    said = ["" if measures[0] == measures[1] else f", {title(measure)}" for measure in measures]
    pairs = [
        (a + said[0], b + said[1], found[a].get(measures[0], {}), found[b].get(measures[1], {}))
        for a in claim.higher
        for b in claim.lower
    ]
    differences = _corrected(pairs)
    words = [difference.words for difference in differences]
    if "below" in words:
        outcome = DISAGREES
    elif len(words) == len(pairs) and all(word == "above" for word in words):
        outcome = AGREES
    else:
        outcome = CANNOT_TELL
    return Verdict(claim, outcome, differences)


def _validation(records: Records) -> float | None:
    values = [record.get("validation_accuracy") for record in records.values()]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _test_pictures(measures: Mapping[str, Records]) -> int:
    truths = [
        len(record["truth"])
        for name, records in measures.items()
        for record in records.values()
        if "truth" in record and not name.startswith("lost-")
    ]
    return max(truths, default=0)
