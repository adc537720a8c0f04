"""The page that compares runs: which is best and by how much, and in what they differ."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from looktwice.errors import RunError, UsageError
from looktwice.evaluate.scoring import unpack
from looktwice.evaluate.statistics import COVERAGE, gain_interval, over_pictures
from looktwice.report import figures, numbers, versus, words
from looktwice.report.numbers import NBSP
from looktwice.report.record import Record, RunRecord, read_run
from looktwice.report.templating import render_page
from looktwice.report.versus import Compared
from looktwice.storage import write_atomic

MOST = 8  # runs: more lines in one plot cannot be told apart; `looktwice study` compares more


def compare_runs(folders: Sequence[Path], out: Path | None = None, *, command: str = "") -> Path:
    """Write a page that compares runs and return its path.

    Args:
        folders: of 2 to `MOST` runs; what is missing of one is left out, and the page says so.
        out: a new HTML file; None takes the next free ``comparison-001.html``.
        command: what the page says it was made by.

    Raises:
        UsageError: fewer or more runs, one of them twice, or another ending.
        RunError: no such run, runs that were evaluated on different pictures, or a file that is
            there already or cannot be written.
    """
    if not 2 <= len(folders) <= MOST:
        raise UsageError(f"{len(folders)} runs to compare: give 2 to {MOST}")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("a run cannot be compared with itself: one is given twice")
    path = _new_file(out)
    page = render_comparison([read_run(folder) for folder in folders], command=command)
    write_atomic(path, page)
    return path


def _new_file(out: Path | None) -> Path:
    if out is None:
        names = (Path(f"comparison-{number:03d}.html") for number in itertools.count(1))
        return next(path for path in names if not path.exists())
    if out.suffix != ".html":
        raise UsageError(f"--out is {str(out)!r}; it must end in .html")
    if out.exists() or out.is_symlink():
        raise RunError(f"{out} exists already and is left as it is; choose another --out")
    if not out.parent.is_dir():
        raise RunError(f"cannot write {out}: there is no folder {out.parent}")
    return out


def render_comparison(records: Sequence[RunRecord], *, command: str = "") -> str:
    """Return the page's text.

    Raises:
        RunError: runs that were evaluated on different pictures.
    """
    runs = _named(records)
    evaluated = [one for one in runs if one.run.evaluation]
    _check_pictures(evaluated)
    standing = _standing(evaluated) if len(evaluated) > 1 else None
    return render_page(
        "comparison.html.j2",
        runs=runs,
        standing=standing,
        verdict=_verdict(runs, standing),
        facts=_facts(runs),
        dots=versus.dots(standing.ranked, standing.protocols, standing.headline)
        if standing
        else None,
        tables=_tables(standing) if standing else [],
        unevaluated=[one.name for one in runs if not one.run.evaluation],
        panels=versus.curves(runs),
        health=[(one.name, words.sentence(one.run.health_verdict)) for one in runs
                if one.run.health_verdict],
        differing=_differing(runs),
        unknown_settings=[one.name for one in runs if not one.run.settings],
        cost=_cost(runs),
        again=[(one.name, words.again(one.run)) for one in runs],
        command=command,
    )  # fmt: skip


def _named(records: Sequence[RunRecord]) -> list[Compared]:
    """Name runs by their folders, or by their whole paths where two folders share a name."""
    short = [record.folder.resolve().name for record in records]
    names = short if len(set(short)) == len(short) else [str(r.folder) for r in records]
    return [
        Compared(name, f"run-{number}", record)
        for number, (name, record) in enumerate(zip(names, records, strict=True))
    ]


def _check_pictures(runs: Sequence[Compared]) -> None:
    for one, other in itertools.pairwise(runs):
        ours, theirs = ((each.run.evaluation or {})["data"] for each in (one, other))
        same = all(ours.get(key) == theirs.get(key) for key in ("classes", "test"))
        marks = [data.get("test_sha256") for data in (ours, theirs)]
        if not same or (all(marks) and marks[0] != marks[1]):
            raise RunError(
                f"{one.run.folder} and {other.run.folder} were evaluated on different test "
                f"pictures ({_pictures(ours)}; {_pictures(theirs)}): their accuracies say nothing "
                "about each other"
            )


def _pictures(data: Record) -> str:
    classes = numbers.plural(len(data["classes"]), "class", "classes")
    return f"{numbers.count(data['test'])} of {data['name']}, {classes}"


@dataclass(frozen=True)
class Gap:
    """The best run minus another, with its interval."""

    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Standing:
    """Evaluated runs, best first by few labels.

    Attributes:
        ranked: the runs.
        headline: name of the protocol that ranks them.
        protocols: that all of them have, few labels first.
        gaps: the best minus each other run, by protocol and run; None where hits of pictures
            were not kept, and only intervals can be compared.
        coverage: of each interval, so that all pairs together have 95 %.
    """

    ranked: tuple[Compared, ...]
    headline: str
    protocols: tuple[str, ...]
    gaps: Mapping[str, Mapping[str, Gap]] | None
    coverage: float

    def apart(self, other: Compared) -> bool:
        """Whether the best is told apart from another run, by the headline's protocol."""
        if self.gaps is not None:
            return self.gaps[self.headline][other.name].interval[0] > 0
        rows = [row_of(one, self.headline) for one in (self.ranked[0], other)]
        return bool(rows[0]["interval"][0] > rows[1]["interval"][1])


def row_of(one: Compared, protocol: str) -> Record:
    """Return a run's own row in a protocol."""
    row: Record = versus.entry(one.run, protocol)["rows"]["encoder"]
    return row


def _standing(runs: Sequence[Compared]) -> Standing:
    first = runs[0].run.evaluation or {}
    common = set.intersection(*(_protocol_names(one) for one in runs))
    protocols = [str(p["name"]) for p in figures.protocols_in_order(first) if p["name"] in common]
    if not protocols:
        raise RunError(f"{runs[0].run.folder} and the others share no protocol of evaluation")
    wanted = str((first.get("headline") or {}).get("protocol"))
    headline = wanted if wanted in protocols else protocols[0]
    ranked = sorted(runs, key=lambda one: -row_of(one, headline)["accuracy"])
    pairs = len(runs) * (len(runs) - 1) / 2
    coverage = 1 - (1 - COVERAGE) / pairs
    paired = all("right" in versus.entry(one.run, name) for one in runs for name in protocols)
    gaps = {name: _gaps(ranked, name, coverage) for name in protocols} if paired else None
    return Standing(tuple(ranked), headline, tuple(protocols), gaps, coverage)


def _protocol_names(one: Compared) -> set[str]:
    return {protocol["name"] for protocol in (one.run.evaluation or {})["protocols"]}


def _gaps(ranked: Sequence[Compared], protocol: str, coverage: float) -> dict[str, Gap]:
    """Return the first run minus each other, paired by test pictures and draws of labels."""
    test = (ranked[0].run.evaluation or {})["data"]["test"]
    best, *others = (
        unpack(versus.entry(one.run, protocol)["right"], test).astype(float) for one in ranked
    )
    found = {}
    for one, other in zip(ranked[1:], others, strict=True):
        gain = over_pictures(best - other)
        found[one.name] = Gap(gain.mean, gain_interval(gain, best.shape[1], coverage))
    return found


@dataclass(frozen=True)
class Verdict:
    """The head of the page; empty strings are left out."""

    sentence: str
    evidence: str = ""
    caveat: str = ""


def _verdict(runs: Sequence[Compared], standing: Standing | None) -> Verdict:
    if standing is None:
        missing = next(one for one in runs if not one.run.evaluation)
        some = any(one.run.evaluation for one in runs)
        return Verdict(
            f"Which is best cannot be said: {'only one' if some else 'none'} of these runs was "
            "evaluated.",
            f"With labelled pictures: looktwice eval {shlex.quote(str(missing.run.folder))}",
        )
    return Verdict(_sentence(standing), _evidence(standing), " ".join(_caveats(runs, standing)))


def _sentence(standing: Standing) -> str:
    best, *others = standing.ranked
    close = [one.name for one in others if not standing.apart(one)]
    title = words.with_title(str(versus.entry(best.run, standing.headline)["title"]))
    value = versus.value(row_of(best, standing.headline)).replace(" ", NBSP)
    if not close:
        second = others[0]
        reached = [row_of(one, standing.headline)["accuracy"] for one in (best, second)]
        return (
            f"{words.capital(title)}, {best.name} is best: {value}{NBSP}%, "
            f"{numbers.percent(reached[0] - reached[1])}{NBSP}points above {second.name}."
        )
    among = numbers.listed([best.name, *close])
    rest = len(others) - len(close)
    beyond = f"; the other {'one is' if rest == 1 else f'{rest} are'} worse" if rest else ""
    return f"{words.capital(title)}, {among} cannot be told apart{beyond}."


def _evidence(standing: Standing) -> str:
    best, *others = standing.ranked
    data = (best.run.evaluation or {})["data"]
    test = numbers.plural(data["test"], "test picture")
    if standing.gaps is None:
        each = [
            f"{one.name} {versus.value(row_of(one, standing.headline))}" for one in standing.ranked
        ]
        return f"{'; '.join(each)} %, on {test}."
    gaps = standing.gaps[standing.headline]
    each = [f"minus {one.name} {_gap(gaps[one.name])}" for one in others]
    together = " for all pairs together" if len(others) > 1 else ""
    return (
        f"In points, {best.name} {'; '.join(each)}: 95 % interval{together}, of differences on "
        f"the same {test}."
    )


def _gap(gap: Gap) -> str:
    places = numbers.decimals(gap.interval)
    bounds = numbers.interval(gap.interval, places, signed=True)
    return f"{numbers.points(gap.difference, places)} [{bounds}]"


def _caveats(runs: Sequence[Compared], standing: Standing) -> list[str]:
    said = []
    if standing.gaps is None:
        without = [
            one.run.folder
            for one in standing.ranked
            if any("right" not in versus.entry(one.run, name) for name in standing.protocols)
        ]
        again = " && ".join(f"looktwice eval {shlex.quote(str(folder))}" for folder in without)
        said.append(
            "Intervals are compared, not pictures one by one, which would tell smaller "
            f"differences: some evaluations lack what that takes. To have it: {again}"
            f"{'' if again.endswith('.') else '.'}"
        )
    seen = {one.run.summary.get("pictures") for one in runs} - {None}
    if len(seen) > 1:
        said.append("The runs were not trained equally long.")
    said.append(
        "Each is one run: another seed moves a run too, and no interval here holds that; "
        "looktwice study compares over seeds."
    )
    return said


def _facts(runs: Sequence[Compared]) -> list[str]:
    evaluated = [one.run.evaluation for one in runs if one.run.evaluation]
    sources = {str(one.run.settings.get("data.source") or "") for one in runs} - {""}
    data = [f"tested on {_pictures(evaluated[0]['data'])}"] if evaluated else sorted(sources)
    machines = sorted({str(one.run.environment.get("cpu") or "") for one in runs} - {""})
    return [numbers.plural(len(runs), "run"), *data, *machines]


@dataclass(frozen=True)
class TableRow:
    """A run, or a baseline, in one protocol."""

    name: str
    kind: str
    value: str
    interval: str
    gap: str


def _tables(standing: Standing) -> list[tuple[str, list[TableRow]]]:
    """Return each protocol's title and rows: runs as ranked, then the baselines of the first."""
    best = standing.ranked[0]
    tables = []
    for name in standing.protocols:
        gaps = (standing.gaps or {}).get(name, {})
        rows = [
            _table_row(one.name, one.kind, row_of(one, name), gaps.get(one.name))
            for one in standing.ranked
        ]
        found = versus.entry(best.run, name)
        rows += [
            _table_row(figures.row_name(row), "", found["rows"][row], None)
            for row in found["rows"]
            if row != "encoder"
        ]
        tables.append((str(found["title"]), rows))
    return tables


def _table_row(name: str, kind: str, row: Record, gap: Gap | None) -> TableRow:
    places = numbers.decimals(row.get("interval"))
    bounds = numbers.interval(row["interval"], places) if row.get("interval") else ""
    return TableRow(name, kind, versus.value(row), bounds, _gap(gap) if gap else "")


def _differing(runs: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    """Return settings that are not equal in all runs: key, and each run's value."""
    settings = [one.run.settings for one in runs if one.run.settings]
    keys = dict.fromkeys(key for values in settings for key in values)
    rows = []
    for key in keys:
        values = [one.run.settings.get(key, "") for one in runs]
        known = [one.run.settings.get(key, "") for one in runs if one.run.settings]
        if any(value != known[0] for value in known):
            rows.append((key, [_setting(value) for value in values]))
    return rows


def _setting(value: object) -> str:
    return "not set" if value == "" else str(value)


def _cost(runs: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    """Return what was recorded of any run's cost: what, and each run's figure."""
    costs = [dict(words.cost(one.run)) for one in runs]
    names = dict.fromkeys(name for cost in costs for name in cost)
    return [(name, [cost.get(name, "–") for cost in costs]) for name in names]
