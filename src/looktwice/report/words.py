"""What the page says first: does it work, by how much, can it be trusted, what next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from looktwice.report import numbers
from looktwice.report.figures import row_name
from looktwice.report.numbers import NBSP
from looktwice.report.record import Record, RunRecord, finite

SHORT_RUN = 10  # epochs below which a run is called short
FEW_TEST_PICTURES = 500  # below this an interval is wider than most differences


@dataclass(frozen=True)
class Verdict:
    """The head of the page; empty strings are left out.

    Attributes:
        sentence: the answer, in words and numbers.
        evidence: the interval and what it was measured on.
        caveat: the one that matters most.
        advice: what to do next, followed by code to copy.
    """

    sentence: str
    evidence: str
    caveat: str
    advice: str
    code: str


def verdict(run: RunRecord) -> Verdict:
    """Return what a reader should know after ten seconds."""
    headline = (run.evaluation or {}).get("headline")
    caveat = next(_caveats(run), "")
    if not run.evaluation or not headline:
        return _unproven(run, caveat)
    accuracy, places = _headline_accuracy(run.evaluation)
    title = str(_protocol(run.evaluation, headline["protocol"]).get("title", ""))
    baseline = row_name(headline["better_baseline"])
    better = headline["interval"][0] > 0
    advice, code = _next_step(run, better)
    return Verdict(
        sentence=f"{capital(with_title(title))}: {accuracy}, "
        f"{_compared(headline, places, baseline)}.",
        evidence=_evidence(run.evaluation, places),
        caveat=caveat,
        advice=advice,
        code=code,
    )


def facts(run: RunRecord) -> list[str]:
    """Return data, recipe, time and machine, each as a few words."""
    data = (run.evaluation or {}).get("data") or {}
    source = data.get("name") or run.settings.get("data.source")
    sizes = ", ".join(f"{numbers.count(data[part])} {part}" for part in _PARTS if data.get(part))
    place = run.environment
    seconds = finite(run.summary.get("train_seconds"))
    known = [
        f"{source}{f' ({sizes} pictures)' if sizes else ''}" if source else "",
        f"recipe {run.settings['recipe']}" if run.settings.get("recipe") else "",
        _network(run),
        f"{numbers.duration(seconds)} of training" if seconds is not None else "",
        _machine(run),
        numbers.day(str(place["created"])) if place.get("created") else "",
    ]
    return [fact for fact in known if fact]


def health(run: RunRecord) -> list[str]:
    """Return what is known without labels, as sentences."""
    said = [sentence(run.health_verdict)] if run.health_verdict else []
    bound, ceiling = (finite(run.health.get(f"infonce_{end}")) for end in ("bound", "ceiling"))
    if bound is not None and ceiling is not None and bound > 0:
        said.append(
            f"The two views of a picture share at least {numbers.fixed(bound)} nats of "
            f"information, of {numbers.fixed(ceiling)} that this measure can show "
            "(InfoNCE bound and its ceiling)."
        )
    return said


def cost(run: RunRecord) -> list[tuple[str, str]]:
    """Return (what, figure with unit) of a run's cost, as far as it was recorded."""
    summary, evaluation = run.summary, run.evaluation or {}
    rows = [
        ("Training", summary.get("train_seconds"), numbers.duration),
        ("Evaluation", evaluation.get("seconds"), numbers.duration),
        ("Speed", summary.get("pictures_per_second"), lambda v: f"{numbers.count(v)} pictures/s"),
        ("Waiting for data", summary.get("waiting_percent"), lambda v: f"{v:.1f} % of the time"),
        ("Memory at its peak", summary.get("peak_memory_mb"), lambda v: f"{numbers.count(v)} MB"),
        ("Pictures seen", summary.get("pictures"), numbers.count),
        ("Epochs", summary.get("epochs"), lambda v: f"{v:g}"),
        ("Steps", summary.get("steps"), numbers.count),
    ]
    return [
        (name, write(number))
        for name, value, write in rows
        if (number := finite(value)) is not None
    ]


def sentence(text: str) -> str:
    """Return a remark with a capital and a full stop."""
    return f"{capital(text.rstrip('.'))}."


def capital(text: str) -> str:
    """Return text with its first letter large."""
    return text[:1].upper() + text[1:]


_PARTS = ("train", "validation", "test")


def _network(run: RunRecord) -> str:
    encoder = (run.evaluation or {}).get("encoder") or {}
    name = encoder.get("backbone") or run.settings.get("model.backbone")
    size = f", {encoder['dimensions']} features" if encoder.get("dimensions") else ""
    return f"{name}{size}" if name else ""


def _machine(run: RunRecord) -> str:
    threads = run.settings.get("train.threads")
    many = f", {numbers.plural(int(threads), 'thread')}" if threads else ""
    device = str(run.settings.get("train.device") or "")
    on_cpu = device in ("", "auto", "cpu")
    name = str(run.environment.get("cpu") or "") if on_cpu else device
    return f"{name}{many}" if name else ""


def again(run: RunRecord) -> list[str]:
    """Return the commands that repeat a run: as it was typed, and step for step."""
    exact = f"looktwice pretrain --config {_config(run)} --out {_sibling(run, 'again')}"
    typed = str(run.environment.get("command") or "")
    return [*([typed] if typed else []), exact]


def _config(run: RunRecord) -> str:
    return shlex.quote(f"{run.folder}/config.toml")


def _sibling(run: RunRecord, suffix: str) -> str:
    return shlex.quote(f"{run.folder}-{suffix}")


def _protocol(evaluation: Record, name: str) -> Record:
    for protocol in evaluation.get("protocols") or []:
        if protocol["name"] == name:
            return dict(protocol)
    return {}


def with_title(title: str) -> str:
    """Return a protocol's title as a sentence takes it: 10 labels a class, with "with" before."""
    return f"with {title}" if title[:1].isdigit() else title


def _headline_accuracy(evaluation: Record) -> tuple[str, int]:
    headline = evaluation["headline"]
    row = _protocol(evaluation, headline["protocol"]).get("rows", {}).get("encoder", {})
    places = numbers.decimals(row.get("interval") or headline["interval"])
    spread = finite(headline.get("sd"))
    text = f"{numbers.percent(headline['accuracy'], places)}{NBSP}%"
    return text + (
        f"{NBSP}±{NBSP}{numbers.percent(spread, places)}" if spread is not None else ""
    ), places


def _compared(headline: Record, places: int, baseline: str) -> str:
    low, high = headline["interval"]
    size = numbers.percent(abs(headline["difference"]), places)
    if low > 0:
        return f"{size}{NBSP}points above {baseline}, the better baseline"
    if high < 0:
        return f"{size}{NBSP}points below {baseline}"
    direction = "above" if headline["difference"] >= 0 else "below"
    return f"{size}{NBSP}points {direction} {baseline}, but the interval includes zero"


def _evidence(evaluation: Record, places: int) -> str:
    headline = evaluation["headline"]
    row = _protocol(evaluation, headline["protocol"]).get("rows", {}).get("encoder", {})
    bounds = numbers.interval(headline["interval"], places, signed=True)
    test = numbers.plural(evaluation["data"]["test"], "test picture")
    draws = row.get("draws") or 1
    text = (
        f"95 % interval of the difference: {bounds} points, on {test} never used to choose anything"
    )
    if draws > 1 and finite(headline.get("sd")) is not None:
        text += f"; ± is the standard deviation over {draws} draws of labels"
    return text + "."


def _caveats(run: RunRecord) -> Iterator[str]:
    """Yield caveats, the weightiest first."""
    health = run.health_verdict
    if run.trained and health and not health.startswith("healthy"):
        yield f"Health warning: {health.rstrip('.')}."
    broken = [epoch for epoch in run.trained if not _loss_is_finite(epoch)]
    if broken:
        yield f"The loss was not a finite number in {numbers.plural(len(broken), 'epoch')}."
    test = ((run.evaluation or {}).get("data") or {}).get("test")
    if test and test < FEW_TEST_PICTURES:
        yield f"Only {numbers.plural(test, 'test picture')}: the intervals are wide."
    headline = (run.evaluation or {}).get("headline") or {}
    note = _protocol(run.evaluation or {}, str(headline.get("protocol"))).get("note")
    if note:
        yield f"The labels were {note}."
    bad = len(run.bad_files) or int(run.summary.get("bad_pictures") or 0)
    if bad:
        replaced = "was replaced" if bad == 1 else "were replaced"
        yield f"{numbers.plural(bad, 'picture')} could not be read and {replaced}."
    epochs = finite(run.summary.get("epochs"))
    if epochs is not None and epochs < SHORT_RUN:
        length = f"{round(epochs, 1):g} {'epoch' if epochs == 1 else 'epochs'}"
        yield f"A short run, of {length}: longer ones usually gain."
    if not run.summary:
        yield "Training has not finished: this is the state of the run so far."


def _loss_is_finite(epoch: Record) -> bool:
    return "loss" not in epoch or finite(epoch["loss"]) is not None


def _next_step(run: RunRecord, better: bool) -> tuple[str, str]:
    folder = str(run.folder)
    if better:
        code = f"import looktwice\nencoder = looktwice.load_encoder({folder!r})"
        return "To use it:", code
    return "To train again, for longer:", _longer(run)


def _longer(run: RunRecord) -> str:
    epochs = finite(run.summary.get("epochs"))
    flag = f"--epochs {max(1, round(3 * epochs))}" if epochs else "--epochs 100"
    return f"looktwice pretrain --config {_config(run)} {flag} --out {_sibling(run, 'longer')}"


def _unproven(run: RunRecord, caveat: str) -> Verdict:
    health = run.health_verdict
    if not run.trained:
        sentence = "Nothing was learnt yet: no epoch is finished."
    elif health.startswith("healthy"):
        sentence = "Training looks healthy, but nothing is proven: this run was not evaluated."
    else:
        sentence = "Nothing is proven: this run was not evaluated."
    return Verdict(
        sentence=sentence,
        evidence=""
        if not health.startswith("healthy")
        else f"Without labels: {health.rstrip('.')}.",
        caveat=caveat,
        advice="With labelled pictures, measure it beside raw pixels and the untrained network:",
        code=f"looktwice eval {shlex.quote(str(run.folder))}",
    )
