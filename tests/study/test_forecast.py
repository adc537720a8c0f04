"""Runs are expected to take as long as others of as much work, and measuring as long as measuring."""

import pytest

from looktwice.config import resolve
from looktwice.study.forecast import Forecast


def config(**flags):
    settings = {"train.batch_size": 50, "train.epochs": 4.0, "augment.size": 16} | {
        key.replace("_", ".", 1): value for key, value in flags.items()
    }
    return resolve(recipe="simclr-tiny", flags=settings, environ={})


def test_work_is_the_pixels_of_all_views():
    forecast = Forecast(1000, config(), steps_per_second=10.0)
    training = forecast.seconds(config(train_epochs=8.0)) - forecast.seconds(config())
    assert training == pytest.approx(8.0), "4 epochs of 20 steps more, at 10 a second"
    larger = forecast.seconds(config(augment_size=32)) - forecast.seconds(config())
    assert larger == pytest.approx(3 * 8.0), "four times the pixels"
    assert (
        forecast.seconds(config(train_epochs=0.0, train_steps=1)) < forecast.seconds(config()) - 7
    )


def test_what_runs_took_counts_once_it_is_known_and_measuring_apart():
    forecast = Forecast(1000, config(), steps_per_second=10.0)
    guess = forecast.seconds(config(), trained=True)
    forecast.learn(config(), 30.0)
    forecast.learn(config(train_epochs=8.0), 60.0)
    assert forecast.seconds(config(train_epochs=2.0)) == pytest.approx(15.0)
    assert forecast.seconds(config(), trained=True) == guess
    forecast.learn(config(), 2.0, trained=True)
    forecast.learn(config(train_epochs=8.0), 4.0, trained=True)
    assert forecast.seconds(config(train_epochs=100.0), trained=True) == pytest.approx(3.0)
    assert forecast.seconds(config()) == pytest.approx(30.0)
