"""Results of studies without their runs: one a kind of figure, with numbers drawn by seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from looktwice.evaluate.statistics import Estimate
from looktwice.study import Results, open_study
from looktwice.study.definition import Claim, Figure, Published, Study, Variant
from looktwice.study.measures import UNITS
from looktwice.study.results import AGREES, Difference, Row, Verdict

SHIPPED = {
    "dots": "aug-plus",
    "lines": "batch-epochs",
    "heatmap": "composition",
    "scatter": "mutual-information",
    "bars": "cost",
}
COSTS = ("seconds", "memory_mb", "pictures_per_second")


def _estimate(measure: str, generator: np.random.Generator) -> Estimate:
    scale = {"seconds": 40.0, "memory_mb": 900.0, "pictures_per_second": 1500.0}.get(measure)
    if measure in UNITS:
        mean = generator.uniform(0.7, 1.3) * (scale or 3.0)
        half = 0.05 * mean
    else:
        mean, half = generator.uniform(0.80, 0.90), 0.012
    return Estimate(mean, half / 2, (mean - half, mean + half), half / 2, 4.0, 3)


def results(kind: str, names: Sequence[str] = (), *, shipped: str = "") -> Results:
    """Return what a study of a kind of figure might have found, its variants called `names`."""
    study = open_study(shipped or SHIPPED[kind])
    if names:
        study = named(study, kind, names)
    generator = np.random.default_rng(0)
    costs = COSTS if kind == "bars" else ()
    measures = (*study.measures, *((study.figure.x,) if kind == "scatter" else ()), *costs)
    rows = []
    for variant in study.variants:
        found = {measure: _estimate(measure, generator) for measure in measures}
        away = dataclasses.replace(found[study.measures[0]], mean=0.01, interval=(-0.004, 0.024))
        gain = {study.measures[0]: Difference(variant.name, study.reference, away, 0.2)}
        known = study.published.values.get(variant.name)
        rows.append(Row(variant.name, found, gain, 0.8, known))
    baselines = tuple(
        Row(name, {study.measures[0]: dataclasses.replace(_estimate("linear", generator), mean=m)}, {})
        for name, m in (("raw-pixels", 0.79), ("untrained", 0.785))
    )  # fmt: skip
    verdicts = tuple(Verdict(claim, AGREES, ()) for claim in study.claims)
    return Results(
        study, "fashion-mnist-10k", tuple(rows), baselines, {}, verdicts, 0, bool(costs), 2000
    )


def named(study: Study, kind: str, names: Sequence[str]) -> Study:
    """Return a study whose variants, title and claim are given names."""
    return dataclasses.replace(
        study,
        title=names[0],
        variants=tuple(Variant(name, {}, {}) for name in names),
        reference=names[0],
        claims=(Claim(names[1], (names[1],), (names[0],), study.measures[0], study.measures[0]),),
        published=Published(names[2], dict.fromkeys(names[:3], 70.0)),
        figure=Figure(kind, study.figure.x),
    )
