"""The study ``policy``: which augmentation for one's own pictures, in a given time.

Every change of `edits` alone (leave one out, leave one in, strengths, crops, sides), then the best
of them together, by successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): many short
runs, of which the best are made again longer. All is chosen on validation, by few labels; where
there are none, by the effective rank of the features (RankMe, arXiv 2210.02885), which is weaker
evidence, and said so. At the end the policy found and the one it started from are trained with
fresh seeds, and measured on test pictures once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from looktwice import config as configuration
from looktwice.augment import Policy, to_toml
from looktwice.config import Config
from looktwice.data import Source
from looktwice.errors import RunError, UsageError
from looktwice.features import readable
from looktwice.run import build_policy, open_data
from looktwice.storage import write_atomic
from looktwice.study.definition import Variant, read_study
from looktwice.study.edits import Edit, as_settings, edited, edits
from looktwice.study.forecast import view_pixels
from looktwice.study.measures import ENCODER
from looktwice.study.planning import Plan, plan
from looktwice.study.results import Difference, Results, read_results
from looktwice.study.runner import probe, run_study
from looktwice.study.store import address
from looktwice.study.tables import write_results

START: Final = "the start"
KEPT: Final = (1 / 3, 1 / 3)
"""Share of the candidates that goes on after each rung."""
LONGER: Final = 3.0
"""How much longer the runs of the next rung are."""
PROOF_SEEDS: Final = (101, 102, 103, 104, 105)
"""Of the last comparison: they have chosen nothing. In equal time five seeds tell more than three
of longer runs: with three, Student's t alone makes the interval twice as wide."""
PROOF_FROM: Final = 0.5
"""Share of the time after which no run of the search is begun."""
MIN_EPOCHS: Final = 1.0
SAFETY: Final = 0.85
_OVERHEAD: Final = 15.0  # seconds a run that are no training
_COMBINED: Final = 4  # best changes, of which two or three are tried together
_ALONE: Final = 0.6  # share of a rung's places that are the last one's best
_LENGTH: Final = "length.json"
_STUDY: Final = """
title = "A policy for these pictures"
question = "Which augmentation teaches most about these pictures?"
[variants."the start"]
"""

Candidates = dict[str, tuple[Edit, ...]]
Scores = tuple[tuple[str, float], ...]
"""Candidates and what they reached on validation, the best first."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        name: of the policy, in words.
        policy: as TOML.
        gain: over the policy it started from, on test; None without labels, or if nothing was
            better on validation.
        rungs: the scores of each rung.
        epochs: length of each rung's runs.
        by_labels: whether few labels chose, or the effective rank.
        proof: the last comparison's plan and results, where there was one.
        recipe: file of settings for `looktwice pretrain --config`.
    """

    name: str
    policy: str
    gain: Difference | None
    rungs: tuple[Scores, ...]
    epochs: tuple[float, ...]
    by_labels: bool
    proof: tuple[Plan, Results] | None
    recipe: Path

    @property
    def sentence(self) -> str:
        """Say what was found, and whether it is better."""
        if self.name == START:
            return "Nothing that was tried is better on validation than the policy as it is."
        if self.gain is None:
            return (
                f"Found: {self.name}. There are no labels to prove it with: it was chosen by the "
                "effective rank of the features alone."
            )
        low, high = (100 * end for end in self.gain.estimate.interval)
        difference = f"{100 * self.gain.estimate.mean:+.1f} points [{low:+.1f}, {high:+.1f}]"
        if self.gain.words == "above":
            return f"Found: {self.name}. With 10 labels a class {difference} on test."
        return (
            f"Found: {self.name}, but on test it cannot be told to be better: {difference} with "
            "10 labels a class."
        )


@dataclass(frozen=True)
class Search:
    """A search for the policy that suits some pictures.

    Attributes:
        recipe: to start from.
        data: the pictures.
        minutes: for all of it, about.
        folder: of all studies.
        jobs: runs at once.
        settings: dotted keys over the recipe; no length.
        file: where progress is printed.
    """

    recipe: str
    data: str
    minutes: float
    folder: Path
    jobs: int
    settings: Mapping[str, object]
    file: TextIO

    def run(self) -> Found:
        """Search, and compare what was found with the start.

        Raises:
            UsageError: too little time for one epoch a run, or a length among the settings.
            DataError: the pictures cannot be opened.
        """
        begun = time.monotonic()
        base = self._config(self.settings, 1.0)
        splits = open_data(base.data)
        by_labels = splits.test is not None
        start = build_policy(base.augment)
        candidates: Candidates = {START: ()}
        tried = edits(start, splits.train.channels, _side(splits.train))
        candidates |= {edit.name: (edit,) for edit in tried}
        folder = self.folder / self._name(base, splits.train.fingerprint())
        epochs = _kept_epochs(folder) or self._epochs(
            base, len(splits.train), _cost(start, candidates), by_labels
        )
        write_atomic(folder / _LENGTH, json.dumps({"epochs": epochs}))
        self._say(len(candidates), epochs, by_labels)
        rungs: list[Scores] = []
        known = dict(candidates)
        for rung, kept in enumerate((*KEPT, 0.0)):
            left = (PROOF_FROM if by_labels else 1) * self.minutes - _minutes_since(begun)
            length = epochs * LONGER**rung
            made = self._plan(candidates, start, length, folder / f"rung-{rung}", by_labels)
            run_study(made, jobs=self.jobs, minutes=max(0.1, left), file=self.file)
            rungs.append(_scores(made))
            if not rungs[-1]:
                break
            candidates = _next(candidates, rungs[-1], math.ceil(kept * len(candidates)))
            known |= candidates
        name = _best(rungs)
        proof, length = None, epochs * LONGER ** len(KEPT)
        if by_labels and name != START:
            proof = self._prove({START: (), name: known[name]}, start, length, folder / "proof")
        policy = edited(start, known[name])
        return self._written(folder, name, policy, proof, tuple(rungs), by_labels, length)

    def _name(self, base: Config, pictures: str) -> str:
        """Return the search's folder: the same question goes on where it was stopped."""
        asked = f"{address(base, pictures)} {self.minutes:g} minutes"
        return f"policy-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"

    def _config(self, settings: Mapping[str, object], epochs: float) -> Config:
        if any(key in self.settings for key in configuration.DURATIONS):
            raise UsageError("study policy: the length of its runs follows from --minutes")
        flags = {**settings, "data.source": self.data, "train.epochs": round(epochs, 2)}
        return configuration.resolve(recipe=self.recipe, flags=flags, environ={})

    def _epochs(
        self, base: Config, pictures: int, candidates: Sequence[float], by_labels: bool
    ) -> float:
        """Return the length of the first rung's runs, so that all fits into the time.

        Args:
            base: the start's configuration.
            pictures: to train on.
            candidates: the work of each, the start's being 1.
            by_labels: whether a proof follows.
        """
        per_epoch = pictures / base.train.batch_size / probe(base)
        rungs = [len(candidates) * math.prod(KEPT[:rung]) for rung in range(len(KEPT) + 1)]
        proofs = 2 * len(PROOF_SEEDS) * by_labels
        mean = sum(candidates) / len(candidates)
        work = sum(mean * count * LONGER**rung for rung, count in enumerate(rungs))
        work += (1 + max(candidates)) / 2 * proofs * LONGER ** len(KEPT)  # the dearest may win
        overhead = (sum(rungs) + proofs) * _OVERHEAD
        epochs = SAFETY * (60 * self.minutes * self.jobs - overhead) / (work * per_epoch)
        if epochs < MIN_EPOCHS:
            needed = (MIN_EPOCHS * work * per_epoch / SAFETY + overhead) / self.jobs / 60
            raise UsageError(
                f"study policy: --minutes {self.minutes:g} are too few for one epoch a run of "
                f"these pictures; give at least {math.ceil(needed)}, fewer pictures, or a smaller "
                "network"
            )
        return epochs

    def _say(self, candidates: int, epochs: float, by_labels: bool) -> None:
        how = "10 labels a class" if by_labels else "effective rank, as there are no labels"
        print(
            f"study policy: {candidates} candidates, at first for {epochs:.3g} epochs each, "
            f"chosen on validation by {how}",
            file=self.file,
        )

    def _plan(
        self,
        candidates: Candidates,
        start: Policy,
        epochs: float,
        folder: Path,
        by_labels: bool,
        seeds: Sequence[int] = (0,),
    ) -> Plan:
        variants = tuple(
            Variant(candidate, {}, as_settings(edited(start, chosen)) if chosen else {})
            for candidate, chosen in candidates.items()
        )
        name = str(folder.relative_to(self.folder))
        study = read_study(_STUDY, name, where="study policy")
        study = dataclasses.replace(
            study,
            recipe=self.recipe,
            settings={**self.settings, "train.epochs": round(epochs, 2)},
            variants=variants,
            measures=("labels-10", "knn", "linear") if by_labels else ("rank",),
        )
        return plan(study, data=self.data, seeds=seeds, jobs=self.jobs, folder=self.folder)

    def _prove(
        self, two: Candidates, start: Policy, epochs: float, folder: Path
    ) -> tuple[Plan, Results]:
        """Train both with seeds that have chosen nothing, and compare them on test."""
        made = self._plan(two, start, epochs, folder, True, PROOF_SEEDS)
        failed = run_study(made, jobs=self.jobs, file=self.file)
        for run, why in failed.items():
            raise RunError(
                f"the policy found could not be proved: {run}: {why}; the same command goes on"
            )
        results = read_results(made)
        write_results(results, made.folder)
        return made, results

    def _written(
        self,
        folder: Path,
        name: str,
        policy: Policy,
        proof: tuple[Plan, Results] | None,
        rungs: tuple[Scores, ...],
        by_labels: bool,
        epochs: float,
    ) -> Found:
        """Write the policy, a recipe that uses it, and what was tried."""
        gain = None
        if proof is not None:
            row = next(row for row in proof[1].rows if row.name == name)
            gain = row.differences["labels-10"]
        recipe = folder / "recipe.toml"
        first = epochs / LONGER ** len(KEPT)
        lengths = tuple(first * LONGER**rung for rung in range(len(rungs)))
        found = Found(name, to_toml(policy), gain, rungs, lengths, by_labels, proof, recipe)
        with_policy = configuration.laid_over(self.settings, as_settings(policy))
        config = self._config(with_policy, epochs)
        note = f"# {found.sentence}\n"
        write_atomic(folder / "policy.toml", note + found.policy)
        write_atomic(recipe, note + configuration.to_toml(config))
        write_atomic(folder / "tried.json", json.dumps(found.rungs, indent=1))
        return found


def _kept_epochs(folder: Path) -> float | None:
    """Return the length that a search which was stopped had found."""
    try:
        return float(json.loads((folder / _LENGTH).read_text("utf-8"))["epochs"])
    except (OSError, ValueError, KeyError):
        return None


def _side(source: Source) -> int:
    """Return the shorter side of pictures, of the first that can be read where sizes differ."""
    size = source.picture_size
    if size is None:
        _, picture = next(readable(source))
        size = picture.shape[0], picture.shape[1]
    return min(size)


def _cost(start: Policy, candidates: Candidates) -> list[float]:
    """Return the pixels of each candidate's views relative to the start's."""
    return [
        view_pixels(edited(start, chosen)) / view_pixels(start) for chosen in candidates.values()
    ]


def _minutes_since(begun: float) -> float:
    return (time.monotonic() - begun) / 60


def _scores(made: Plan) -> Scores:
    """Return each candidate's score on validation, the best first; runs that failed have none."""
    measure = made.study.measures[0]
    scores = {}
    for task in made.tasks:
        record = task.measured().get(ENCODER, {}).get(measure, {})
        value = record.get("validation_accuracy", record.get("value"))
        if value is not None:
            scores[task.variant] = float(value)
    return tuple(sorted(scores.items(), key=lambda score: -score[1]))


def _next(candidates: Candidates, scores: Scores, many: int) -> Candidates:
    """Return the best candidates, the start among them, and the best changes together.

    The changes together take at most 40 % of the places.
    """
    ranked = [name for name, _ in scores]
    kept = {name: candidates[name] for name in ranked[: math.ceil(_ALONE * many)]}
    kept.setdefault(START, ())
    before = ranked.index(START) if START in ranked else len(ranked)
    better = [candidates[name] for name in ranked[:before]][:_COMBINED]
    for size in range(2, _COMBINED):
        for together in itertools.combinations(better, size):
            chosen = tuple(dict.fromkeys(edit for part in together for edit in part))
            kinds = {edit.kind for edit in chosen}
            if len(kinds) == len(chosen) and len(kept) < many:
                kept[", ".join(edit.name for edit in chosen)] = chosen
    return kept


def _best(rungs: Sequence[Scores]) -> str:
    """Return the best of the last rung in which anything finished."""
    last: Scores = next((scores for scores in reversed(rungs) if scores), ())
    return last[0][0] if last else START
