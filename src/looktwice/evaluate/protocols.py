"""The protocols by name, and what `looktwice eval` does with one: measure, write, keep."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from looktwice.data import Data, Splits
from looktwice.errors import RunError, UsageError, did_you_mean
from looktwice.evaluate import cached, finetune, health, layers, linear_head, lost, twin
from looktwice.evaluate.fitting import fingerprint
from looktwice.evaluate.run import about_encoder, table
from looktwice.evaluate.subject import Subject, open_subject
from looktwice.storage import write_atomic

OPTIONS: Final = ("seeds", "epochs", "variant")


@dataclass(frozen=True)
class Protocol:
    """A protocol.

    Attributes:
        run: measures a subject, given a seed and the options it takes; returns what is ready for
            JSON.
        takes: which `OPTIONS`, beside the seed.
        show: the result in words, for a terminal.
    """

    run: Callable[..., dict[str, Any]]
    takes: tuple[str, ...] = ()
    show: Callable[[dict[str, Any]], str] = table


def _health(subject: Subject, *, seed: int = 0) -> dict[str, Any]:
    """Measure health without labels on validation, before and after a run's projection head."""
    has_head = subject.run is not None and layers.has_head(subject.run.config())
    return health.health_report(
        subject.encoder,
        subject.splits.validation,
        subject.policy,
        seed=seed,
        untrained=subject.untrained,
        project=layers.projection_head(subject, "health") if has_head else None,
    )


PROTOCOLS: Final[Mapping[str, Protocol]] = {
    "standard": Protocol(cached.standard),
    "knn": Protocol(cached.knn),
    "linear": Protocol(linear_head.run, ("seeds", "epochs", "variant")),
    "linear-fast": Protocol(cached.linear_fast),
    "finetune": Protocol(finetune.run, ("seeds", "epochs")),
    "few-label": Protocol(cached.few_label, ("seeds",)),
    "transfer": Protocol(cached.transfer),
    "supervised": Protocol(twin.run),
    "layers": Protocol(layers.run),
    "lost": Protocol(lost.run),
    "health": Protocol(_health, show=lambda report: "\n".join(health.lines(report))),
}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_target` found.

    Attributes:
        result: ready for JSON.
        file: where it is; None where it is nowhere.
        kept: whether it was there before, and nothing was measured.
    """

    result: dict[str, Any]
    file: Path | None
    kept: bool


def evaluate_target(
    target: str | Path,
    protocol: str,
    *,
    data: Data | None = None,
    weights: Path | None = None,
    image_size: int | None = None,
    out: Path | None = None,
    again: bool = False,
    device: str = "auto",
    splits: Splits | None = None,
    seed: int = 0,
    **options: Any,
) -> Evaluation:
    """Measure an encoder by one protocol, and write what is found.

    That of a run goes to ``evaluations/<protocol>[-<data>].json`` in its folder. A measurement
    that is there already with the same settings is kept and returned. One with trainings of its own
    (linear, finetune, supervised) that was killed goes on, where its result has a place.

    Args:
        target: a run folder, or an encoder file.
        protocol: one of `PROTOCOLS`.
        data: pictures; None takes those of the run.
        weights: file of a foreign encoder's weights.
        image_size: side in pixels at which pictures enter an encoder that is no run's.
        out: another place for the result.
        again: measure anew what is there already.
        device: where networks compute; ``auto`` is the best there is.
        splits: the pictures of a run that was started from arrays in memory.
        seed: 0 or more.
        options: what the protocol takes beside it; None stands for its default.

    Raises:
        UsageError: an unknown protocol, or an option that it does not take.
        RunError: no run, no encoder, or another measurement in the place of this one.
        DataError: pictures that are missing or do not fit.
    """
    chosen = check_protocol(protocol)
    given = check_options(protocol, chosen, options)
    subject = open_subject(
        target, data=data, weights=weights, image_size=image_size, device=device, splits=splits
    )
    settings = {
        "protocol": protocol,
        "seed": seed,
        **given,
        "pictures_sha256": subject.splits.fingerprint(),
        "weights_sha256": fingerprint(subject.encoder),
        "image_size": subject.encoder.spec.image_size,
    }
    if subject.run is not None and data is not None and subject.trained_here():
        data = None
    file = out or _place(subject, protocol, data is not None)
    if file is not None and file.exists() and not again:
        return Evaluation(_kept(file, settings), file, kept=True)
    begun = time.perf_counter()
    folder = None if file is None else file.with_name(f".{file.stem}-unfinished")
    found = chosen.run(dataclasses.replace(subject, folder=folder), seed=seed, **given)
    result = {
        **settings,
        "target": subject.name,
        "encoder": about_encoder(subject),
        **found,
        "seconds": round(time.perf_counter() - begun, 1),
    }
    if file is not None and folder is not None:
        write_atomic(file, json.dumps(result, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
    return Evaluation(result, file, kept=False)


def check_protocol(name: str) -> Protocol:
    """Return the protocol of a name.

    Raises:
        UsageError: there is none; the nearest name is told.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"unknown protocol {name!r}.{did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def check_options(name: str, protocol: Protocol, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given.

    Raises:
        UsageError: the protocol does not take one of them, or its value is too small.
    """
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in protocol.takes:
            able = [other for other, p in PROTOCOLS.items() if option in p.takes]
            raise UsageError(
                f"--{option} has no effect on protocol {name}: leave it out; {', '.join(able)} "
                "take it"
            )
        if option in ("seeds", "epochs") and value <= 0:
            raise UsageError(f"--{option} is {value}; it must be above 0")
    return given


def _place(subject: Subject, protocol: str, other_data: bool) -> Path | None:
    if subject.run is None:
        return None
    name = f"{protocol}-{_file_name(subject.splits.train.name)}" if other_data else protocol
    return subject.run.path / "evaluations" / f"{name}.json"


def _file_name(text: str) -> str:
    """Return the last part of a path or name, without what file names do not take."""
    last = text.rstrip("/").rsplit("/", 1)[-1]
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in last)


def _kept(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read a result back, if it is that of the same settings, encoder and pictures."""
    try:
        result: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is no result of an evaluation ({error}); move it away") from error
    for key in (*OPTIONS, *settings):
        if result.get(key) != settings.get(key):
            raise RunError(
                f"{file} holds another measurement, of {key} {result.get(key)} and not "
                f"{settings.get(key)}: --again replaces it, --out FILE writes elsewhere"
            )
    return result
