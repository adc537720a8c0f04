"""What is evaluated: an encoder, the pictures, and the networks it is compared with."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from looktwice import config as configuration
from looktwice.augment import Policy, policy
from looktwice.build import best_device, open_device, untrained_encoder
from looktwice.config import Config
from looktwice.data import Data, Source, Splits, open_splits
from looktwice.errors import DataError, RunError, UsageError
from looktwice.estimator import open_encoder
from looktwice.models import Encoder, build_backbone, read_encoder
from looktwice.run import (
    Run,
    build_policy,
    check_pictures,
    open_data,
    open_run,
    pictures_of,
)

MAX_BAD = 0.01  # share of unreadable pictures, where no run says otherwise


@dataclass(frozen=True)
class Subject:
    """What is evaluated, on what.

    Attributes:
        name: what a person calls it.
        encoder: in eval mode, on `device`.
        splits: the pictures.
        untrained: the same network before any training; None where it cannot be built.
        initial: the network at the run's starting weights (`model.init`), if it had any.
        policy: of the views that learning saw: the run's own, SimCLR's for other encoders.
        device: where networks compute.
        run: that is evaluated; None for an encoder file or a foreign encoder.
        trained_on: fingerprint of the pictures that the encoder learnt from; None: not known.
        folder: where unfinished work is kept, to go on after a kill; None: nowhere.
        max_bad: share of unreadable pictures that is taken.
        threads: that read pictures, 1 or more.
        scaled_decoding: whether JPEGs are decoded no larger than views need.
    """

    name: str
    encoder: Encoder
    splits: Splits
    untrained: Encoder | None
    initial: Encoder | None
    policy: Policy
    device: torch.device
    run: Run | None = None
    trained_on: str | None = None
    folder: Path | None = None
    max_bad: float = MAX_BAD
    threads: int = 1
    scaled_decoding: bool = True

    @property
    def networks(self) -> dict[str, Encoder]:
        """The encoder and what it is compared with, by row, the encoder first."""
        named = {"encoder": self.encoder, "initial": self.initial, "untrained": self.untrained}
        return {name: network for name, network in named.items() if network is not None}

    def labelled(self) -> tuple[Source, Source, Source]:
        """Return train, validation and test.

        Raises:
            DataError: there are no labels.
        """
        for name in ("train", "validation", "test"):
            part = getattr(self.splits, name)
            if part is None or part.labels is None:
                raise DataError(
                    f"{self.splits.train.name!r} has no labels to measure with ({name}): put the "
                    "pictures in one folder a class; `looktwice report` shows health without labels"
                )
        assert self.splits.test is not None
        return self.splits.train, self.splits.validation, self.splits.test

    def trained_here(self) -> bool:
        """Return whether the encoder is known to have learnt from these very pictures."""
        return self.splits.train.fingerprint() == self.trained_on

    def need_run(self, protocol: str) -> Run:
        """Return the run, for a protocol that cannot do without (UsageError: there is none)."""
        if self.run is None:
            raise UsageError(
                f"protocol {protocol} needs a run of looktwice, which {self.name} is not: give a "
                "run folder"
            )
        return self.run


def open_subject(
    target: str | Path,
    *,
    data: Data | None = None,
    weights: Path | None = None,
    image_size: int | None = None,
    device: str = "auto",
    splits: Splits | None = None,
) -> Subject:
    """Open what a user names.

    Args:
        target: a run folder, an ``encoder.safetensors`` file, or a foreign encoder.
        data: pictures to evaluate on; None takes those of the run.
        weights: file of weights for a network of another library; see `open_encoder`.
        image_size: side in pixels at which pictures enter an encoder that is no run's.
        device: where networks compute; ``auto`` is the best there is.
        splits: the pictures of a run that was started from arrays in memory.

    Raises:
        RunError: there is no run, it has not finished, or the file is no encoder.
        DataError: the pictures cannot be opened or do not fit the encoder.
        UsageError: no such target, weights that do not fit it, no pictures, or no such device.
    """
    place = open_device(best_device() if device == "auto" else device)
    path = Path(target)
    if path.is_dir() and weights is None:
        if image_size is not None:
            raise UsageError(f"--image-size: the run {path} has its own; give its encoder file")
        return _of_run(open_run(path), data, splits, place)
    encoder = open_encoder(str(target), weights=weights, image_size=image_size)
    return _foreign(str(target), encoder, data, splits, place)


def _of_run(run: Run, data: Data | None, splits: Splits | None, device: torch.device) -> Subject:
    if not run.encoder_file.exists():
        raise RunError(f"{run.path} has no encoder yet; finish it: looktwice resume {run.path}")
    config = run.config()
    torch.set_num_threads(config.train.threads)
    if data is None:
        splits = splits or open_data(config.data)
        check_pictures(run, splits)
    else:
        splits = _open_other(config, data)
    encoder = read_encoder(run.encoder_file)
    check_channels(str(run.path), encoder, splits.train)
    untrained, initial = _starts(config, encoder.spec.channels)
    return Subject(
        name=str(run.path),
        encoder=encoder.to(device),
        splits=splits,
        untrained=untrained.to(device),
        initial=None if initial is None else initial.to(device),
        policy=build_policy(config.augment),
        device=device,
        run=run,
        trained_on=pictures_of(run),
        max_bad=config.data.max_bad,
        threads=max(1, config.data.threads),
        scaled_decoding=config.data.scaled_decoding,
    )


def _open_other(config: Config, data: Data) -> Splits:
    """Open other pictures, split as the run's: they may be its own by another name."""
    if isinstance(data, str | os.PathLike):
        source, own = str(data), config.data.source
        # A list of classes is one of the folder that the run was trained on.
        classes = config.data.classes if os.path.realpath(source) == os.path.realpath(own) else ""
        return open_data(dataclasses.replace(config.data, source=source, classes=classes))
    return open_splits(
        data,
        validation_fraction=config.data.validation_fraction,
        test_fraction=config.data.test_fraction,
        seed=config.data.split_seed,
    ).over(config.data.alpha)


def _starts(config: Config, channels: int) -> tuple[Encoder, Encoder | None]:
    """Return the network at random weights, and at its starting weights if it had any."""
    if not config.model.init:
        return untrained_encoder(config, channels), None
    initial = untrained_encoder(config, channels)
    at_random = configuration.with_values(config, {"model.init": ""})
    return untrained_encoder(at_random, channels), initial


def _foreign(
    target: str,
    encoder: Encoder,
    data: Data | None,
    splits: Splits | None,
    device: torch.device,
) -> Subject:
    if data is None and splits is None:
        raise UsageError(f"no pictures named to evaluate {target} on: give --data FOLDER or NAME")
    home = _home(Path(target))
    if splits is None:
        assert data is not None
        splits = open_splits(data) if home is None else _open_other(home.config(), data)
    check_channels(target, encoder, splits.train)
    return Subject(
        name=target,
        encoder=encoder.to(device),
        splits=splits,
        untrained=_at_random(encoder).to(device),
        initial=None,
        policy=policy("simclr", size=encoder.spec.image_size),
        device=device,
        trained_on=None if home is None else pictures_of(home),
    )


def _home(target: Path) -> Run | None:
    """Return the run whose encoder file is evaluated; None for other files and networks."""
    run = Run(target.parent)
    return run if target == run.encoder_file and run.config_file.is_file() else None


def _at_random(encoder: Encoder) -> Encoder:
    spec = encoder.spec
    torch.manual_seed(0)
    backbone = build_backbone(spec.backbone, channels=spec.channels, small_stem=spec.small_stem)
    return Encoder(backbone.to(memory_format=torch.channels_last), spec).eval()


def check_channels(name: str, encoder: Encoder, source: Source) -> None:
    """Raise DataError where the encoder cannot take the pictures; grey ones fit every encoder."""
    if source.channels not in (1, encoder.spec.channels):
        raise DataError(
            f"{name} takes grey pictures, and those of {source.name!r} are in colour: "
            "evaluate it on grey ones, or train an encoder of colour pictures"
        )
