"""Figures of a comparison: the dots of all runs on one axis, their curves over each other.

Places as in `figures`. Each run has one kind of mark, ``run-0`` and so on, in every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from looktwice.report import figures, numbers
from looktwice.report.figures import Line, Mark, Measure, Panel
from looktwice.report.record import Record, RunRecord, finite
from looktwice.report.templating import shorten

TITLE, ROW, GAP = 34.0, 38.0, 12.0  # pixels: of a protocol's name, of a run, after a protocol
NAMES = 18.0  # pixels: of the baselines' names, below the first run
NAME_LENGTH = 12  # letters of a run's name at the end of its curve


@dataclass(frozen=True)
class Compared:
    """A run as a comparison names it."""

    name: str
    kind: str
    run: RunRecord


@dataclass(frozen=True)
class Row:
    """A run's accuracies in one protocol, ``y`` pixels below the top.

    ``named`` says whether the baselines' names stand below: once is enough.
    """

    name: str
    kind: str
    y: float
    ours: Mark
    value: str
    baselines: tuple[Mark, ...]
    named: bool


@dataclass(frozen=True)
class Block:
    """A protocol: its name's base line, and its runs."""

    title: str
    headline: bool
    y: float
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Dots:
    """Accuracies of all runs in all protocols."""

    blocks: tuple[Block, ...]
    height: float
    ticks: tuple[tuple[float, str], ...]
    chance: tuple[float, str] | None
    note: str
    description: str


def dots(runs: Sequence[Compared], protocols: Sequence[str], headline: str) -> Dots:
    """Lay out what evaluated runs reach in some protocols, baselines on each run's own line."""
    first = runs[0].run.evaluation or {}
    entries = {name: [entry(one.run, name) for one in runs] for name in protocols}
    axis = figures.accuracy_axis(
        row for found in entries.values() for each in found for row in each["rows"].values()
    )
    blocks: list[Block] = []
    y = 0.0
    for name, found in entries.items():
        top, y = y, y + TITLE
        rows: list[Row] = []
        for one, each in zip(runs, found, strict=True):
            named = not (blocks or rows)
            ours, baselines = figures.marks(each["rows"], axis, named=named)
            own = value(each["rows"]["encoder"])
            rows.append(Row(one.name, one.kind, y + ROW / 2, ours, own, baselines, named))
            y += ROW + NAMES * named
        blocks.append(Block(str(found[0]["title"]), name == headline, top + 20, tuple(rows)))
        y += GAP
    chance, note = figures.chance_line(first, axis)
    spoken = (
        f"{block.title}: {', '.join(f'{row.name} {row.value} %' for row in block.rows)}"
        for block in blocks
    )
    return Dots(
        blocks=tuple(blocks),
        height=y,
        ticks=figures.percent_ticks(axis),
        chance=chance,
        note=note,
        description=". ".join(spoken),
    )


def entry(run: RunRecord, protocol: str) -> Record:
    """Return what an evaluated run's evaluation says of a protocol."""
    found = (run.evaluation or {})["protocols"]
    return next(each for each in found if each["name"] == protocol)


MEASURES = (
    Measure("Loss below chance", "nats, higher is better; 0 is guessing", (("below_chance", ""),)),
    *(measure for measure in figures.MEASURES if measure.title == "k-NN on validation"),
    Measure(
        "Similarity of positives", "cosine of two views of a picture",
        (("health.positive_similarity", ""),), floor=0.0, ceiling=1.0,
    ),
    Measure(
        "Similarity of negatives", "cosine of views of two pictures",
        (("health.negative_similarity", ""),), floor=0.0, ceiling=1.0,
    ),
    *(
        measure
        for measure in figures.MEASURES
        if measure.title in ("Alignment", "Uniformity", "Effective rank")
    ),
)  # fmt: skip


def curves(runs: Sequence[Compared]) -> list[Panel]:
    """Return a panel for every measure that a run recorded at least once."""
    epochs = {one.kind: [_with_gain(epoch) for epoch in one.run.epochs] for one in runs}
    last = max((float(e["epoch"]) for found in epochs.values() for e in found), default=0.0)
    panels = []
    for measure in MEASURES:
        ((key, _),) = measure.lines
        lines = [
            Line(one.kind, shorten(one.name, NAME_LENGTH), figures.series(epochs[one.kind], key))
            for one in runs
        ]
        panels.append(figures.panel(measure, lines, (), last))
    return [panel for panel in panels if panel]


def _with_gain(epoch: Record) -> Record:
    """Add how far the loss lies below guessing: the levels of two batch sizes differ."""
    loss, chance = finite(epoch.get("loss")), finite(epoch.get("chance_loss"))
    return {**epoch, "below_chance": None if loss is None or chance is None else chance - loss}


def value(row: Record) -> str:
    """Return an accuracy as ``74.1 ± 0.8``, without its unit."""
    places = numbers.decimals(row.get("interval"))
    spread = finite(row.get("sd"))
    text = numbers.percent(row["accuracy"], places)
    return text + (f" ± {numbers.percent(spread, places)}" if spread is not None else "")
