"""Figures of studies: drawn by matplotlib as SVG with real text, coloured by the page.

A figure is drawn for a width, in CSS pixels, and takes its colours from custom properties, so that
it follows the page, or the reader's preference where it is a file of its own.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from looktwice.evaluate.statistics import Estimate
from looktwice.report.figures import spread
from looktwice.report.numbers import MINUS
from looktwice.report.templating import printable, shorten
from looktwice.study.measures import UNITS, title
from looktwice.study.results import Results, Row
from looktwice.study.weights import LOSSES, POSITIVE, negative_weights

WIDE: Final = 720
NARROW: Final = 340
"""Widths in CSS pixels: of a desktop's column and of a telephone's."""

NAME_LENGTH: Final = 36  # letters
_POINTS: Final = 72.0
_SIZE: Final = 11.5  # of text, CSS pixels
_FONTS: Final = re.compile(r"'[^']*(?:DejaVu|sans)[^;\"]*")
_ROW: Final = 27.0  # pixels a variant
_MOST_WEIGHT: Final = 8.0
MOST_SQUASHED: Final = 5.0  # times: how much larger a common range may be than a panel's own
_PANEL: Final = 190.0  # pixels: height of a panel of lines

# What matplotlib is told, what the page calls it, and its values by light and by dark.
_COLOURS: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "ink": ("#010101", "--ink", "#1d1f21", "#e4e5e2"),
    "quiet": ("#020202", "--quiet", "#5b6269", "#a1a8ae"),
    "grid": ("#030303", "--grid", "#e7e9ea", "#2a2e32"),
    "ours": ("#040404", "--ours", "#0a66a8", "#6db7ee"),
    "second": ("#050505", "--second", "#b3540a", "#f0a05a"),
    "third": ("#060606", "--third", "#00786b", "#4cc2b2"),
    "fourth": ("#070707", "--fourth", "#8a3ea8", "#cf97e6"),
    "paper": ("#080808", "--paper", "#fcfcfa", "#16181a"),
}
_LINES: Final = (("ours", "o"), ("second", "s"), ("third", "^"), ("fourth", "D"))
"""Colours and markers of lines: told apart by shape too, and named at their ends."""


def draw(results: Results, width: int) -> str:
    """Return a study's figure as an ``<svg>`` element to put into a page.

    Args:
        results: of the study, with a reference at least.
        width: in CSS pixels.
    """
    with _style():
        figure = _KINDS[results.study.figure.kind](results, width)
        text = _as_svg(figure, f"{results.study.name}-{width}")
    return text.replace("<svg ", f'<svg class="chart" role="img" aria-label="{_spoken()}" ', 1)


def _spoken() -> str:
    return "The figure; its numbers stand in the table below"


def as_file(results: Results) -> str:
    """Return a study's figure as an SVG file of its own, light or dark as the reader likes."""
    light = "".join(f"{name}:{value};" for _, name, value, _ in _COLOURS.values())
    dark = "".join(f"{name}:{value};" for _, name, _, value in _COLOURS.values())
    style = (
        f"<style>svg{{{light}background:var(--paper)}}"
        f"@media (prefers-color-scheme:dark){{svg{{{dark}}}}}"
        "text{font-family:system-ui,sans-serif}</style>"
    )
    text = draw(results, WIDE)
    end = text.index(">") + 1
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text[:end]}{style}{text[end:]}\n'


def draw_weights(width: int) -> str:
    """Return what each loss makes of a negative, by its similarity, as `draw` does a study."""
    similarities = torch.linspace(-0.5, 1.0, 151, dtype=torch.float64)
    with _style():
        figure = _figure(width, 0.5 * width if width > NARROW else 0.9 * width)
        axes = figure.subplots()
        for (colour, _), name in zip(_LINES, LOSSES, strict=True):
            weights = negative_weights(name, similarities)
            axes.plot(similarities, weights, color=_colour(colour), lw=1.8)
            inside = weights <= _MOST_WEIGHT
            place = (similarities[inside][-1].item(), weights[inside][-1].item())
            axes.annotate(
                name, place, (-5, -2), textcoords="offset points", ha="right", va="top",
                color=_colour(colour),
            )  # fmt: skip
        axes.axvline(POSITIVE, color=_colour("quiet"), lw=1, ls=(0, (4, 3)))
        axes.annotate(
            "the positive", (POSITIVE, 0), (-4, 4), textcoords="offset points", ha="right",
            color=_colour("quiet"),
        )  # fmt: skip
        axes.set_ylim(0, _MOST_WEIGHT)
        axes.set_xlabel("similarity of a negative to the query")
        axes.set_ylabel("its weight, others' mean = 1")
        return _as_svg(figure, f"weights-{width}").replace("<svg ", '<svg class="chart" ', 1)


@contextmanager
def _style() -> Iterator[None]:
    colour = {name: values[0] for name, values in _COLOURS.items()}
    values: Any = {
        "svg.fonttype": "none",
        "font.size": _SIZE,
        "text.color": colour["ink"],
        "axes.edgecolor": colour["grid"],
        "axes.labelcolor": colour["quiet"],
        "axes.titlecolor": colour["ink"],
        "axes.titlesize": _SIZE,
        "axes.titlelocation": "left",
        "axes.labelsize": _SIZE,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": colour["grid"],
        "grid.linewidth": 0.8,
        "xtick.color": colour["quiet"],
        "ytick.color": colour["quiet"],
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "lines.linewidth": 1.6,
        "axes.unicode_minus": True,
        "text.parse_math": False,  # a name may hold a dollar
    }
    with mpl.rc_context(values), warnings.catch_warnings():
        # The browser draws the text, with fonts of its own.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def _text(name: str) -> str:
    """Return a name on one line, as a figure can show it."""
    return " ".join(str(printable(shorten(name, NAME_LENGTH))).split())


def _colour(name: str) -> str:
    return _COLOURS[name][0]


def _as_svg(figure: Figure, salt: str) -> str:
    """Return the element alone, sized by its page and coloured by its custom properties."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for said, name, _, _ in _COLOURS.values():
        text = text.replace(said, f"var({name})")
    # In the elements' own styles: names that are shown may speak of fonts, too.
    text = re.sub(r"<text\b[^>]*>", lambda tag: _FONTS.sub("system-ui, sans-serif", tag[0]), text)
    return text.strip()


def _figure(width: int, height: float) -> Figure:
    return Figure(figsize=(width / _POINTS, height / _POINTS), dpi=_POINTS, layout="constrained")


def _number(measure: str, value: float) -> str:
    text = f"{value:.3g}" if measure in UNITS else f"{value:.1f}"
    return text.replace("-", MINUS)


def _unit(measure: str) -> str:
    unit = UNITS.get(measure, "%")
    return f"{title(measure)}, {unit}" if unit else title(measure)


def _scaled(measure: str, estimate: Estimate) -> tuple[float, float, float]:
    """Return mean, low and high as they are drawn: shares in per cent."""
    factor = 1 if measure in UNITS else 100
    low, high = (end if end == end else estimate.mean for end in estimate.interval)
    if measure not in UNITS:  # Student's t knows nothing of what a share can be
        low, high = max(low, 0.0), min(high, 1.0)
    return factor * estimate.mean, factor * low, factor * high


def _dots(results: Results, width: int) -> Figure:
    """Draw each variant's mean and interval on one axis, the source's numbers on one beside."""
    measure = results.study.measures[0]
    rows = [row for row in results.rows if measure in row.estimates]
    narrow, beside = width <= NARROW, any(row.published is not None for row in rows)
    height = (_ROW + 14 * narrow) * len(rows) + 74
    figure = _figure(width, height)
    axes = figure.subplots(
        1, 1 + beside, sharey=True, squeeze=False, width_ratios=[3, 1.4][: 1 + beside]
    )[0]
    places = list(range(len(rows)))[::-1]
    _baselines(axes[0], results, measure)
    for place, row in zip(places, rows, strict=True):
        reference = row.name == results.study.reference
        _dot(axes[0], measure, row.estimates[measure], place, filled=not reference, narrow=narrow)
    axes[0].set_xlabel(_unit(measure))
    if narrow:  # room for the numbers
        low, high = axes[0].get_xlim()
        axes[0].set_xlim(low, high + 0.14 * (high - low))
    if beside:
        known = [(p, r.published) for p, r in zip(places, rows, strict=True)]
        found = [(p, value) for p, value in known if value is not None]
        axes[1].plot(
            [v for _, v in found],
            [p for p, _ in found],
            "D",
            ms=5,
            mfc="none",
            mec=_colour("quiet"),
        )
        axes[1].set_xlabel("its source")
        axes[1].margins(x=0.2)
    _names(axes[0], [row.name for row in rows], places, narrow)
    for ax in axes:
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)
        ax.set_ylim(-0.6, len(rows) - (0.3 if narrow else 0.5))
    return figure


def _dot(
    axes: Any, measure: str, estimate: Estimate, place: float, *, filled: bool, narrow: bool
) -> None:
    """Draw a mean with its interval; its number above, or where names stand there, right of it."""
    mean, low, high = _scaled(measure, estimate)
    axes.plot([low, high], [place, place], "-", color=_colour("ours"), lw=1.6)
    axes.plot(
        [mean],
        [place],
        "o",
        ms=7,
        color=_colour("ours"),
        mfc=_colour("ours" if filled else "paper"),
    )
    axes.annotate(
        _number(measure, mean), (high if narrow else mean, place), (5, 0) if narrow else (0, 6),
        textcoords="offset points", ha="left" if narrow else "center",
        va="center" if narrow else "bottom", fontsize=_SIZE - 0.5, color=_colour("quiet"),
    )  # fmt: skip


def _names(axes: Any, names: Sequence[str], places: Sequence[int], narrow: bool) -> None:
    axes.set_yticks(places, ["" if narrow else _text(name) for name in names])
    axes.tick_params(axis="y", labelcolor=_colour("ink"))
    if narrow:
        for name, place in zip(names, places, strict=True):
            axes.text(
                0.0, place + 0.38, _text(name), transform=axes.get_yaxis_transform(), va="center",
                bbox=_plate(),
            )  # fmt: skip


def _plate() -> dict[str, Any]:
    """Return what keeps lines behind a text out of it."""
    return {"facecolor": _colour("paper"), "edgecolor": "none", "pad": 1}


def _baselines(axes: Any, results: Results, measure: str) -> None:
    """Draw raw pixels and the untrained network as named dashed lines."""
    for number, row in enumerate(results.baselines):
        if measure in row.estimates:
            mean, _, _ = _scaled(measure, row.estimates[measure])
            axes.axvline(mean, color=_colour("quiet"), lw=1, ls=(0, (4, 3)))
            axes.annotate(
                f"{row.name.replace('-', ' ')} {_number(measure, mean)}", (mean, 1),
                (-3, 2 + 13 * number), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=_SIZE - 0.5, color=_colour("quiet"),
            )  # fmt: skip


def _lines(results: Results, width: int) -> Figure:
    """Draw lines over an axis, one a value of another; a column a value of the third, if any."""
    study, measure = results.study, results.study.measures[0]
    x, by = study.figure.x, study.figure.lines
    values = {v.name: v.values for v in study.variants}
    rows = {row.name: row for row in results.rows if measure in row.estimates}
    third = [axis for axis in next(iter(values.values())) if axis not in (x, by)]
    columns = _distinct(v[third[0]] for v in values.values()) if third else [""]
    groups = [
        (column, [n for n in rows if not third or values[n][third[0]] == column])
        for column in columns
    ]
    published = [
        (column, [n for n in names if rows[n].published is not None]) for column, names in groups
    ]
    published = [(column, names) for column, names in published if names]
    panels = [(column, names, False) for column, names in groups] + [
        (column, names, True) for column, names in published
    ]
    across = 1 if width <= NARROW else len(groups)
    down = -(-len(groups) // across) + -(-len(published) // across)
    figure = _figure(width, _PANEL * down + 36)
    grid = figure.subplots(down, across, squeeze=False, sharex=True)
    ticks = _distinct(v[x] for v in values.values())
    room = (width / across - 60) / (len(ticks) + 0.45)
    slant = 30 if max(map(len, ticks)) * 0.62 * _SIZE > room else 0
    lines = _distinct(v[by] for v in values.values())
    places = [divmod(i, across) for i in range(len(groups))]
    first = -(-len(groups) // across)
    places += [(first + i // across, i % across) for i in range(len(published))]
    ends = []
    for (row, column), (name, names, theirs) in zip(places, panels, strict=True):
        axes = grid[row][column]
        ends.append(
            _panel_of_lines(axes, rows, values, names, (x, by), (ticks, lines), measure, theirs)
        )
        axes.tick_params(axis="x", labelbottom=True, labelrotation=slant)
        parts = ("its source" if theirs else "here", _text(name), f"lines: {_text(by)}")
        axes.set_title(" · ".join(part for part in parts if part))
    for row in range(down):
        for column in range(across):
            if (row, column) not in places:
                grid[row][column].set_visible(False)
    _equal_ranges([grid[r][c] for r, c in places[: len(groups)]])
    _equal_ranges([grid[r][c] for r, c in places[len(groups) :]])
    figure.canvas.draw()
    for (row, column), labels in zip(places, ends, strict=True):
        _name_ends(grid[row][column], labels)
    return figure


def _name_ends(axes: Any, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the names of lines right of their ends (x, y, name, colour), kept apart."""
    heights = [float(axes.transData.transform((0, y))[1]) for _, y, _, _ in labels]
    low, high = (float(axes.transAxes.transform((0, end))[1]) for end in (0, 1))
    shifts = spread(heights, [_SIZE + 2.0] * len(labels), low - _SIZE / 2, high + _SIZE)
    for (x, y, name, colour), shift in zip(labels, shifts, strict=True):
        axes.annotate(
            _text(name), (x, y), (8, shift), textcoords="offset points", va="center",
            color=_colour(colour), fontsize=_SIZE - 0.5, annotation_clip=False,
        )  # fmt: skip


def _panel_of_lines(
    axes: Any,
    rows: Mapping[str, Row],
    values: Mapping[str, Mapping[str, str]],
    names: Sequence[str],
    along: tuple[str, str],
    order: tuple[Sequence[str], Sequence[str]],
    measure: str,
    theirs: bool,
) -> list[tuple[float, float, str, str]]:
    """Draw the lines of one panel; return their ends, names and colours."""
    x, by = along
    ticks, lines = order
    ends = []
    for number, line in enumerate(lines):
        colour, marker = _LINES[number % len(_LINES)]
        found = sorted(
            (n for n in names if values[n][by] == line), key=lambda n: ticks.index(values[n][x])
        )
        if not found:
            continue
        at = [ticks.index(values[n][x]) + (0 if theirs else 0.06 * (number - 1)) for n in found]
        if theirs:
            heights = [h for n in found if (h := rows[n].published) is not None]
        else:
            scaled = [_scaled(measure, rows[n].estimates[measure]) for n in found]
            heights = [mean for mean, _, _ in scaled]
            for place, (_, low, high) in zip(at, scaled, strict=True):
                axes.plot([place, place], [low, high], "-", color=_colour(colour), lw=1.2)
        axes.plot(
            at, heights, marker=marker, ms=5, color=_colour(colour), lw=1.4,
            ls=(0, (4, 2)) if theirs else "-", mfc=_colour("paper") if theirs else _colour(colour),
        )  # fmt: skip
        ends.append((max(at[-1], len(ticks) - 0.9), heights[-1], line, colour))
    axes.set_xticks(range(len(ticks)), [_text(tick) for tick in ticks])
    axes.set_xlim(-0.3, len(ticks) - 0.3 + 0.45)
    axes.set_ylabel("%" if theirs else _unit(measure))
    return ends


def _equal_ranges(panels: Sequence[Any]) -> None:
    """Give panels one range, unless one of them would then show nothing."""
    ranges = [axes.get_ylim() for axes in panels]
    spans = [high - low for low, high in ranges]
    if panels and max(spans) <= MOST_SQUASHED * min(spans):
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        for axes in panels:
            axes.set_ylim(low, high)


def _distinct(values: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _heatmap(results: Results, width: int) -> Figure:
    """Draw pairs as a matrix, single operations on its diagonal; the darker the better."""
    measure = results.study.measures[0]
    x, y = results.study.figure.x, results.study.figure.lines
    values = {v.name: v.values for v in results.study.variants}
    found = {
        (values[row.name][y], values[row.name][x]): _scaled(measure, row.estimates[measure])[0]
        for row in results.rows
        if measure in row.estimates
    }
    names = _distinct(place for pair in found for place in pair)
    low, high = min(found.values()), max(found.values())
    figure = _figure(width, width * 0.78 if width > NARROW else width * 0.95)
    axes = figure.subplots()
    for (first, second), value in found.items():
        for row, column in {(first, second), (second, first)}:
            share = (value - low) / (high - low) if high > low else 1.0
            at = (names.index(column) - 0.47, names.index(row) - 0.47)
            axes.add_patch(_square(at, share))
            axes.text(
                at[0] + 0.47, at[1] + 0.47, f"{value:.1f}", ha="center", va="center",
                color=_colour("paper" if share > 0.55 else "ink"),
                fontweight="bold" if row == column else "normal",
                fontsize=_SIZE - (3 if width <= NARROW else 0),
            )  # fmt: skip
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(
        range(len(names)), [_text(name) for name in names], rotation=45 if width <= NARROW else 0
    )
    axes.set_yticks(range(len(names)), [_text(name) for name in names])
    axes.tick_params(labelcolor=_colour("ink"))
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(_unit(measure) + "; alone on the diagonal", pad=10)
    return figure


def _square(at: tuple[float, float], share: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(at, 0.94, 0.94, facecolor=_colour("ours"), alpha=0.08 + 0.87 * share, lw=0)


def _scatter(results: Results, width: int) -> Figure:
    """Draw one measure against another, every variant named."""
    measure, x = results.study.measures[0], results.study.figure.x
    rows = [r for r in results.rows if measure in r.estimates and x in r.estimates]
    figure = _figure(width, 0.62 * width if width > NARROW else 1.15 * width)
    axes = figure.subplots()
    labels = []
    for row in rows:
        across, left, right = _scaled(x, row.estimates[x])
        up, low, high = _scaled(measure, row.estimates[measure])
        axes.plot([left, right], [up, up], "-", color=_colour("ours"), lw=1, alpha=0.6)
        axes.plot([across, across], [low, high], "-", color=_colour("ours"), lw=1, alpha=0.6)
        axes.plot([across], [up], "o", ms=6, color=_colour("ours"))
        labels.append((across, up, _text(row.name)))
    if x == "bound":
        axes.axvline(4.1589, color=_colour("quiet"), lw=1, ls=(0, (4, 3)))
        axes.annotate(
            "ceiling, log 64", (4.1589, 0.02), (-4, 0), textcoords="offset points",
            xycoords=("data", "axes fraction"), ha="right", color=_colour("quiet"),
        )  # fmt: skip
    axes.set_xlabel(_unit(x))
    axes.set_ylabel(_unit(measure))
    axes.margins(0.12)
    _apart(figure, axes, labels)
    return figure


def _apart(figure: Figure, axes: Any, labels: Sequence[tuple[float, float, str]]) -> None:
    """Write names right of their points, moved up or down where they would collide."""
    axes.autoscale_view()  # drawing alone leaves the transformation as it was before the margins
    figure.canvas.draw()
    taken: list[tuple[float, float, float]] = []
    right = axes.transAxes.transform((1, 1))[0]
    for x, y, name in sorted(labels, key=lambda label: label[1]):
        across, up = axes.transData.transform((x, y))
        up += 8  # above the interval
        length = 6.2 * len(name)
        left = across + length > right
        start = across - length - 8 if left else across + 8
        while any(
            abs(up - other) < _SIZE and start < end and begin < start + length
            for begin, end, other in taken
        ):
            up += 3
        taken.append((start, start + length, up))
        shift = up - axes.transData.transform((x, y))[1]
        axes.annotate(
            name, (x, y), (-8 if left else 8, shift), textcoords="offset points",
            ha="right" if left else "left", va="center", fontsize=_SIZE - 0.5,
        )  # fmt: skip


def _bars(results: Results, width: int) -> Figure:
    """Draw time and memory of every variant relative to the reference, absolute in brackets."""
    measures = ("seconds", "memory_mb")
    reference = next(row for row in results.rows if row.name == results.study.reference)
    rows = [row for row in results.rows if set(measures) <= row.estimates.keys()]
    narrow = width <= NARROW
    down = 2 if narrow else 1
    figure = _figure(width, (_ROW * len(rows) * (1.5 if narrow else 1) + 50) * down)
    panels = figure.subplots(down, 3 - down, sharey=True, squeeze=False).ravel()
    places = list(range(len(rows)))[::-1]
    for axes, measure in zip(panels, measures, strict=True):
        base = reference.estimates[measure].mean
        for place, row in zip(places, rows, strict=True):
            value = row.estimates[measure].mean
            axes.barh(place, value / base, height=0.4, color=_colour("ours"), alpha=0.75)
            text = f"{value / base:.2f}× ({value:,.0f} {UNITS[measure]})"
            axes.annotate(
                text, (value / base, place), (5, 0), textcoords="offset points", va="center",
                bbox=_plate(),
            )  # fmt: skip
        axes.set_title(f"{title(measure)}, relative")
        axes.set_ylim(-0.6, len(rows) - (0.2 if narrow else 0.5))
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.75 * max(row.estimates[measure].mean for row in rows) / base)
        axes.axvline(1, color=_colour("quiet"), lw=1, ls=(0, (4, 3)))
        _names(axes, [row.name for row in rows], places, narrow)
    return figure


_KINDS: Final[Mapping[str, Callable[[Results, int], Figure]]] = {
    "dots": _dots,
    "lines": _lines,
    "heatmap": _heatmap,
    "scatter": _scatter,
    "bars": _bars,
}
