"""What a study is: a small TOML file, read, checked, and spread out into its variants."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from looktwice import config as configuration
from looktwice.errors import UsageError, did_you_mean

FIGURES: Final = ("dots", "lines", "heatmap", "scatter", "bars")
ALSO: Final = ("negative-weights",)
SEPARATOR: Final = " · "
"""Between the values of several axes in a variant's name."""

_TEXTS: Final = ("title", "question", "source", "departs", "recipe", "data", "reference")
_TABLES: Final = ("settings", "axes", "variants", "pairs", "published", "figure", "paper")
_LISTS: Final = ("measures", "claims", "compare")


@dataclass(frozen=True)
class Variant:
    """One of the things that are compared.

    Attributes:
        name: unique within its study.
        values: its place on each axis, by the axis' name; empty for listed variants.
        settings: dotted keys over those of the study.
    """

    name: str
    values: Mapping[str, str]
    settings: Mapping[str, object]


@dataclass(frozen=True)
class Claim:
    """What a source says, as an order of variants: each `higher` is above each `lower`.

    Attributes:
        text: in words.
        higher: names of variants.
        lower: names of variants.
        measure: by which.
        against: by which the lower ones are measured; the same, unless layers are compared.
    """

    text: str
    higher: tuple[str, ...]
    lower: tuple[str, ...]
    measure: str
    against: str


@dataclass(frozen=True)
class Published:
    """The source's own numbers.

    Attributes:
        what: they are, in words, with their unit and conditions.
        values: by variant.
    """

    what: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Figure:
    """How a study is drawn.

    Attributes:
        kind: one of `FIGURES`.
        x: the axis, or the measure, along the page.
        lines: the axis whose values are lines or colours of their own.
        also: a second figure, one of `ALSO`.
    """

    kind: str = "dots"
    x: str = ""
    lines: str = ""
    also: str = ""


@dataclass(frozen=True)
class Study:
    """A study, ready to run.

    Attributes:
        name: of its file.
        title: in a few words.
        question: that it answers.
        source: where the question comes from.
        departs: where this differs from the source, and why.
        recipe: that every variant starts from.
        data: pictures it was made for; empty where they are the user's to name.
        settings: dotted keys over the recipe.
        variants: what is compared, in order.
        reference: name of the variant that the others are compared with.
        measures: what is measured, the main one first.
        compare: pairs of names that are compared beside those with the reference.
        claims: of the source.
        published: numbers of the source.
        figure: how it is drawn.
    """

    name: str
    title: str
    question: str
    source: str
    departs: str
    recipe: str
    data: str
    settings: Mapping[str, object]
    variants: tuple[Variant, ...]
    reference: str
    measures: tuple[str, ...]
    compare: tuple[tuple[str, str], ...]
    claims: tuple[Claim, ...]
    published: Published
    figure: Figure

    def variant(self, name: str) -> Variant:
        """Return a variant by its name."""
        return next(variant for variant in self.variants if variant.name == name)


def study_names() -> list[str]:
    """Return the names of the shipped studies, sorted."""
    folder = resources.files("looktwice.study") / "studies"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith("toml"))


def open_study(name: str, *, paper: bool = False) -> Study:
    """Read a shipped study by its name, or one's own from a TOML file.

    Args:
        name: of a shipped study, or the path of a file that ends in .toml.
        paper: in the size of its source, where the file has a table ``[paper]``.

    Raises:
        UsageError: no such study, or a file that is none, with what is wrong.
    """
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the study {path}: {error}") from error
        return read_study(text, path.stem, where=str(path), paper=paper)
    known = study_names()
    if name not in known:
        raise UsageError(
            f"no study is called {name!r}.{did_you_mean(name, known)} One's own is a file .toml"
        )
    text = (resources.files("looktwice.study") / "studies" / f"{name}.toml").read_text("utf-8")
    return read_study(text, name, where=f"study {name}", paper=paper)


def read_study(text: str, name: str, *, where: str, paper: bool = False) -> Study:
    """Read a study from TOML.

    ``recipe``, ``[settings]`` and what is compared make its runs: ``[axes]`` (every combination is
    a variant), ``[variants]`` (listed), or ``[pairs]`` (operations, alone and in unordered pairs,
    on one branch of two). All else has a default.

    Args:
        text: TOML.
        name: of the study.
        where: what errors call the file.
        paper: lay ``[paper]`` over the rest, entry by entry.

    Raises:
        UsageError: what is wrong, and where.
    """
    tables = _parsed(text, where)
    if paper:
        _lay_paper_over(tables, where)
    settings = configuration.checked_settings(tables.get("settings", {}), f"{where}, settings")
    variants = tuple(_variants(tables, where))
    _check_variants(variants, where)
    names = [variant.name for variant in variants]
    reference = str(tables.get("reference", names[0]))
    _check_names([reference], names, f"{where}, reference")
    measures = tuple(map(str, tables.get("measures", ["linear", "knn", "labels-10"])))
    return Study(
        name=name,
        title=str(tables.get("title", name)),
        question=str(tables.get("question", "")),
        source=str(tables.get("source", "")),
        departs=" ".join(str(tables.get("departs", "")).split()),
        recipe=str(tables.get("recipe", configuration.DEFAULT_RECIPE)),
        data=str(tables.get("data", "")),
        settings=settings,
        variants=variants,
        reference=reference,
        measures=measures,
        compare=tuple(_comparisons(tables.get("compare", []), names, where)),
        claims=tuple(_claims(tables.get("claims", []), names, measures, where)),
        published=_published(tables.get("published", {}), names, where),
        figure=_figure(tables.get("figure", {}), [*variants[0].values], measures, where),
    )


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not valid TOML: {error}") from None
    known = {
        **dict.fromkeys(_TEXTS, str), **dict.fromkeys(_TABLES, dict), **dict.fromkeys(_LISTS, list)
    }  # fmt: skip
    for key, value in tables.items():
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}.{did_you_mean(key, known)}")
        if not isinstance(value, known[key]):
            kinds = {str: "text", dict: "a table", list: "a list"}
            raise UsageError(f"{where}: {key} must be {kinds[known[key]]}, not {value!r}")
    return tables


def _lay_paper_over(tables: dict[str, Any], where: str) -> None:
    paper = tables.get("paper")
    if paper is None:
        raise UsageError(f"{where} has no size of its source: leave --paper out")
    able = ("recipe", "data", "measures", "settings", "axes", "variants", "pairs")
    for key, value in paper.items():
        if key not in able:
            raise UsageError(f"{where}, paper: unknown key {key!r}.{did_you_mean(key, able)}")
        whole = not isinstance(value, dict)
        tables[key] = value if whole else _entry_by_entry(tables.get(key, {}), value, key == "axes")


def _entry_by_entry(below: dict[str, Any], over: dict[str, Any], deep: bool) -> dict[str, Any]:
    """Return a table of which some entries, or with `deep` some of theirs, are others."""
    merged = dict(below)
    for name, value in over.items():
        merged[name] = {**below.get(name, {}), **value} if deep else value
    return merged


def _variants(tables: Mapping[str, Any], where: str) -> Iterator[Variant]:
    given = [kind for kind in ("axes", "variants", "pairs") if kind in tables]
    if not given or ("pairs" in given and len(given) > 1):
        raise UsageError(
            f"{where}: give what is compared as [axes], as [variants] or as [pairs]; "
            f"found {', '.join(given) or 'none'}"
        )
    for name, table in tables.get("variants", {}).items():
        yield Variant(name, {}, configuration.checked_settings(table, f"{where}, variant {name!r}"))
    if "axes" in tables:
        yield from _combinations(dict(_axes(tables["axes"], where)))
    if "pairs" in tables:
        yield from _pairs(tables["pairs"], where)


def _axes(
    axes: Mapping[str, Any], where: str
) -> Iterator[tuple[str, dict[str, Mapping[str, object]]]]:
    """Yield each axis: of named tables of settings, or of one key's values as they are."""
    for name, values in axes.items():
        if name in configuration.sections():
            for key, listed in values.items():
                if not isinstance(listed, list):
                    raise UsageError(f"{where}, axes: {name}.{key} must be a list of values")
                yield (
                    key,
                    {
                        _label(value): configuration.checked_settings({name: {key: value}}, where)
                        for value in listed
                    },
                )
        elif isinstance(values, dict) and values:
            yield (
                name,
                {
                    value: configuration.checked_settings(table, f"{where}, axis {name}, {value!r}")
                    for value, table in values.items()
                },
            )
        else:
            raise UsageError(f"{where}, axes: {name} must be a table of named settings")


def _label(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _combinations(axes: Mapping[str, Mapping[str, Mapping[str, object]]]) -> Iterator[Variant]:
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        settings: Mapping[str, object] = {}
        for axis, value in chosen.items():
            settings = configuration.laid_over(settings, axes[axis][value])
        yield Variant(SEPARATOR.join(values), chosen, settings)


def _pairs(table: Mapping[str, Any], where: str) -> Iterator[Variant]:
    """Yield every operation alone, then every unordered pair, on the first of two branches."""
    table = dict(table)
    size = table.pop("size", None)
    if not isinstance(size, int):
        raise UsageError(f"{where}, pairs: give the views' side as size = pixels")
    whole = {"name": "center-crop", "size": size}
    for first, second in itertools.combinations_with_replacement(table, 2):
        names = (first,) if first == second else (first, second)
        steps = [step for name in names for step in table[name]]
        crops = [step for step in steps if step["name"].endswith("crop")]
        others = [step for step in steps if not step["name"].endswith("crop")]
        views = [
            {"count": 1, "operations": [*(crops or [whole]), *others]},
            {"count": 1, "operations": [whole]},
        ]
        settings = configuration.checked_settings({"augment": {"views": views}}, where)
        yield Variant(" + ".join(names), {"first": first, "second": second}, settings)


def _check_variants(variants: tuple[Variant, ...], where: str) -> None:
    names = [variant.name for variant in variants]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"{where}: two variants are called {min(twice)!r}")
    for variant in variants:
        for key in ("data.source", "train.seed"):
            if key in variant.settings:
                raise UsageError(
                    f"{where}, variant {variant.name!r}: {key} is the same for all variants of a "
                    "study; leave it out"
                )


def _check_names(asked: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for name in asked:
        if name not in known:
            raise UsageError(f"{where}: no variant is called {name!r}.{did_you_mean(name, known)}")


def _claims(
    entries: Iterable[Mapping[str, Any]], names: list[str], measures: tuple[str, ...], where: str
) -> Iterator[Claim]:
    place = f"{where}, claims"
    for entry in entries:
        _check_keys(entry, ("text", "higher", "lower", "measure", "against"), place)
        higher, lower = (tuple(map(str, entry.get(end, ()))) for end in ("higher", "lower"))
        _check_names((*higher, *lower), names, place)
        if not (entry.get("text") and higher and lower):
            raise UsageError(f"{place}: a claim has a text, and names of variants higher and lower")
        measure = str(entry.get("measure", measures[0]))
        against = str(entry.get("against", measure))
        _check_measured((measure, against), measures, place)
        text = " ".join(str(entry["text"]).split())
        yield Claim(text, higher, lower, measure, against)


def _check_measured(asked: Iterable[str], measures: tuple[str, ...], where: str) -> None:
    """Raise UsageError for what is neither a measure of the study nor a part of one."""
    for name in asked:
        if not any(name == known or name.startswith(f"{known}-") for known in measures):
            raise UsageError(f"{where}: {name!r} is not measured.{did_you_mean(name, measures)}")


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}.{did_you_mean(key, known)}")


def _comparisons(entries: Iterable[Any], names: list[str], where: str) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2):
            raise UsageError(f"{where}, compare: pairs of names of variants are needed")
        _check_names(entry, names, f"{where}, compare")
        yield entry[0], entry[1]


def _published(table: Mapping[str, Any], names: list[str], where: str) -> Published:
    _check_keys(table, ("what", "values"), f"{where}, published")
    values = {str(name): float(value) for name, value in table.get("values", {}).items()}
    _check_names(values, names, f"{where}, published")
    return Published(str(table.get("what", "")), values)


def _figure(
    table: Mapping[str, Any], axes: list[str], measures: tuple[str, ...], where: str
) -> Figure:
    _check_keys(table, ("kind", "x", "lines", "also"), f"{where}, figure")
    figure = Figure(**table)
    if figure.kind not in FIGURES:
        raise UsageError(
            f"{where}: no figure is called {figure.kind!r}.{did_you_mean(figure.kind, FIGURES)}"
        )
    if figure.kind == "scatter":
        _check_measured([figure.x], measures, f"{where}, figure")
    for name in (figure.x, figure.lines) if figure.kind in ("lines", "heatmap") else ():
        if name not in axes:
            raise UsageError(
                f"{where}, figure: no axis is called {name!r}.{did_you_mean(name, axes)}"
            )
    if figure.also not in ("", *ALSO):
        raise UsageError(
            f"{where}: no second figure is called {figure.also!r}.{did_you_mean(figure.also, ALSO)}"
        )
    return figure
