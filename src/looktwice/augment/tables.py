"""Policies as tables and TOML text, and back: names and numbers, nothing that is executed."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from looktwice.augment.operations import CenterCrop, Crop, Operation, RandomResizedCrop, Resize
from looktwice.augment.policy import MAX_VIEWS, Policy, View
from looktwice.config import toml_value
from looktwice.errors import UsageError, did_you_mean

Table = dict[str, Any]


def to_tables(policy: Policy) -> list[Table]:
    """Return one table for each run of equal views: their `count` and their `operations`."""
    tables: list[Table] = []
    for v, view in enumerate(policy.views):
        if v > 0 and view == policy.views[v - 1]:
            tables[-1]["count"] += 1
        else:
            tables.append({"count": 1, "operations": [_to_table(step) for step in view]})
    return tables


def from_tables(tables: Sequence[Any], where: str = "policy") -> Policy:
    """Return the policy that `to_tables` described; fields left out take their defaults.

    Operations of one's own are known once the module that defines them has been imported.

    Raises:
        UsageError: another structure, an unknown name, or a value out of its range.
    """
    views: list[View] = []
    for number, table in enumerate(tables):
        here = f"{where}: views[{number}]"
        if not isinstance(table, Mapping) or not isinstance(table.get("operations"), list):
            raise UsageError(f"{here} must be a table with a list of operations")
        if unknown := sorted(table.keys() - {"count", "operations"}):
            raise UsageError(f"{here} has {unknown[0]!r}; it takes count and operations")
        count = table.get("count", 1)
        if type(count) is not int or not 1 <= count <= MAX_VIEWS:
            raise UsageError(f"{here}.count must be 1 to {MAX_VIEWS}, found {count!r}")
        steps = [
            _from_table(step, f"{here}.operations[{place}]")
            for place, step in enumerate(table["operations"])
        ]
        views += [tuple(steps)] * count
    return Policy(tuple(views))


def to_toml(policy: Policy) -> str:
    """Return a policy as TOML text that `from_toml` reads back to an equal one."""
    lines = []
    for table in to_tables(policy):
        lines += ["[[views]]", f"count = {table['count']}", "operations = ["]
        lines += [f"    {toml_value(step)}," for step in table["operations"]]
        lines += ["]", ""]
    return "\n".join(lines)


def from_toml(text: str, where: str = "policy") -> Policy:
    """Return the policy of a TOML text (UsageError: not valid, or as `from_tables`)."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not valid TOML: {error}") from None
    if set(tables) != {"views"} or not isinstance(tables["views"], list):
        raise UsageError(f"{where}: a policy consists of [[views]] alone, found {sorted(tables)}")
    return from_tables(tables["views"], where)


def _known() -> dict[str, type[Crop | Operation]]:
    kinds = [RandomResizedCrop, CenterCrop, Resize, *Operation.__subclasses__()]
    return {kind.name: kind for kind in kinds if hasattr(kind, "name")}


def _to_table(step: Crop | Operation) -> Table:
    values = {f.name: getattr(step, f.name) for f in dataclasses.fields(cast(Any, step))}
    # TOML knows no null: None is the default wherever it is allowed.
    return {"name": step.name} | {name: v for name, v in values.items() if v is not None}


def _from_table(table: Any, where: str) -> Crop | Operation:
    known = _known()
    found = table.get("name") if isinstance(table, Mapping) else table
    if not isinstance(table, Mapping) or not isinstance(found, str) or found not in known:
        raise UsageError(
            f"{where}: no operation is called {found!r}.{did_you_mean(str(found), known)}"
        )
    kind = known[table["name"]]
    takes = [field.name for field in dataclasses.fields(cast(Any, kind))]
    values = {name: _frozen(value) for name, value in table.items() if name != "name"}
    for name in values:
        if name not in takes:
            raise UsageError(
                f"{where}: {kind.name} has no {name!r}; it has {', '.join(takes)}."
                f"{did_you_mean(name, takes)}"
            )
    try:
        return kind(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    except TypeError as error:  # a field without a default is missing
        raise UsageError(f"{where}: {kind.name}: {error}") from None


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
