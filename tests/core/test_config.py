"""Layers of configuration, their precedence, and what is refused."""

import tomllib

import pytest

from looktwice import config as configuration
from looktwice.config import Config, resolve
from looktwice.errors import UsageError


def test_every_recipe_resolves_and_begins_with_what_it_is():
    for name in configuration.recipe_names():
        assert resolve(recipe=name, environ={}).recipe == name
        assert configuration.recipe_text(name).startswith("# ")


def test_precedence_is_flag_environment_file_recipe_default(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("[optim]\nbase_lr = 2\nmomentum = 0.8\nweight_decay = 0.25\n")
    environ = {"LOOKTWICE_OPTIM_BASE_LR": "3", "LOOKTWICE_OPTIM_MOMENTUM": "0.7"}
    config = resolve(
        recipe="simclr-small", file=file, environ=environ, flags={"optim.base_lr": 4.0}
    )
    assert config.optim.base_lr == 4.0
    assert config.optim.momentum == 0.7
    assert config.optim.weight_decay == 0.25
    assert config.method.temperature == 0.2  # the recipe's
    assert config.train.amp == "auto"  # the default


def test_a_resolved_configuration_can_be_fed_back(tmp_path):
    flags = {"data.source": 'a "quoted"\n\x7f\\path é', "train.compile": True, "train.steps": 7}
    config = resolve(recipe="simclr-small", flags=flags, environ={})
    file = tmp_path / "config.toml"
    file.write_text(configuration.to_toml(config), "utf-8")
    assert tomllib.loads(file.read_text("utf-8"))["data"]["source"] == config.data.source
    assert configuration.load(file) == config
    assert resolve(file=file, environ={}) == config


def test_a_higher_layers_length_clears_the_lower_ones(tmp_path):
    config = resolve(recipe="simclr-small", flags={"train.minutes": 2}, environ={})
    assert (config.train.minutes, config.train.epochs, config.train.steps) == (2.0, 0.0, 0)
    with pytest.raises(UsageError, match=r"give one of train\.epochs and train\.steps"):
        resolve(flags={"train.epochs": 1.0, "train.steps": 3}, environ={})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"optim.base_lrr": 1.0}, r"unknown key 'optim.base_lrr'. Did you mean 'optim.base_lr'"),
        ({"optim.base_lr": "x"}, "optim.base_lr takes a number, not 'x'"),
        ({"optim.name": "sdg"}, "not one of sgd, adamw, lars. Did you mean 'sgd'"),
        ({"train.batch_size": 1}, r"train.batch_size is 1, outside \[2, 1e\+06\]"),
        ({"train.batch_size": True}, "train.batch_size takes a whole number, not True"),
        ({"augment.min_scale": float("nan")}, "augment.min_scale is nan, outside"),
        ({"augment.flip_p": 1.5}, r"augment.flip_p is 1.5, outside \[0, 1\]"),
        ({"augment.min_scale": 0.5, "augment.max_scale": 0.2}, "min_scale 0.5 is above"),
        ({"train.epochs": 0.0}, "no length of the run"),
    ],
)
def test_bad_values_are_refused_in_one_line(flags, message):
    with pytest.raises(UsageError, match=message) as caught:
        resolve(recipe="simclr-small", flags=flags, environ={})
    assert "\n" not in str(caught.value)


def test_bad_files_environments_and_recipes_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no configuration file at"):
        resolve(file=tmp_path / "none.toml", environ={})
    broken = tmp_path / "broken.toml"
    broken.write_text("[optim\n")
    with pytest.raises(UsageError, match="not valid TOML"):
        resolve(file=broken, environ={})
    broken.write_text("[optimm]\nx = 1\n")
    with pytest.raises(UsageError, match="unknown key 'optimm'. Did you mean 'optim'"):
        resolve(file=broken, environ={})
    with pytest.raises(UsageError, match="Did you mean 'simclr-small'"):
        resolve(recipe="simclr-smal", environ={})
    with pytest.raises(UsageError, match="Did you mean 'LOOKTWICE_OPTIM_BASE_LR'"):
        resolve(environ={"LOOKTWICE_OPTIM_BASE_LRR": "1"})
    with pytest.raises(UsageError, match="takes true or false, not 'maybe'"):
        resolve(environ={"LOOKTWICE_TRAIN_COMPILE": "maybe"})


def test_every_option_is_documented_and_its_default_valid():
    for key, entry in configuration.options().items():
        assert entry.metadata["text"], key
    assert configuration.with_values(Config(), configuration.flatten(Config())) == Config()


def test_diff_lists_departures_from_the_recipe():
    config = resolve(recipe="simclr-small", flags={"optim.momentum": 0.5}, environ={})
    assert configuration.diff(config) == [("optim.momentum", 0.9, 0.5)]
