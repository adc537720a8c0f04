"""The page of an analysis, and the folder it goes to."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from looktwice.analysis import Analysis, Layout, analyze
from looktwice.data import Data, Splits
from looktwice.errors import UsageError
from looktwice.estimator import open_encoder
from looktwice.evaluate import Subject, open_subject
from looktwice.evaluate.subject import check_channels
from looktwice.models import Encoder
from looktwice.report import gallery, numbers
from looktwice.report.heat import shown_panels
from looktwice.report.numbers import NBSP
from looktwice.report.picture_map import picture_map
from looktwice.report.scatter import Scatter, place, scatter
from looktwice.report.templating import render_page
from looktwice.storage import check_new, write_new

MOST = 20_000  # pictures: more make a page that a telephone no longer opens
CAVEAT = (
    "t-SNE keeps neighbours. The size of a group, the gap between two and its place on the plane "
    "mean nothing, and groups show up in noise too."
)


def analyze_target(
    target: str | Path,
    *,
    data: Data | None = None,
    weights: Path | None = None,
    image_size: int | None = None,
    out: Path | None = None,
    count: int = 10_000,
    against: str | Path | None = None,
    cam: bool = True,
    device: str = "auto",
    seed: int = 0,
    command: str = "",
    splits: Splits | None = None,
) -> Path:
    """Analyse what a user names, and write a new folder: ``analysis.html``, ``tsne.csv``.

    Args:
        target: a run, an encoder file, or a foreign encoder; see `open_subject`.
        data: pictures; None takes those of the run.
        weights: file of a foreign encoder's weights.
        image_size: side in pixels at which pictures enter an encoder that is no run's.
        out: the folder; None takes ``TARGET/analysis`` for runs, else ``analysis-001`` and so on.
        count: pictures on the map, drawn by seed where there are more; 8 to `MOST`.
        against: another encoder that explains the same pictures.
        cam: whether to explain pictures.
        device: where networks compute; ``auto`` is the best there is.
        seed: 0 to 2^32 - 1.
        command: what the page says it was made by.
        splits: the pictures of a run that was started from arrays in memory.

    Returns:
        The path of the page.

    Raises:
        UsageError: arguments that do not fit, or no feature map to explain.
        RunError: no such run, or a folder that is there already or cannot be written.
        DataError: pictures that cannot be opened or do not fit, or nothing to lay out.
    """
    if not 8 <= count <= MOST:
        raise UsageError(f"--count is {count}; it must lie in 8 to {MOST}")
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed is {seed}; it must lie in 0 to {2**32 - 1}")
    folder = out or _default_folder(Path(target))
    check_new(folder)
    subject = open_subject(
        target, data=data, weights=weights, image_size=image_size, device=device, splits=splits
    )
    others = {} if against is None else _other(str(against), subject)
    analysis = analyze(subject, count=count, against=others, cam=cam, seed=seed)
    page = render_analysis(analysis, subject.splits, command=command)
    files = {"analysis.html": page.encode("utf-8"), "tsne.csv": _table(analysis).encode("utf-8")}
    write_new(folder, files)
    return folder / "analysis.html"


def _default_folder(target: Path) -> Path:
    if target.is_dir():
        return target / "analysis"
    folders = (Path(f"analysis-{number:03d}") for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def _other(against: str, subject: Subject) -> Mapping[str, Encoder]:
    encoder = open_encoder(against)
    check_channels(against, encoder, subject.splits.train)
    name = against if against != subject.name else f"{against} (again)"
    return {name: encoder.to(subject.device)}


def _table(analysis: Analysis) -> str:
    """Return places, names and classes as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    axes = [f"{layout.layer}_{axis}" for layout in analysis.layouts for axis in "xy"]
    writer.writerow(["name", "class", *axes])
    for point, name in enumerate(analysis.points.names):
        places = [float(value) for layout in analysis.layouts for value in layout.flat[point]]
        writer.writerow([name, analysis.points.class_name(point), *places])
    return text.getvalue()


@dataclass(frozen=True)
class Words:
    """The head of the page."""

    sentence: str
    evidence: str
    caveat: str


@dataclass(frozen=True)
class ShownLayout:
    """A scatter with its words."""

    scatter: Scatter
    title: str
    hint: str


def render_analysis(analysis: Analysis, splits: Splits, *, command: str = "") -> str:
    """Return the page's text: one offline file with one script of its own."""
    points = analysis.points
    h = analysis.layouts[0]
    return render_page(
        "analysis.html.j2",
        name=PurePath(analysis.name).name,
        words=headline(analysis),
        facts=_facts(analysis),
        layouts=[_shown(layout, analysis) for layout in analysis.layouts],
        missing=analysis.missing,
        map=picture_map(h.flat, points.thumbnails, points.names, points.labels, points.class_names),
        panels=shown_panels(analysis.panels),
        strips=gallery.strips(analysis.neighbours, splits),
        seed=analysis.seed,
        command=command,
    )


def headline(analysis: Analysis) -> Words:
    """Return what the page shows, in words: how often the nearest picture is of the same class."""
    h = analysis.layouts[0]
    kept = f"The plane keeps {_percent(h.kept)} of each picture's 10 nearest neighbours in h"
    if h.agreement is None or analysis.chance is None:
        many = numbers.plural(len(analysis.points), "picture")
        return Words(f"{many} on a plane, by what the encoder finds alike.", f"{kept}.", CAVEAT)
    z = next((one.agreement for one in analysis.layouts if one.layer == "z"), None)
    beside = f"in z for {_percent(z)}, " if z is not None else ""
    return Words(
        sentence=f"For {_percent(h.agreement)} of the pictures the nearest other in h is of the "
        f"same class; {beside}by chance for {_percent(analysis.chance)}.",
        evidence=f"Measured in the features of {numbers.plural(len(analysis.points), 'picture')}, "
        f"training pictures among them, not on the plane. {kept}.",
        caveat=CAVEAT,
    )


def _percent(share: float) -> str:
    return f"{numbers.percent(share)}{NBSP}%"


def _facts(analysis: Analysis) -> list[str]:
    many = numbers.plural(len(analysis.points), "picture")
    if len(analysis.points) < analysis.total:
        many += f", drawn from {numbers.count(analysis.total)}"
    classes = len(analysis.points.class_names)
    return [
        f"{analysis.data.removesuffix('/train')}: {many}",
        *([numbers.plural(classes, "class", "classes")] if classes else []),
        f"t-SNE, perplexity {analysis.layouts[0].perplexity:.0f}, from the principal components",
        f"seed {analysis.seed}",
    ]


def _shown(layout: Layout, analysis: Analysis) -> ShownLayout:
    titles = {"h": "h, the features", "z": "z, after the projection head"}
    agreement = (
        ""
        if layout.agreement is None
        else f"; nearest of the same class {_percent(layout.agreement)}"
    )
    hint = f"{_percent(layout.kept)} of the 10 nearest kept{agreement}"
    points = analysis.points
    words = f"{titles[layout.layer]} of {numbers.plural(len(points), 'picture')}: {hint}."
    return ShownLayout(
        scatter(place(layout.flat), points.labels, points.class_names, words),
        titles[layout.layer],
        hint,
    )
