"""Every option reaches code: changing it changes what is built or what a run leaves."""

import hashlib
import io
import json
import os
import re
import typing

import numpy as np
import pytest
import torch

from looktwice import build as building
from looktwice import config as configuration
from looktwice import train
from looktwice.augment import policy
from looktwice.build import _absolute_paths, build, settle, untrained_encoder
from looktwice.checkpoint import list_checkpoints
from looktwice.config import resolve
from looktwice.data import open_splits
from looktwice.errors import UsageError
from looktwice.run import build_policy

BASE = {
    "augment.size": 8,
    "train.batch_size": 16,
    "train.epochs": 5.0,
    "train.threads": 1,
    "optim.warmup_epochs": 0.25,
}

BUILT = {
    "data.validation_fraction": 0.3,
    "data.test_fraction": 0.4,
    "data.split_seed": 1,
    "data.max_bad": 0.5,
    "data.scaled_decoding": False,
    "data.threads": 2,
    "augment.policy": "moco-v1",
    "augment.size": 12,
    "augment.min_scale": 0.5,
    "augment.max_scale": 0.9,
    "augment.interpolation": "bicubic",
    "augment.flip_p": 0.1,
    "augment.strength": 0.1,
    "augment.jitter_p": 0.1,
    "augment.gray_p": 0.7,
    "augment.blur_p": 0.7,
    "model.backbone": "resnet18",
    "model.stem": "small",
    "model.image_size": 9,
    "model.head": "linear",
    "model.head_layers": 3,
    "model.head_width": 7,
    "model.embedding_dim": 9,
    "model.head_norm": "all",
    "method.name": "moco",
    "method.loss": "dcl",
    "method.temperature": 0.7,
    "method.normalize": False,
    "optim.schedule": "drops",
    "optim.name": "adamw",
    "optim.base_lr": 0.01,
    "optim.lr_scaling": "sqrt",
    "optim.momentum": 0.3,
    "optim.weight_decay": 0.5,
    "optim.warmup_epochs": 0.4,
    "train.epochs": 7.0,
    "train.steps": 3,
    "train.batch_size": 8,
    "train.seed": 5,
    "train.threads": 2,
    "train.bn_group": 4,
    "train.compile": True,
}
WITH_MOCO = {
    "method.symmetric": True,
    "method.queue_size": 100,
    "method.momentum": 0.5,
    "method.momentum_schedule": "cosine",
    "method.shuffle_bn": False,
}
WITH_MARGIN = {"method.margin": 0.2, "method.semi_hard": True}
ELSEWHERE = {
    "data.source": "test_cli: folders and names",
    "data.root": "tests/data: fashion-mnist under a root",
    "data.classes": "tests/data/test_class_lists",
    "data.download": "tests/data/test_download",
    "data.alpha": "tests/data/test_pixels: transparent parts",
    "model.init": "test_models and below",
    "augment.base": "below",
    "augment.views": "test_config: policies of one's own",
    "model.predictor_width": "below: of MoCo v3",
    "optim.drops": "below",
    "train.micro_batch": "below: it needs a bn_group",
    "train.minutes": "test_train: minutes become steps",
    "train.device": "below",
    "train.amp": "below",
    "train.deterministic": "test_train: operations that give the same bits",
    "train.monitor_every": "below",
    "train.checkpoint_every": "test_train and below",
    "train.keep_last": "below",
    "train.max_skipped": "tests/survival: steps that are not finite",
    "train.tracker": "test_tracking and below",
}


def pictures():
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (120, 10, 10, 3), dtype=np.uint8), np.arange(120) % 3


def built(**flags):
    layers = {**BASE, **flags}
    if "train.steps" in flags:
        layers.pop("train.epochs")
    config = resolve(recipe="simclr-tiny", flags=layers, environ={})
    data = config.data
    splits = open_splits(
        pictures(),
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        seed=data.split_seed,
    )
    return build(settle(config, splits), splits)


def settings_of(method):
    """What a method was given beside its networks."""
    own = {k: v for k, v in vars(method).items() if k.startswith("_") and type(v) is not dict}
    return re.sub(r" at 0x[0-9a-f]+", "", repr(own))


def signature(training):
    weights = hashlib.sha256()
    for value in training.method.state_dict().values():
        weights.update(value.numpy().tobytes())
    groups = [
        {k: v for k, v in group.items() if k != "params"}
        for group in training.optimizer.param_groups
    ]
    loader = training.loader
    splits = training.splits
    return (
        training.policy, repr(training.method), weights.hexdigest(), settings_of(training.method),
        type(training.optimizer).__name__, repr(groups), training.peak_lr, training.warmup_steps,
        loader.steps_per_epoch, loader._batch_size, loader._seed, loader._threads, loader._max_bad,
        loader._scaled_decoding,
        training.method.shuffles, training.large_batch.micro_batch, training.large_batch._group, training.drops,
        training.encoder.spec, training.config.train.steps, torch.get_num_threads(),
        tuple(part.fingerprint() for part in (splits.train, splits.validation, splits.test)),
        training.method.backbone._compiled_call_impl is None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def base_signature():
    return signature(built())


def test_every_option_is_looked_at_here_or_named():
    everywhere = [*BUILT, *WITH_MOCO, *WITH_MARGIN, *ELSEWHERE]
    assert sorted(everywhere) == sorted(configuration.options())


@pytest.mark.parametrize("key", BUILT)
def test_an_option_changes_what_is_built(base_signature, key):
    assert signature(built(**{key: BUILT[key]})) != base_signature


@pytest.mark.parametrize("key", WITH_MOCO)
def test_an_option_of_moco_changes_what_is_built(key):
    moco = {"method.name": "moco", "method.queue_size": 50}
    assert signature(built(**{**moco, key: WITH_MOCO[key]})) != signature(built(**moco))


@pytest.mark.parametrize("key", WITH_MARGIN)
def test_an_option_of_the_margin_loss_changes_what_is_built(key):
    margin = {"method.loss": "margin"}
    assert signature(built(**{**margin, key: WITH_MARGIN[key]})) != signature(built(**margin))


DEPENDENT = [key for key, entry in configuration.options().items() if entry.metadata["only"]]
CHANGED = {**BUILT, **WITH_MOCO, **WITH_MARGIN, "optim.drops": "0.25,0.5"}
CHANGED["model.predictor_width"] = 11


@pytest.mark.parametrize("key", DEPENDENT)
def test_an_option_that_is_said_to_do_nothing_does_nothing(key):
    for other, values in configuration.options()[key].metadata["only"].items():
        for choice in typing.get_args(configuration.field_type(other)):
            if choice in values or choice == configuration.OWN:
                continue
            flags = {other: choice, "method.queue_size": 1000}
            without, beside = (
                signature(built(**{**flags, **more})) for more in ({}, {key: CHANGED[key]})
            )
            # A head that is drawn and left aside shifts what is drawn after it.
            weights = 2
            assert [p for i, p in enumerate(without) if i != weights] == [
                p for i, p in enumerate(beside) if i != weights
            ], (other, choice)


def test_the_width_of_the_predictor_is_built():
    training = built(**{"method.name": "moco-v3", "model.predictor_width": 11})
    assert training.method.predictor[0].out_features == 11
    assert built(**{"method.name": "moco-v3"}).method.predictor[0].out_features == 256


def test_micro_batches_are_built():
    assert built().large_batch.micro_batch == 16
    assert built(**{"train.bn_group": 4, "train.micro_batch": 8}).large_batch.micro_batch == 8


def test_paths_become_absolute_and_names_stay(tmp_path, monkeypatch):
    for name in ("cifar10", "pictures", "imagenet100"):
        (tmp_path / name).mkdir()
    (tmp_path / "list.txt").write_text("ant")
    monkeypatch.chdir(tmp_path)
    for source, classes, absolute in (
        ("cifar10", "imagenet100", {}),
        ("pictures", "list.txt", {"data.source": "pictures", "data.classes": "list.txt"}),
        ("s/train-{0..3}.tar", "", {"data.source": "s/train-{0..3}.tar"}),
        ("http://here/train-{0..3}.tar", "", {}),
    ):
        flags = {"data.source": source, "data.classes": classes}
        config = resolve(recipe="simclr-tiny", flags=flags, environ={})
        paths = {key: str(tmp_path / name) for key, name in absolute.items()}
        assert _absolute_paths(config) == paths


def test_drops_are_built_where_the_schedule_uses_them():
    drops = {"optim.drops": "0.25,0.5"}
    assert built(**drops).drops is None
    assert built(**drops, **{"optim.schedule": "drops"}).drops == (0.25, 0.5)


def test_the_base_of_a_derived_policy_is_built():
    flags = {"augment.policy": "downcrop", "augment.base": "moco-v2"}
    made = build_policy(resolve(recipe="simclr-tiny", flags=flags, environ={}).augment)
    assert made == policy("downcrop", base="moco-v2", size=16)


@pytest.mark.parametrize("method", ["simclr", "moco", "moco-v3", "supcon"])
def test_one_view_of_each_picture_is_refused_but_for_cross_entropy(method):
    one = {"augment.policy": "supervised"}
    with pytest.raises(UsageError, match=rf"method.name {method} needs two views .* makes one"):
        built(**one, **{"method.name": method})
    built(**one, **{"method.name": "supervised"})


@pytest.mark.parametrize("name", ["triple-crop", "multi-crop"])
def test_policies_of_more_views_are_built(name):
    built(**{"augment.policy": name})


def test_a_policy_that_needs_colours_is_refused_for_grey_pictures():
    config = resolve(
        recipe="simclr-tiny", flags={**BASE, "augment.policy": "aug-plus-sepia"}, environ={}
    )
    splits = open_splits((pictures()[0][..., :1], pictures()[1]))
    with pytest.raises(UsageError, match="sepia in view 0 needs pictures of 3 channels"):
        build(settle(config, splits), splits)


def test_equal_options_build_equal_parts(base_signature):
    torch.manual_seed(99)
    assert signature(built()) == base_signature


def test_the_untrained_encoder_is_the_one_training_started_from():
    training = built()
    encoder = untrained_encoder(training.config, training.splits.train.channels)
    for name, value in training.method.backbone.state_dict().items():
        assert torch.equal(value, encoder.backbone.state_dict()[name])


def test_unknown_methods_and_devices_are_refused():
    with pytest.raises(UsageError, match="'simclrr', not one of simclr, moco, .* mean 'simclr'"):
        built(**{"method.name": "simclrr"})
    with pytest.raises(UsageError, match="--device 'gpu' cannot be used here"):
        built(**{"train.device": "gpu"})


@pytest.mark.parametrize(
    ("device", "amp", "expected"),
    [
        ("cpu", "auto", False),
        ("cuda", "auto", True),
        ("cuda", "off", False),
        ("mps", "auto", False),
    ],
)
def test_mixed_precision_is_for_cuda_unless_switched_off(monkeypatch, device, amp, expected):
    seen = []

    class SeenError(Exception):
        pass

    def spied(method, normalize, **options):
        seen.append(options["amp"])
        raise SeenError

    monkeypatch.setattr("looktwice.build.LargeBatch", spied)
    monkeypatch.setattr("looktwice.build.open_device", lambda name: torch.device(name))
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)
    with pytest.raises(SeenError):
        built(**{"train.device": device, "train.amp": amp})
    assert seen == [expected]


def test_options_of_the_loop_change_what_a_run_leaves(tmp_path):
    flags = {"train.steps": 12, "train.monitor_every": 2, "train.checkpoint_every": 2,
             "train.keep_last": 3}  # fmt: skip
    config = resolve(
        recipe="simclr-tiny",
        flags={**{k: v for k, v in BASE.items() if k != "train.epochs"}, **flags},
        environ={},
    )
    splits = open_splits(pictures(), validation_fraction=0.1, test_fraction=0.1, seed=0)
    run = train.start(config, tmp_path / "run", command="test", file=io.StringIO(), splits=splits)
    records = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [r["knn"] is not None for r in records] == [True, False, True]
    kept = [p.name for p in list_checkpoints(run.checkpoints)]
    assert kept[-3:] == ["step-00000008", "step-00000010", "step-00000012"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_is_asked_for_where_it_is_missing(monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=rf"pip install 'looktwice\[{name}\]'"):
        built(**{"train.tracker": name})


def test_free_memory_is_that_of_the_machine_and_of_the_control_group(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(building, "CONTROL_GROUP", tmp_path)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert whole / 100 < building.free_memory(cpu) < whole  # no limit
    told = {"max": "5000\n", "current": "4000\n", "stat": "anon 1\ninactive_file 300\n"}
    for name, text in told.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert building.free_memory(cpu) == 1300
    (tmp_path / "memory.max").write_text("max\n")
    assert building.free_memory(cpu) > 5000
