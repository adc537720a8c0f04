"""Layers of configuration, their precedence, and what is refused."""

import tomllib
import typing

import pytest

from looktwice import config as configuration
from looktwice.augment import from_toml
from looktwice.config import AugmentConfig, Config, resolve, to_toml
from looktwice.errors import UsageError
from looktwice.run import build_policy


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
        ({"optim.name": "sdg"}, "not one of sgd, adam, adamw, lars. Did you mean 'sgd'"),
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


@pytest.mark.parametrize(
    ("flags", "idle", "message"),
    [
        ({"method.name": "moco"}, "method.loss", "method.name is 'moco'.*to simclr$"),
        ({}, "method.queue_size", "method.name is 'simclr'.*to moco$"),
        ({}, "method.momentum", "to moco or moco-v3$"),
        ({}, "method.margin", "method.loss is 'nt-xent'.*to margin$"),
        ({"method.name": "supervised"}, "model.embedding_dim", "method.name is 'supervised'"),
        ({"model.head": "none"}, "model.embedding_dim", "model.head is 'none'"),
        ({"optim.name": "adamw"}, "optim.momentum", "to sgd or lars$"),
        ({}, "optim.drops", "optim.schedule is 'cosine'.*to drops$"),
    ],
)
def test_what_would_do_nothing_is_not_taken_in_silence(flags, idle, message):
    config = resolve(recipe="simclr-small", flags=flags, environ={})
    configuration.check_used(config, flags)
    with pytest.raises(UsageError, match=f"^{idle} does nothing where .*{message}"):
        configuration.check_used(config, [*flags, idle])


def test_what_an_option_depends_on_is_an_option_and_its_values():
    known = configuration.options()
    for entry in known.values():
        for other, values in entry.metadata["only"].items():
            assert set(values) <= set(typing.get_args(configuration.field_type(other)))


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


def test_a_layer_that_names_a_policy_clears_what_was_changed_in_another(tmp_path):
    config = resolve(recipe="simclr-small", flags={"augment.policy": "moco-v2"}, environ={})
    assert config.augment == AugmentConfig(policy="moco-v2", size=64)
    changed = resolve(recipe="simclr-small", flags={"augment.strength": "auto"}, environ={})
    assert (changed.augment.strength, changed.augment.min_scale) == ("auto", 0.2)


OWN = """
[[views]]
operations = [{ name = "crop", size = 24, scale = [0.2, 1.0] }, { name = "flip" }]
[[views]]
operations = [{ name = "crop", size = 24 }, { name = "blur", kernel_size = 5 }]
"""


def test_a_policy_of_ones_own_comes_from_a_file_and_stays_in_the_run(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(OWN)
    config = resolve(recipe="simclr-small", flags={"augment.policy": str(file)}, environ={})
    assert (config.augment.policy, config.augment.size) == ("own", 24)
    stored = tmp_path / "config.toml"
    stored.write_text(to_toml(config))
    assert configuration.load(stored) == config == resolve(file=stored, environ={})
    file.unlink()
    assert build_policy(configuration.load(stored).augment) == from_toml(OWN)
    table = tmp_path / "table.toml"
    table.write_text(OWN.replace("[[views]]", "[[augment.views]]"))
    assert resolve(recipe="simclr-small", file=table, environ={}).augment == config.augment
    # A named policy in a higher layer takes its place.
    named = resolve(file=stored, flags={"augment.policy": "simclr"}, environ={})
    assert named.augment == AugmentConfig(policy="simclr", size=24)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"augment.policy": "none.toml"}, "no configuration file at none.toml"),
        ({"augment.policy": "own"}, "given as augment.views"),
        ({"augment.views": "[", "augment.policy": "own"}, "not valid JSON"),
        ({"augment.views": "3", "augment.policy": "own"}, "a list of tables is needed"),
        ({"augment.views": "[]"}, "views must be a tuple of 1 to 255"),
        ({"augment.policy": "simclrr"}, "Did you mean 'simclr'"),
    ],
)
def test_policies_that_cannot_be_are_refused_in_one_line(flags, message):
    with pytest.raises(UsageError, match=message) as caught:
        build_policy(resolve(recipe="simclr-small", flags=flags, environ={}).augment)
    assert "\n" not in str(caught.value)


def test_what_changes_a_named_policy_does_not_go_with_ones_own(tmp_path):
    (tmp_path / "mine.toml").write_text(OWN)
    flags = {"augment.policy": str(tmp_path / "mine.toml")}
    with pytest.raises(UsageError, match=r"augment\.strength changes a named policy"):
        resolve(flags={**flags, "augment.strength": 0.5}, environ={})
    with pytest.raises(UsageError, match="24 px, but --size is 32"):
        build_policy(resolve(flags={**flags, "augment.size": 32}, environ={}).augment)


def test_places_in_the_environment_are_no_settings():
    environ = {"LOOKTWICE_CACHE": "/x", "LOOKTWICE_DATA": "/y", "LOOKTWICE_TRAIN_EPOCHS": "3"}
    assert resolve(recipe="simclr-tiny", environ=environ).train.epochs == 3
