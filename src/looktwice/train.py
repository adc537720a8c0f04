"""Training: from a configuration to a finished run folder, in one loop that reads top to bottom."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from looktwice import config as configuration
from looktwice import distributed, launched
from looktwice.build import Training, all_threads, build, settle, settle_micro_batch, with_steps
from looktwice.checkpoint import checkpoint_name, generator_tensors, load_generator_tensors
from looktwice.config import OWN, Config
from looktwice.console import TrainingConsole, clock, epoch_line
from looktwice.data import BadPicture, Batch, Splits, open_splits
from looktwice.errors import DataError, NotFiniteError, RunError, Stopped, UsageError
from looktwice.methods import OwnMethod
from looktwice.metrics import Health, health_verdict
from looktwice.models import encoder_bytes
from looktwice.optim import learning_rate
from looktwice.recovery import Progress, check_weights, restore, save
from looktwice.run import (
    IN_MEMORY,
    Run,
    check_free,
    check_pictures,
    create_run,
    exclusive,
    open_data,
    open_run,
    read_metrics,
)
from looktwice.stopping import StopRequest, stop_request
from looktwice.storage import append_line, remove_leftovers, write_atomic
from looktwice.tracking import tracked

CALIBRATION_SECONDS = 3.0
CALIBRATION_STEPS = 8


def pretrain(
    data: str | Path | np.ndarray | tuple[np.ndarray, np.ndarray],
    *,
    recipe: str | None = None,
    method: OwnMethod | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    file: TextIO | None = None,
) -> Path:
    """Learn an encoder from pictures, and return the run folder.

    Args:
        data: folder, name of a data set, or uint8 pictures (N, H, W) or (N, H, W, C), alone or
            with integer labels (N,); labels are used to watch training, and to train by supcon and
            supervised alone.
        recipe: name of a shipped recipe (`looktwice recipes`).
        method: makes a method of one's own from a backbone and a projection head; `resume` needs
            it again.
        out: new folder for the run; the next free ``runs/<recipe>-NNN`` by default.
        settings: dotted keys over the recipe, as in ``{"train.epochs": 20, "optim.base_lr": .4}``.
        file: where progress is printed; standard error by default.

    Returns:
        The run's folder; `load_encoder` takes it.

    Raises:
        UsageError: unknown or contradictory settings.
        DataError: pictures that are missing or unreadable.
        RunError: a run folder that exists or cannot be written, or too many steps in a row whose
            loss or gradient is not finite.
        Stopped: Ctrl-C, SIGTERM or SIGUSR1; `resume` goes on.
    """
    if isinstance(data, Path):  # never a name; `Path` drops the ./ that tells folders
        data = os.path.join(".", data)  # noqa: PTH118
    source = data if isinstance(data, str) else IN_MEMORY
    own = {"method.name": OWN} if method else {}
    values = {**own, **(settings or {}), "data.source": source}
    config = configuration.resolve(recipe=recipe, flags=values)
    configuration.check_used(config, values)
    splits = None if isinstance(data, str) else _open_arrays(data, config)
    given = f"recipe={recipe!r}, settings={dict(settings or {})}" + f", {method=}" * bool(method)
    command = f"looktwice.pretrain({source!r}, {given})"
    return start(
        config,
        Path(out) if out else None,
        splits=splits,
        own=method,
        command=command,
        file=file or sys.stderr,
    ).path


def _open_arrays(data: np.ndarray | tuple[np.ndarray, np.ndarray], config: Config) -> Splits:
    return open_splits(
        data,
        validation_fraction=config.data.validation_fraction,
        test_fraction=config.data.test_fraction,
        seed=config.data.split_seed,
    )


def start(
    config: Config,
    out: Path | None,
    *,
    command: str,
    file: TextIO,
    splits: Splits | None = None,
    own: OwnMethod | None = None,
) -> Run:
    """Resolve what the configuration leaves open, make the run folder, and train.

    Of several processes the first one writes and prints.
    """
    with _begun(config, file) as console:
        if distributed.is_first():
            check_free(out)
        splits = splits or open_data(config.data)
        pictures = _same_pictures(splits)
        config = settle_micro_batch(settle(config, splits), splits, own)
        if config.train.minutes:
            config = calibrate(config, splits, console, own)
        training = build(config, splits, own)
        run = _create_run(out, config, command=command, fingerprint=pictures)
        console.say(f"run {run.path}: {describe(training)}, {length(training)}")
        with _held(run), _tracked(run, training, 0):
            train(run, training, Progress(), console)
    return run


def _same_pictures(splits: Splits) -> str:
    """Return the fingerprint of the pictures, which every process has."""
    own = splits.train.fingerprint()
    if own != distributed.from_first(own):
        raise DataError(
            f"{splits.train.name!r} does not hold the same pictures here as for process 0; "
            "bring it up to date on every machine"
        )
    return own


def _create_run(out: Path | None, config: Config, *, command: str, fingerprint: str) -> Run:
    run = None
    if distributed.is_first():
        run = create_run(out, config, command=command, fingerprint=fingerprint)
    made = distributed.from_first(run)
    assert made is not None
    return made


@contextlib.contextmanager
def _begun(config: Config, file: TextIO) -> Iterator[TrainingConsole]:
    """Join the other processes, set torch up, and yield what prints."""
    with (
        _deterministic(config.train.deterministic),
        distributed.joined(config.train.device),
        _console(file) as console,
    ):
        yield console


@contextlib.contextmanager
def _deterministic(asked: bool) -> Iterator[None]:
    """Let torch use nothing but operations that give the same bits twice, if that is asked."""
    before = torch.get_deterministic_debug_mode()
    if asked:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch wants it on CUDA
        torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


@contextlib.contextmanager
def _console(file: TextIO) -> Iterator[TrainingConsole]:
    """Yield what prints: nothing in any process but the first."""
    with contextlib.ExitStack() as stack:
        if not distributed.is_first():
            file = stack.enter_context(Path(os.devnull).open("w"))
        yield stack.enter_context(TrainingConsole(file))


@contextlib.contextmanager
def _held(run: Run) -> Iterator[None]:
    """Hold the run in the first process, and remove what a kill left in it."""
    if not distributed.is_first():
        yield
        return
    with exclusive(run):
        for folder in (run.path, run.checkpoints):
            remove_leftovers(folder)
        yield


def _tracked(run: Run, training: Training, step: int) -> contextlib.AbstractContextManager[None]:
    if not distributed.is_first():
        return contextlib.nullcontext()
    settings = configuration.flatten(training.config)
    return tracked(training.tracker, run.path, settings, step)


def dry_run(config: Config, out: Path | None) -> str:
    """Open the data and build everything; return what a run would be. Writes nothing."""
    with distributed.joined(config.train.device):
        check_free(out)
        splits = open_data(config.data)
        config = settle_micro_batch(settle(config, splits), splits)
        if config.train.minutes:
            plan = describe(build(with_steps(config, 1), splits))
            return f"{plan}, {config.train.minutes:g} minutes: steps by calibration"
        training = build(config, splits)
        return f"{describe(training)}, {length(training)}"


def resume(
    path: str | Path,
    *,
    file: TextIO | None = None,
    splits: Splits | None = None,
    method: OwnMethod | None = None,
) -> Run:
    """Continue a run from its last checkpoint to the end it was started for.

    Args:
        path: the run folder.
        file: where progress is printed; standard error by default.
        splits: the pictures, where the run was started from arrays in memory.
        method: the method, where the run was started with one of one's own.

    Raises:
        UsageError: a method of one's own that is not given, or one that the run does not have.
        RunError: no run, no checkpoint that is whole, or pictures that are not those of the start.
        Stopped: as `pretrain`.
    """
    run, file = open_run(Path(path)), file or sys.stderr
    config = run.config()
    with _begun(config, file) as console:
        finished = run.summary_file.exists() and run.encoder_file.exists()
        if distributed.from_first(finished):
            console.say(f"{run.path} is finished: all {config.train.steps} steps are done")
            return run
        with _held(run):
            splits = splits or open_data(config.data)
            check_pictures(run, splits)
            distributed.wait_for_all()  # one may have had a million files to list
            training = build(_sharing_cores(config, console), splits, method)
            progress = restore(run, training, console)
            console.say(f"{run.path} goes on at step {progress.step} of {config.train.steps}")
            with _tracked(run, training, progress.step):
                train(run, training, progress, console)
    return run


def _sharing_cores(config: Config, console: TrainingConsole) -> Config:
    """Lower the threads of a run that goes on with more processes than it was begun with."""
    threads = all_threads()
    if launched.local_world_size() == 1 or config.train.threads <= threads:
        return config
    console.say(f"torch threads in each process: {threads} instead of {config.train.threads}")
    return configuration.with_values(config, {"train.threads": threads})


def describe(training: Training) -> str:
    """Return one line of what is about to be trained on what."""
    config, pictures = training.config.train, training.splits.train
    parameters = sum(p.numel() for p in training.method.backbone.parameters())
    classes = f"{len(pictures.class_names)} classes" if pictures.class_names else "unlabelled"
    return (
        f"{training.config.method.name}, {training.config.model.backbone} "
        f"({parameters / 1e6:.2f} M parameters), {len(pictures):,} pictures of {pictures.name} "
        f"({classes}, {'grey' if pictures.channels == 1 else 'colour'}), {training.device}, "
        f"{config.threads} thread{'s' if config.threads > 1 else ''}{_processes()}"
    )


def _processes() -> str:
    number = distributed.world_size()
    return f" in each of {number} processes" if number > 1 else ""


def length(training: Training) -> str:
    """Return the length of a run in words."""
    config = training.config.train
    return f"{config.steps:,} steps of {config.batch_size} ({training.num_epochs:.1f} epochs)"


def calibrate(
    config: Config, splits: Splits, console: TrainingConsole, own: OwnMethod | None = None
) -> Config:
    """Turn minutes into steps: train a throw-away copy for some seconds and count."""
    training = build(with_steps(config, 10**9), splits, own)
    begun = time.perf_counter()
    if distributed.is_first():
        training.monitor.measure(training.method, training.encoder)
    distributed.wait_for_first()
    per_measurement = time.perf_counter() - begun
    durations: list[float] = []
    with contextlib.closing(training.loader.batches(0, 10**9)) as batches:
        begun = time.perf_counter()
        for batch in batches:  # waiting for pictures counts
            train_step(training, batch, 0.0)
            begun, before = time.perf_counter(), begun
            durations.append(begun - before)
            enough = sum(durations) > CALIBRATION_SECONDS and len(durations) >= CALIBRATION_STEPS
            if distributed.any_process(enough):
                break
    per_step = statistics.mean(durations[CALIBRATION_STEPS // 2 :])
    per_epoch = training.loader.steps_per_epoch * per_step
    share = per_epoch / (per_epoch + per_measurement / config.train.monitor_every)
    budget = config.train.minutes * 60 - 2 * per_measurement
    steps = distributed.from_first(max(1, math.floor(share * budget / per_step)))
    console.say(
        f"calibrated: {per_step * 1e3:.0f} ms a step, so {config.train.minutes:g} minutes "
        f"are {steps:,} steps"
    )
    return with_steps(config, steps)


def train(run: Run, training: Training, progress: Progress, console: TrainingConsole) -> None:
    """Train from where `progress` stands to the end: the loop.

    Raises:
        RunError: too many steps in a row are not finite, or the run folder cannot be written.
        DataError: too many pictures cannot be read.
        Stopped: a signal came; the step under way left no trace, and what was done is saved.
    """
    config, loader = training.config.train, training.loader
    begun, waited = time.perf_counter() - progress.seconds, progress.waited
    training.method.train()
    with (
        stop_request() as stop,
        _saving_when_stopped(run, training, progress, console),
        _recording_bad_files(run, training, progress),
        contextlib.closing(loader.batches(progress.step, config.steps, stop.asked)) as batches,
    ):
        if epoch_ended(training, progress):  # of no step yet, or stopped while it was measured
            finish_epoch(run, training, progress, console, stop)
            if progress.step:
                save(run, training, progress, console)
        while progress.step < config.steps:
            batch = next(batches, None)  # None where this process is asked to stop
            stop.obey(batch is None)
            assert batch is not None
            exchange_bad_pictures(training, progress)
            rate = rate_after(training, progress.step)
            try:
                loss, top1 = train_step(training, batch, rate, stop.obey)
            except NotFiniteError as error:
                skip(run, training, progress, batch, error, console)
            else:
                progress.add(loss, top1)

            progress.step = batch.step + 1
            progress.seconds = time.perf_counter() - begun
            progress.waited = waited + loader.waited_seconds
            console.step(progress.step, config.steps)

            ended = epoch_ended(training, progress)
            if ended:
                finish_epoch(run, training, progress, console, stop)
            every = config.checkpoint_every
            due = progress.step % every == 0 if every else ended
            lost = progress.skipped_in_row > config.max_skipped
            finished = progress.step == config.steps
            if due or lost or finished or progress.best_step == progress.step:
                save(run, training, progress, console)
            if lost:
                raise RunError(_too_many_skipped(run, progress))
    finish(run, training, progress, console)


def train_step(
    training: Training, batch: Batch, rate: float, obey: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Take one optimiser step; return the loss and the contrastive top-1 in 0-1.

    Weights, statistics, queue and what else a step changes are changed together at its end.

    Args:
        training: what is trained.
        batch: this process's share of the step's pictures.
        rate: the learning rate.
        obey: called before each piece of the batch; raises to leave.

    Raises:
        NotFiniteError: the loss or a gradient is not finite; everything is left as it was.
        Stopped: from `obey`; everything is left as it was.
    """
    method, optimizer = training.method, training.optimizer
    for group in optimizer.param_groups:
        group["lr"] = rate
    views = tuple(
        torch.from_numpy(part).to(training.device).permute(0, 1, 4, 2, 3) for part in batch.views
    )
    labels, generators = _labels(training, batch), generator_tensors()
    try:
        loss, embedded = training.large_batch.backward(views, labels, step=batch.step, obey=obey)
    except (NotFiniteError, Stopped):
        load_generator_tensors(generators)
        raise
    except RuntimeError as error:
        if training.config.train.deterministic and "deterministic" in str(error):
            reason = str(error).split(". ")[0]
            raise UsageError(f"train.deterministic cannot be kept: {reason}") from error
        raise
    optimizer.step()
    method.after_step(embedded, (batch.step + 1) / training.config.train.steps)
    return loss.item(), method.top1(embedded)


def rate_after(training: Training, steps: int) -> float:
    """Return the learning rate of the step that follows some steps."""
    return learning_rate(
        steps,
        total_steps=training.config.train.steps,
        warmup_steps=training.warmup_steps,
        peak_lr=training.peak_lr,
        drops=training.drops,
    )


def epoch_ended(training: Training, progress: Progress) -> bool:
    """Tell whether an epoch is over, or the run, that was not measured and recorded yet."""
    finished = progress.step == training.config.train.steps
    ends = progress.step % training.loader.steps_per_epoch == 0 or finished
    return ends and progress.told < progress.step


def _labels(training: Training, batch: Batch) -> torch.Tensor | None:
    labels = training.splits.train.labels
    if not training.method.uses_labels or labels is None:
        return None
    return torch.from_numpy(labels[batch.shown]).to(training.device)


def skip(
    run: Run,
    training: Training,
    progress: Progress,
    batch: Batch,
    error: NotFiniteError,
    console: TrainingConsole,
) -> None:
    """Count, say and write down a step that was not taken, with all processes' pictures.

    Raises:
        RunError: the weights themselves are not finite: no step will ever be.
    """
    progress.skipped += 1
    progress.skipped_in_row += 1
    samples = [i for own in distributed.from_all(batch.shown.tolist()) for i in own]
    if distributed.is_first():
        _write_down(run, training, batch, samples, error, console)
    check_weights(training, progress)


def _write_down(
    run: Run,
    training: Training,
    batch: Batch,
    samples: list[int],
    error: NotFiniteError,
    console: TrainingConsole,
) -> None:
    names = [training.splits.train.identifier(index) for index in samples]
    record = {"step": batch.step + 1, "epoch": batch.epoch, "not_finite": error.what}
    append_line(run.skipped_file, json.dumps({**record, "samples": samples, "names": names}))
    console.say(f"{error} at step {batch.step + 1}: not taken; its pictures: {run.skipped_file}")


def _too_many_skipped(run: Run, progress: Progress) -> str:
    return (
        f"{progress.skipped_in_row} steps in a row up to step {progress.step} had a loss or a "
        f"gradient that is not finite and were not taken (pictures: {run.skipped_file}); the last "
        "good state is saved. Lower --optim.base-lr, or raise --method.temperature or "
        "--train.max-skipped"
    )


def finish_epoch(
    run: Run,
    training: Training,
    progress: Progress,
    console: TrainingConsole,
    stop: StopRequest,
) -> None:
    """Measure, record and print one epoch (0: the untrained network); start the next one's sums.

    Raises:
        Stopped: a signal came while it was measured; nothing is recorded.
    """
    config, loader = training.config, training.loader
    epoch = math.ceil(progress.step / loader.steps_per_epoch)
    finished = progress.step == config.train.steps
    measured = None
    if epoch % config.train.monitor_every == 0 or finished:
        if distributed.is_first():
            with contextlib.suppress(Stopped), stop.at_once():
                measured = training.monitor.measure(training.method, training.encoder)
        measured = distributed.from_first(measured)
        stop.obey(measured is None)
        assert measured is not None
        progress.untrained = progress.untrained or measured.health.as_dict()
    knn = measured.knn if measured else None
    if knn is not None and knn > progress.best_knn and progress.step > 0:
        progress.best_knn, progress.best_step = knn, progress.step
    means = progress.mean(progress.loss_sum), progress.mean(progress.top1_sum)
    progress.loss_sum = progress.top1_sum = 0.0
    progress.steps_summed = 0
    progress.told = progress.step
    if not distributed.is_first():
        return
    loss, top1 = means
    record = {
        "epoch": epoch,
        "step": progress.step,
        "loss": loss,
        "chance_loss": training.method.chance_loss(config.train.batch_size),
        "top1": top1,
        "learning_rate": rate_after(training, progress.step - 1) if progress.step else None,
        "temperature": config.method.temperature,
        "knn": knn,
        "knn_chance": training.monitor.knn_chance,
        "health": measured.health.as_dict() if measured else None,
        "verdict": _verdict(measured.health, training, progress) if measured else None,
        "time": _time_fields(training, progress),
    }
    append_line(run.metrics_file, json.dumps(record))
    left = progress.seconds * (config.train.steps / max(1, progress.step) - 1)
    line = epoch_line(record, num_epochs=math.ceil(training.num_epochs), seconds_left=left)
    console.say(line)
    append_line(run.log_file, line)
    training.tracker.write(record)


def _verdict(health: Health, training: Training, progress: Progress) -> str:
    steps = progress.step - training.warmup_steps
    return health_verdict(health, Health(**progress.untrained), steps=steps)


def _time_fields(training: Training, progress: Progress) -> dict[str, float]:
    """Return what depends on the clock, since the start; measuring and saving count as training."""
    seconds = max(progress.seconds, 1e-9)
    return {
        "seconds": round(progress.seconds, 3),
        "pictures_per_second": round(progress.step * training.config.train.batch_size / seconds, 1),
        "waiting_percent": round(100 * progress.waited / seconds, 2),
        "memory_mb": round(peak_memory_mb(), 1),
    }


def peak_memory_mb() -> float:
    """Return this process' largest resident memory so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


@contextlib.contextmanager
def _saving_when_stopped(
    run: Run, training: Training, progress: Progress, console: TrainingConsole
) -> Iterator[None]:
    try:
        yield
    except Stopped:
        saved = (run.checkpoints / checkpoint_name(progress.step)).exists()
        if not distributed.from_first(saved):
            save(run, training, progress, console)
        distributed.wait_for_first()  # it saves; torchrun ends all when one ends
        console.say(
            f"stopped after step {progress.step} of {training.config.train.steps}, saved; "
            f"continue with: looktwice resume {shlex.quote(str(run.path))}"
        )
        raise


def exchange_bad_pictures(training: Training, progress: Progress) -> None:
    """Let every process count the bad pictures of all: they stop where one alone would.

    Raises:
        DataError: there are too many.
    """
    loader = training.loader
    if distributed.any_process(len(loader.bad_pictures) > len(progress.bad_pictures)):
        found: dict[int, BadPicture] = {}
        for own in distributed.from_all(loader.bad_pictures):
            found |= own
        progress.bad_pictures = {
            str(index): [bad.identifier, bad.reason] for index, bad in sorted(found.items())
        }
        loader.add_bad(found)


def finish(run: Run, training: Training, progress: Progress, console: TrainingConsole) -> None:
    """Write the encoder and the run's totals, and say what can be done next."""
    if not distributed.is_first():
        return
    encoder = training.encoder
    write_atomic(run.encoder_file, encoder_bytes(encoder.backbone, encoder.spec))
    last = read_metrics(run)[-1]
    summary = {
        "steps": progress.step,
        "epochs": round(training.num_epochs, 3),
        "pictures": progress.step * training.config.train.batch_size,
        "verdict": last["verdict"],
        "labelled": training.splits.train.labels is not None,
        "best_step": progress.best_step if progress.best_step >= 0 else None,
        "bad_pictures": len(progress.bad_pictures),
        "skipped_steps": progress.skipped,
        "train_seconds": last["time"]["seconds"],
        "pictures_per_second": last["time"]["pictures_per_second"],
        "peak_memory_mb": last["time"]["memory_mb"],
        "waiting_percent": last["time"]["waiting_percent"],
    }
    write_atomic(run.summary_file, json.dumps(summary, indent=1))
    console.say(f"{last['verdict']}")
    console.say(f"trained in {clock(progress.seconds)}; encoder: {run.encoder_file}")


@contextlib.contextmanager
def _recording_bad_files(run: Run, training: Training, progress: Progress) -> Iterator[None]:
    try:
        yield
    finally:
        found = {**training.loader.skipped, **dict(progress.bad_pictures.values())}
        found |= {bad.identifier: bad.reason for bad in training.loader.bad_pictures.values()}
        if found and distributed.is_first():
            lines = (json.dumps({"path": p, "reason": r}) for p, r in sorted(found.items()))
            write_atomic(run.bad_files, "\n".join(lines) + "\n")
