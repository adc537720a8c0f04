"""From a study to its runs: which, in which order, and where they are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from looktwice import config as configuration
from looktwice.config import DURATIONS, Config
from looktwice.errors import DataError, UsageError
from looktwice.run import build_policy, open_data
from looktwice.study.definition import Study
from looktwice.study.measures import BASELINES, ENCODER, check_measures, is_score, needs_head
from looktwice.study.store import address
from looktwice.study.work import Task

DEFAULT_FOLDER: Final = Path("studies")
RUNS: Final = "runs"


@dataclass(frozen=True)
class Plan:
    """A study with its pictures and runs.

    Attributes:
        study: what is compared.
        data: the pictures' name.
        tasks: one a variant and seed, all variants of a seed before the next.
        seeds: how many.
        pictures: number of those to train on.
        folder: of the study's results.
    """

    study: Study
    data: str
    tasks: tuple[Task, ...]
    seeds: int
    pictures: int
    folder: Path


def plan(
    study: Study,
    *,
    data: str | None = None,
    seeds: int | Sequence[int] = 3,
    jobs: int = 1,
    folder: Path | None = None,
    settings: Mapping[str, object] | None = None,
) -> Plan:
    """Return the runs of a study.

    Args:
        study: what is compared.
        data: pictures; None takes those that the study names.
        seeds: seeds 0 to this - 1, or these, the same for every variant.
        jobs: processes at once, which share the cores.
        folder: where studies and their runs are kept; ``studies`` by default.
        settings: dotted keys over those of the study and all its variants.

    Raises:
        UsageError: no pictures named, no length in epochs or steps, or settings that contradict.
        DataError: the pictures cannot be opened.
    """
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    if not numbers:
        raise UsageError(f"--seeds is {seeds}; it must be at least 1")
    if jobs < 1:
        raise UsageError(f"--jobs is {jobs}; it must be at least 1")
    check_measures(study.measures, f"study {study.name}")
    source = data or study.data
    if not source:
        raise UsageError(f"study {study.name}: no pictures named; give --data FOLDER or NAME")
    place = folder or DEFAULT_FOLDER
    threads = max(1, (os.cpu_count() or 1) // jobs)
    over = {"data.source": source, "train.threads": threads, **(settings or {})}
    configs = {variant.name: _config(study, variant.settings, over) for variant in study.variants}
    splits = open_data(next(iter(configs.values())).data)
    scores = [name for name in study.measures if is_score(name)]
    if scores and splits.test is None:
        raise DataError(
            f"study {study.name} measures {scores[0]!r}, which needs labels, and {source!r} has "
            "none: put the pictures in one folder a class, or give measures such as 'rank'"
        )
    pictures = splits.train.fingerprint(), splits.fingerprint()
    tasks = tuple(
        _task(study, name, config, seed, place / RUNS, pictures)
        for seed in numbers
        for name, config in configs.items()
    )
    return Plan(study, source, tasks, len(numbers), len(splits.train), place / study.name)


def _config(study: Study, own: Mapping[str, object], over: Mapping[str, object]) -> Config:
    flags = configuration.laid_over(configuration.laid_over(study.settings, own), over)
    config = configuration.resolve(recipe=study.recipe, flags=flags, environ={})
    if config.train.minutes:
        raise UsageError(
            f"study {study.name}: its length must be in epochs or steps, which every machine "
            f"counts alike, not in minutes; set one of {' and '.join(DURATIONS[:2])}"
        )
    build_policy(config.augment)
    return config


def _task(
    study: Study, name: str, config: Config, seed: int, runs: Path, pictures: tuple[str, str]
) -> Task:
    trained_on, all_splits = pictures
    seeded = configuration.with_values(
        config,
        {"train.seed": seed, "train.monitor_every": 100000, "train.keep_last": 1},
    )
    has_head = config.model.head != "none"
    own = tuple(m for m in study.measures if has_head or not needs_head(m))
    wanted = {ENCODER: own}
    if name == study.reference:
        wanted |= dict.fromkeys(BASELINES, tuple(m for m in own if is_score(m, of_features=True)))
    return Task(name, seed, seeded, runs / address(seeded, trained_on), all_splits, wanted)


def shard(tasks: Sequence[Task], text: str | None) -> list[Task]:
    """Return this machine's share of the runs: every n-th, from "i/n", i from 1 to n.

    Raises:
        UsageError: another text.
    """
    if text is None:
        return list(tasks)
    number, _, total = text.partition("/")
    if not (number.isdigit() and total.isdigit() and 1 <= int(number) <= int(total)):
        raise UsageError(f"--shard is {text!r}; it must be i/n with 1 <= i <= n, such as 1/4")
    return list(tasks)[int(number) - 1 :: int(total)]
