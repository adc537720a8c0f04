"""Geometry of the page's figures; templates/figures.html.j2 draws them.

Horizontal places are per cent of the plot, so that a figure follows its column while its text
keeps its size; vertical places are pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from looktwice.report import numbers
from looktwice.report.record import Record, RunRecord, finite

ROW_NAMES = {"encoder": "this encoder", "raw-pixels": "raw pixels", "untrained": "untrained"}
GLYPHS = ("", "●", "○")  # this encoder and the baselines in order: told apart by shape too

NARROW_PLOT = 300.0  # pixels: the proof's plot on a telephone, where labels must not collide
WIDE_PLOT = 380.0  # pixels: the least it has on a tablet or on paper
LETTER = 6.5  # pixels: a mean letter of the figures' text in a wide font
PANEL_HEIGHT = 120.0  # pixels
LABEL_HEIGHT = 15.0  # pixels
DOTS_UP_TO = 30  # points of a curve that are also drawn as dots


@dataclass(frozen=True)
class Axis:
    """A linear scale from ``low`` to ``high``, drawn over 100 units."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Return where a value lies, in per cent of the axis."""
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self, about: int) -> list[float]:
        """Return round values within the axis, in steps of 1, 2 or 5 times a power of ten."""
        step = _round_step((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [step * index for index in range(first, last + 1)]


def _round_step(raw: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(raw))
    return min(
        (factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / raw))
    )


def spread(
    centres: Sequence[float], sizes: Sequence[float], low: float, high: float
) -> list[float]:
    """Return shifts that keep labels of these sizes apart, in order, within [low, high].

    All lengths in pixels; where there is too little room the last ones reach below ``low``.
    """
    order = sorted(range(len(centres)), key=lambda i: centres[i])
    starts = [0.0] * len(centres)
    edge = low
    for i in order:
        starts[i] = max(edge, centres[i] - sizes[i] / 2)
        edge = starts[i] + sizes[i]
    edge = high
    for i in reversed(order):
        starts[i] = min(starts[i], edge - sizes[i])
        edge = starts[i]
    return [starts[i] + sizes[i] / 2 - centres[i] for i in range(len(centres))]


@dataclass(frozen=True)
class Mark:
    """One accuracy: a dot at ``x``, its interval from ``low`` to ``high`` (per cent of the axis).

    ``shift`` and ``narrow_shift`` move the label sideways, in pixels.
    """

    x: float
    low: float
    high: float
    label: str
    spoken: str
    glyph: str
    shift: float = 0.0
    narrow_shift: float = 0.0


@dataclass(frozen=True)
class ProofRow:
    """A protocol's name and its marks."""

    title: str
    headline: bool
    ours: Mark
    baselines: tuple[Mark, ...]


@dataclass(frozen=True)
class Proof:
    """Accuracies of all protocols on one axis; ``note`` says where chance is when off it."""

    rows: tuple[ProofRow, ...]
    ticks: tuple[tuple[float, str], ...]
    chance: tuple[float, str] | None
    note: str
    description: str


def proof_figure(evaluation: Record) -> Proof:
    """Lay out every protocol's accuracies and intervals, baselines on the encoder's own line."""
    protocols = protocols_in_order(evaluation)
    headline = (evaluation.get("headline") or {}).get("protocol")
    axis = accuracy_axis(row for protocol in protocols for row in protocol["rows"].values())
    rows = tuple(
        _proof_row(protocol, axis, named=number == 0, headline=protocol["name"] == headline)
        for number, protocol in enumerate(protocols)
    )
    chance, note = chance_line(evaluation, axis)
    return Proof(
        rows=rows,
        ticks=percent_ticks(axis),
        chance=chance,
        note=note,
        description=". ".join(_spoken(row) for row in rows),
    )


def accuracy_axis(rows: Iterable[Record]) -> Axis:
    """Return an axis on which the intervals of all rows fit."""
    ends = [end for row in rows for end in _ends(row)]
    return Axis(max(0.0, _below(min(ends))), min(1.0, _above(max(ends))))


def percent_ticks(axis: Axis) -> tuple[tuple[float, str], ...]:
    """Return (place, text) of some ticks of an axis of shares."""
    return tuple((axis.place(tick), f"{100 * tick:.0f}") for tick in axis.ticks(5))


def chance_line(evaluation: Record, axis: Axis) -> tuple[tuple[float, str] | None, str]:
    """Return (place, words) of guessing a class if it is on the axis, else a sentence about it."""
    chance = 1 / max(1, len(evaluation["data"]["classes"]))
    words = f"chance {numbers.percent(chance, 0 if chance >= 0.01 else 1)} %"
    if axis.low <= chance <= axis.high:
        return (axis.place(chance), words), ""
    return None, f"Off the axis: {words}."


def protocols_in_order(evaluation: Record) -> list[Record]:
    """Return the protocols as a reader wants them: few labels, then linear probe, then k-NN."""

    def rank(protocol: Record) -> tuple[int, int]:
        name = str(protocol["name"])
        if name.startswith("labels-"):
            return 0, int(name.removeprefix("labels-"))
        return {"linear": 1, "knn": 2}.get(name, 3), 0

    return sorted(evaluation.get("protocols") or [], key=rank)


def row_name(row: str) -> str:
    """Return a row's name in words."""
    return ROW_NAMES.get(row, row.replace("-", " "))


def _ends(row: Record) -> tuple[float, float]:
    low, high = row.get("interval") or (row["accuracy"], row["accuracy"])
    return low, high


def _below(value: float) -> float:
    return math.floor(20 * value - 0.4) / 20


def _above(value: float) -> float:
    return math.ceil(20 * value + 0.4) / 20


def _proof_row(protocol: Record, axis: Axis, *, named: bool, headline: bool) -> ProofRow:
    """Lay out one protocol; the first row names its marks, later ones repeat their shapes."""
    ours, baselines = marks(protocol["rows"], axis, named=named)
    return ProofRow(str(protocol["title"]), headline, ours, baselines)


def marks(rows: Record, axis: Axis, *, named: bool) -> tuple[Mark, tuple[Mark, ...]]:
    """Return the encoder's mark and its baselines', whose labels keep apart."""
    made = [
        _mark(row, axis, name, GLYPHS[min(place, 2)], named)
        for place, (name, row) in enumerate(_ours_first(rows))
    ]
    return made[0], _kept_apart(made[1:])


def _ours_first(rows: Record) -> list[tuple[str, Record]]:
    return sorted(rows.items(), key=lambda item: item[0] != "encoder")


def _mark(row: Record, axis: Axis, name: str, glyph: str, named: bool) -> Mark:
    low, high = (axis.place(end) for end in _ends(row))
    value = numbers.percent(row["accuracy"], numbers.decimals(row.get("interval")))
    label = " ".join(part for part in (glyph, row_name(name) if named else "", value) if part)
    return Mark(axis.place(row["accuracy"]), low, high, label, f"{row_name(name)} {value} %", glyph)


def _kept_apart(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    def shifts(plot: float) -> list[float]:
        centres = [mark.x * plot / 100 for mark in marks]
        sizes = [LETTER * (len(mark.label) + 1) for mark in marks]
        return spread(centres, sizes, low=0.0, high=plot)

    return tuple(
        replace(mark, shift=shift, narrow_shift=narrow)
        for mark, shift, narrow in zip(marks, shifts(WIDE_PLOT), shifts(NARROW_PLOT), strict=True)
    )


def _spoken(row: ProofRow) -> str:
    return f"{row.title}: {', '.join(mark.spoken for mark in (row.ours, *row.baselines))}"


@dataclass(frozen=True)
class Curve:
    """One line of a panel: ``points`` as SVG wants them, in a square of 100 by 100."""

    kind: str
    points: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class EndLabel:
    """A name and value right of the plot, ``shift`` pixels below its true height ``y`` (%)."""

    kind: str
    text: str
    y: float
    shift: float


@dataclass(frozen=True)
class Panel:
    """One of the small multiples, all over the same epochs."""

    title: str
    hint: str
    curves: tuple[Curve, ...]
    guides: tuple[float, ...]
    labels: tuple[EndLabel, ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_ticks: tuple[tuple[float, str], ...]
    description: str


@dataclass(frozen=True)
class Line:
    """A curve before it is laid out: (epoch, value) in order, and how it is drawn and called."""

    kind: str
    name: str
    values: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Measure:
    """Where a panel's values come from.

    ``guide`` is a constant with its name, drawn dashed; where it lies too far from the curve to
    share a scale with it, the hint tells it instead.
    """

    title: str
    hint: str
    lines: tuple[tuple[str, str], ...]
    guide: tuple[str, str] | None = None
    floor: float | None = None
    ceiling: float | None = None
    guide_drawn: bool = True
    write: Callable[[float], str] = numbers.fixed


MEASURES = (
    Measure(
        "Contrastive loss", "nats, lower is better", (("loss", ""),), ("chance_loss", "chance")
    ),
    Measure(
        "k-NN on validation",
        "% right, higher is better",
        (("knn", ""),),
        ("knn_chance", "chance"),
        guide_drawn=False,
        write=lambda value: f"{numbers.percent(value)} %",
    ),
    Measure(
        "Similarity of views",
        "cosine; a healthy run parts the two",
        (("health.positive_similarity", "positives"), ("health.negative_similarity", "negatives")),
        floor=0.0,
        ceiling=1.0,
    ),
    Measure(
        "Alignment",
        "squared distance of positives, lower is closer",
        (("health.alignment", ""),),
        floor=0.0,
    ),
    Measure("Uniformity", "log, lower is more spread out", (("health.uniformity", ""),)),
    Measure(
        "Effective rank",
        "of the embedding; near 1 is collapse",
        (("health.effective_rank", ""),),
        ("health.dimensions", "ceiling"),
        floor=0.0,
        write=numbers.short,
    ),
)


KINDS = ("ours", "other")
"""How a measure's lines are drawn, in order."""


def learning_panels(run: RunRecord) -> list[Panel]:
    """Return a panel for every measure that the run recorded at least once."""
    panels = (_panel_of_run(measure, run.epochs) for measure in MEASURES)
    return [panel for panel in panels if panel]


def _panel_of_run(measure: Measure, epochs: Sequence[Record]) -> Panel | None:
    lines = [
        Line(kind, name, series(epochs, key))
        for kind, (key, name) in zip(KINDS, measure.lines, strict=False)
    ]
    last = max((float(epoch["epoch"]) for epoch in epochs), default=0.0)
    return panel(measure, lines, _guides(measure, epochs), last)


def panel(
    measure: Measure, lines: Sequence[Line], guides: Sequence[tuple[str, float]], last: float
) -> Panel | None:
    """Lay out lines over epochs 0 to ``last``; None where none has a value."""
    lines = [line for line in lines if line.values]
    if not lines:
        return None
    drawn = guides if measure.guide_drawn else []
    shown = [y for line in lines for _, y in line.values] + [y for _, y in drawn]
    axis = _value_axis(measure, shown)
    time = Axis(0.0, max(1.0, last))
    ends = [(line.kind, line.name, line.values[-1][1]) for line in lines]
    ends += [("guide", name, value) for name, value in drawn]
    aside = [f"{name} {measure.write(value)}" for name, value in guides if not measure.guide_drawn]
    return Panel(
        title=measure.title,
        hint="; ".join([measure.hint, *aside]),
        curves=tuple(_curve(line.kind, line.values, time, axis) for line in lines),
        guides=tuple(100 - axis.place(value) for _, value in drawn),
        labels=_end_labels(ends, axis, measure.write),
        y_ticks=tuple((100 - axis.place(tick), _tick(tick, measure)) for tick in axis.ticks(3)),
        x_ticks=tuple((time.place(tick), f"{tick:.0f}") for tick in _epoch_ticks(time)),
        description=_panel_in_words(measure, lines, guides),
    )


def series(epochs: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) where a dotted key was measured and finite."""
    found = []
    for epoch in epochs:
        value: object = epoch
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        number = finite(value)
        if number is not None:
            found.append((float(epoch["epoch"]), number))
    return found


def _guides(measure: Measure, epochs: Sequence[Record]) -> list[tuple[str, float]]:
    if measure.guide is None:
        return []
    key, name = measure.guide
    return [(name, value) for _, value in series(epochs, key)[-1:]]


def _value_axis(measure: Measure, shown: Sequence[float]) -> Axis:
    low, high = min(shown), max(shown)
    margin = 0.06 * (high - low) or 0.05 * (abs(high) or 1.0)
    low = min(measure.floor, low) if measure.floor is not None else low - margin
    high = max(measure.ceiling, high) if measure.ceiling is not None else high + margin
    return Axis(low, high)


def _epoch_ticks(time: Axis) -> list[float]:
    return [tick for tick in time.ticks(4) if tick == round(tick)]


def _tick(value: float, measure: Measure) -> str:
    scaled = 100 * value if "%" in measure.hint else value
    return f"{scaled:g}".replace("-", numbers.MINUS) if abs(scaled) > 1e-9 else "0"


def _curve(kind: str, values: Sequence[tuple[float, float]], time: Axis, axis: Axis) -> Curve:
    places = tuple((time.place(x), 100 - axis.place(y)) for x, y in values)
    return Curve(
        kind=kind,
        points=" ".join(f"{x:.2f},{y:.2f}" for x, y in places),
        dots=places if len(places) <= DOTS_UP_TO else (),
    )


def _end_labels(
    ends: Sequence[tuple[str, str, float]], axis: Axis, write: Callable[[float], str]
) -> tuple[EndLabel, ...]:
    heights = [100 - axis.place(value) for _, _, value in ends]
    shifts = spread(
        [height * PANEL_HEIGHT / 100 for height in heights],
        [LABEL_HEIGHT] * len(ends),
        low=-LABEL_HEIGHT / 2,
        high=PANEL_HEIGHT + LABEL_HEIGHT / 2,
    )
    return tuple(
        EndLabel(kind, f"{name} {write(value)}".strip(), height, shift)
        for (kind, name, value), height, shift in zip(ends, heights, shifts, strict=True)
    )


def _panel_in_words(
    measure: Measure, lines: Sequence[Line], guides: Sequence[tuple[str, float]]
) -> str:
    parts = [
        f"{line.name} from {measure.write(line.values[0][1])} at epoch {line.values[0][0]:.0f} "
        f"to {measure.write(line.values[-1][1])} at epoch {line.values[-1][0]:.0f}".strip()
        for line in lines
    ]
    parts += [f"{name} {measure.write(value)}" for name, value in guides]
    return f"{measure.title}: {'; '.join(parts)}"
