"""A run's address: everything that decides its result changes it, and nothing else does."""

import dataclasses

import pytest

from looktwice import config as configuration
from looktwice.config import Config, resolve
from looktwice.errors import RunError
from looktwice.run import Run
from looktwice.study import store

CONFIG = resolve(recipe="simclr-tiny", flags={"data.source": "x", "train.steps": 3}, environ={})
OTHER = {"augment.policy": "moco-v2", "model.stem": "small", "method.name": "moco",
         "method.loss": "dcl", "optim.name": "adam", "optim.schedule": "drops",
         "optim.lr_scaling": "sqrt", "model.head": "linear", "model.head_norm": "all",
         "augment.interpolation": "bicubic", "data.alpha": "black", "train.amp": "off",
         "method.momentum_schedule": "cosine", "train.bn_group": 2, "train.micro_batch": 2}  # fmt: skip


def _another(key):
    value = configuration.flatten(CONFIG)[key]
    if key in OTHER:
        return OTHER[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "0.25" if value == "auto" and key.startswith("augment.") else f"{value}y"
    limits = configuration.options()[key].metadata
    return value + 1 if value + 1 <= limits["high"] else value / 2


@pytest.mark.parametrize("key", configuration.options())
def test_every_option_is_in_the_address_or_said_to_be_free(key):
    section, name = key.split(".")
    part = dataclasses.replace(getattr(CONFIG, section), **{name: _another(key)})
    changed = dataclasses.replace(CONFIG, **{section: part})
    same = store.address(changed, "p") == store.address(CONFIG, "p")
    assert same == (key in store._FREE)


def test_pictures_are_in_it_and_the_recipes_name_is_not():
    renamed = dataclasses.replace(CONFIG, recipe="mine")
    assert store.address(CONFIG, "p") != store.address(CONFIG, "q")
    assert store.address(renamed, "p") == store.address(CONFIG, "p")
    assert isinstance(CONFIG, Config)


def test_measures_are_added_to_those_before(tmp_path):
    run = Run(tmp_path)
    assert store.read_measures(run, "p") == {}
    store.add_measures(run, "p", {"encoder": {"knn": {"value": 1}}})
    store.add_measures(run, "p", {"encoder": {"linear": {"value": 2}}, "untrained": {}})
    assert store.read_measures(run, "p")["encoder"] == {"knn": {"value": 1}, "linear": {"value": 2}}
    assert store.read_measures(run, "other pictures") == {}
    for damage in ("{", "[]", "{}"):
        store.measures_file(run).write_text(damage)
        with pytest.raises(RunError, match="damaged"):
            store.read_measures(run, "p")


def test_a_place_is_held_by_one(tmp_path):
    with (
        store.held(tmp_path / "run"),
        pytest.raises(store.BusyError, match="made by another process"),
        store.held(tmp_path / "run"),
    ):
        raise AssertionError("held twice")
    with store.held(tmp_path / "run"):
        pass
