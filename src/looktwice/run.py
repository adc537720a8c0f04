"""The run folder: what it holds, and how its data and policy are opened again."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from looktwice import config as configuration
from looktwice import launched
from looktwice.augment import Policy, from_tables, policy
from looktwice.config import VIEWS, AugmentConfig, Config, DataConfig
from looktwice.data import Splits, open_splits
from looktwice.errors import DataError, RunError, UsageError
from looktwice.storage import alone, check_writable, write_atomic

DEFAULT_FOLDER = Path("runs")
IN_MEMORY = "arrays in memory"


@dataclass(frozen=True)
class Run:
    """A run folder; every path in it has one name, here."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The resolved configuration; its presence makes a folder a run."""
        return self.path / "config.toml"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        """One JSON object an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def log_file(self) -> Path:
        """One line an epoch, as on the terminal."""
        return self.path / "train.log"

    @property
    def encoder_file(self) -> Path:
        """The trained encoder."""
        return self.path / "encoder.safetensors"

    @property
    def summary_file(self) -> Path:
        """Totals of a finished training."""
        return self.path / "summary.json"

    @property
    def environment_file(self) -> Path:
        """Versions and machine."""
        return self.path / "environment.json"

    @property
    def evaluation_file(self) -> Path:
        """What `looktwice eval` found."""
        return self.path / "evaluation.json"

    @property
    def bad_files(self) -> Path:
        """Pictures that could not be read."""
        return self.path / "bad_files.jsonl"

    @property
    def skipped_file(self) -> Path:
        """Steps that were not taken, each with its pictures."""
        return self.path / "skipped.jsonl"

    def config(self) -> Config:
        """Read the resolved configuration."""
        return configuration.load(self.config_file)


def create_run(path: Path | None, config: Config, *, command: str, fingerprint: str) -> Run:
    """Make a new run folder with its configuration and environment.

    Args:
        path: where; None takes the next free ``runs/<recipe>-NNN``.
        config: resolved configuration.
        command: what reproduces the run.
        fingerprint: of the training pictures.

    Raises:
        RunError: the folder exists and is not empty, or cannot be written.
    """
    run = Run(_claim(path) if path else next_free(DEFAULT_FOLDER, config.recipe))
    together = {"processes": launched.world_size()}
    facts = {**environment(command), **together, "pictures": fingerprint}
    with exclusive(run):
        check_free(run.path)  # another start with the same --out may have been faster
        try:
            write_atomic(run.environment_file, json.dumps(facts, indent=1))
            write_atomic(run.config_file, configuration.to_toml(config))  # last: now it is a run
        except RunError:
            run.environment_file.unlink(missing_ok=True)  # the same --out can be given again
            raise
    return run


def check_free(path: Path | None) -> None:
    """Raise RunError when a run folder could not be made at `path`, or at the default place."""
    try:
        if path:
            _check_free(path)
        check_writable(path or DEFAULT_FOLDER)
    except OSError as error:
        raise RunError(f"cannot make {path}: {error.strerror}; choose another --out") from error


def _check_free(path: Path) -> None:
    if (path / "config.toml").is_file():
        raise RunError(
            f"{path} holds a run already and is left as it is; choose another --out, "
            f"or continue it: looktwice resume {shlex.quote(str(path))}"
        )
    empty = path.is_dir() and all(map(_before_config, path.iterdir()))
    if not empty and (path.exists() or path.is_symlink()):
        raise RunError(f"{path} exists already and is left as it is; choose another --out")


def _before_config(path: Path) -> bool:
    """Tell whether a start that was killed before the folder was a run left this behind."""
    return path.name.startswith(("environment.json", ".environment.json.", ".config.toml."))


def _claim(path: Path) -> Path:
    check_free(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {path}: {error.strerror}; choose another --out") from error
    return path


def next_free(folder: Path, name: str) -> Path:
    """Make and return the first of ``folder/name-001``, ``-002``, … that is not there.

    Raises:
        RunError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = folder / f"{name}-{number:03d}"
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise RunError(f"cannot make a run in {folder}: {error.strerror}; give --out") from error
    raise AssertionError("unreachable")


def open_run(path: Path) -> Run:
    """Open an existing run folder.

    Raises:
        RunError: there is no run at `path`.
    """
    run = Run(path)
    if not path.exists():
        raise RunError(f"no run at {path}: there is no such folder")
    if not run.config_file.is_file():
        raise RunError(f"no run at {path}: it has no config.toml")
    return run


@contextlib.contextmanager
def exclusive(run: Run) -> Iterator[None]:
    """Hold a run folder, so that no second process trains in it.

    Raises:
        RunError: another process holds it.
    """
    with alone(run.path, f"{run.path} is being trained by another process; wait for it"):
        yield


def pictures_of(run: Run) -> str:
    """Return the fingerprint of the pictures a run was started with (RunError: it is not told)."""
    try:
        pictures: str = json.loads(run.environment_file.read_text("utf-8"))["pictures"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{run.environment_file} does not tell which pictures the run was started with "
            f"({type(error).__name__}); bring it back, or start a new run"
        ) from error
    return pictures


def check_pictures(run: Run, splits: Splits) -> None:
    """Raise RunError when the pictures are not those the run was started with."""
    if splits.train.fingerprint() != pictures_of(run):
        raise RunError(
            f"{run.config().data.source} does not hold the pictures {run.path} was started with; "
            "bring them back, or start a new run"
        )


def environment(command: str) -> dict[str, Any]:
    """Return versions and machine as the run records them."""
    packages = ("torch", "numpy", "numba", "timm", "pillow", "safetensors")
    return {
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "looktwice": metadata.version("looktwice"),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """Return the epochs recorded so far, as `read_lines`."""
    return read_lines(run.metrics_file)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return a file's records, oldest first; lines that a crash or a disk hurt are left out."""
    if not file.exists():
        return []
    records = []
    for line in file.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def open_data(config: DataConfig) -> Splits:
    """Open the pictures a configuration names, split as it says.

    Raises:
        UsageError: no source is named.
        DataError: it cannot be opened.
    """
    if not config.source:
        raise UsageError("no pictures named: give --data FOLDER or --data NAME")
    if config.source == IN_MEMORY:
        raise DataError(
            "the run was trained on arrays in memory: name pictures by --data, or give them again, "
            "in Python, as data of looktwice.evaluate.evaluate_target, or, with labels as at the "
            "start, as splits of looktwice.train.resume"
        )
    return open_splits(
        config.source,
        root=config.root or None,
        classes=config.classes,
        download=config.download,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        seed=config.split_seed,
    ).over(config.alpha)


def build_policy(config: AugmentConfig) -> Policy:
    """Build the augmentation policy a configuration names, or gives as views."""
    if config.views:
        own = from_tables(_tables(config.views), VIEWS)
        if own.size != config.size:
            raise UsageError(
                f"the first view of {VIEWS} has {own.size} px, but --size is {config.size}: "
                "make them equal"
            )
        return own
    given: dict[str, Any] = {
        key: None if value == "auto" else value
        for key, value in dataclasses.asdict(config).items()
        if key not in ("policy", "size", "views")
    }
    return policy(config.policy, size=config.size, **given)


def _tables(text: str) -> list[Any]:
    try:
        tables = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{VIEWS}: not valid JSON: {error}") from None
    if not isinstance(tables, list):
        raise UsageError(f"{VIEWS}: a list of tables is needed, found {text[:40]}")
    return tables


def command_line() -> str:
    """Return the command of this process as one would type it."""
    name = Path(sys.argv[0]).name
    start = ["python", "-m", "looktwice"] if name == "__main__.py" else [name]
    return shlex.join(start + sys.argv[1:])
