"""How long the runs of a study will take."""

from __future__ import annotations

import statistics
from typing import final

from looktwice.augment import Policy
from looktwice.config import Config
from looktwice.run import build_policy

_MEASURING = 6.0  # seconds a run that are no training, at first guess


@final
class Forecast:
    """Expects runs to take as long as others of as much work.

    Args:
        pictures: to train on.
        known: a configuration that was tried.
        steps_per_second: that it made.
    """

    def __init__(self, pictures: int, known: Config, steps_per_second: float) -> None:
        self._pictures = pictures
        self._work_a_second = known.train.batch_size * _cost(known) * steps_per_second
        self._done: list[tuple[float, float]] = []  # work, seconds
        self._measured: list[float] = []  # seconds

    def seconds(self, config: Config, *, trained: bool = False) -> float:
        """Return the seconds a run is expected to take, or the measuring of a trained one."""
        if trained:
            return statistics.mean(self._measured or [_MEASURING])
        if not self._done:
            return self._work(config) / self._work_a_second + _MEASURING
        works, seconds = zip(*self._done, strict=True)
        return self._work(config) * float(sum(seconds) / sum(works))

    def learn(self, config: Config, seconds: float, *, trained: bool = False) -> None:
        """Take note of what a run took, or the measuring of one that was trained before."""
        if trained:
            self._measured.append(seconds)
        else:
            self._done.append((self._work(config), seconds))

    def _work(self, config: Config) -> float:
        """Return the pixels of all views of a run."""
        steps = config.train.steps or (
            config.train.epochs * self._pictures / config.train.batch_size
        )
        return steps * config.train.batch_size * _cost(config)


def _cost(config: Config) -> float:
    return view_pixels(build_policy(config.augment))


def view_pixels(policy: Policy) -> float:
    """Return the pixels of all views of a picture: what a network's work grows with."""
    return sum(size**2 * len(views) for size, views in policy.groups.items())
