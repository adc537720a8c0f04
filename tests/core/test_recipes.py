"""Every shipped recipe against its source's numbers, and how one file carries several."""

import re
from pathlib import Path

import pytest

from looktwice import augment
from looktwice import config as configuration
from looktwice.cli import main
from looktwice.config import read_recipes, resolve
from looktwice.errors import UsageError
from looktwice.run import build_policy

NAMES = configuration.recipe_names()
POLICIES = ("baseline", "aug-plus", "downcrop", "downcrop-aug-plus", "triple-crop")
DATA = ("cifar10", "cifar100", "stl10", "imagenet100")
KEYS = ("Command", "Source", "Departures", "Cost", "Expected")


def resolved(name):
    return resolve(recipe=name, environ={})


# Typed from the papers and repositories that the headers name, not from the recipes:
# method, backbone, stem, peak rate, batch, epochs, temperature, weight decay, warm-up epochs,
# batch-norm group, side of a view.
SOURCES = {
    "simclr-imagenet": (
        "simclr resnet50 standard", 4.8, 4096, 100, 0.1, 1e-6, 10, "global", 224),
    "simclr-cifar10": (
        "simclr resnet50 small", 4.0, 1024, 1000, 0.5, 1e-6, 10, "global", 32),
    "simclr-cifar10-official": (
        "simclr resnet18 small", 2.0, 512, 1000, 0.5, 1e-4, 10, "global", 32),
    "simclr-cifar10-accumulate": (
        "simclr resnet18 small", 1.0, 2048, 500, 0.5, 1e-6, 10, 512, 32),
    "simclr-cifar10-adam-resnet18-256": (
        "simclr resnet18 small", 3e-4, 256, 400, 0.07, 1e-4, 0, "global", 32),
    "simclr-cifar10-adam-resnet18-512": (
        "simclr resnet18 small", 3e-4, 512, 400, 0.07, 1e-4, 0, "global", 32),
    "simclr-cifar10-adam-resnet50-256": (
        "simclr resnet50 small", 3e-4, 256, 400, 0.07, 1e-4, 0, "global", 32),
    "simclr-cifar10-adam-resnet50-512": (
        "simclr resnet50 small", 3e-4, 512, 400, 0.07, 1e-4, 0, "global", 32),
    "simclr-200": (
        "simclr resnet50 standard", 3e-4, 256, 200, 0.07, 1e-4, 0, "global", 96),
    "simclr-200-cifar10": (
        "simclr resnet50 small", 3e-4, 256, 200, 0.07, 1e-4, 0, "global", 32),
    "moco-v1-imagenet": (
        "moco resnet50 standard", 0.03, 256, 200, 0.07, 1e-4, 0, 32, 224),
    "moco-v2-imagenet": (
        "moco resnet50 standard", 0.03, 256, 200, 0.2, 1e-4, 0, 32, 224),
    "moco-v3-imagenet": (
        "moco-v3 resnet50 standard", 9.6, 4096, 100, 1.0, 1e-6, 10, "global", 224),
    "moco-cifar10": (
        "moco resnet18 small", 0.06, 512, 200, 0.1, 5e-4, 0, 64, 32),
    "moco-cifar10-symmetric": (
        "moco resnet18 small", 0.06, 512, 200, 0.1, 5e-4, 0, 64, 32),
}  # fmt: skip
for _policy in POLICIES:
    _side = {"cifar10": 16, "cifar100": 16, "stl10": 50, "imagenet100": 112}
    _full = {"cifar10": 32, "cifar100": 32, "stl10": 96, "imagenet100": 224}
    _size = _side if _policy.startswith("downcrop") else _full
    SOURCES |= {
        f"moco-{_policy}-cifar10": (
            "moco resnet18 small", 0.06, 512, 200, 0.1, 5e-4, 0, 64, _size["cifar10"]),
        f"moco-{_policy}-cifar100": (
            "moco resnet18 small", 0.06, 512, 200, 0.1, 5e-4, 0, 64, _size["cifar100"]),
        f"moco-{_policy}-stl10": (
            "moco resnet18 small", 0.06, 256, 600, 0.1, 5e-4, 0, 32, _size["stl10"]),
        f"moco-{_policy}-imagenet100": (
            "moco resnet50 standard", 0.03, 256, 200, 0.07, 1e-4, 0, 32, _size["imagenet100"]),
    }  # fmt: skip
OURS = {"simclr-small", "simclr-tiny", "moco-tiny", "supervised-tiny"}


def test_every_recipe_has_a_row_here():
    assert set(NAMES) == set(SOURCES) | OURS
    assert sorted(NAMES) == NAMES


@pytest.mark.parametrize("name", SOURCES)
def test_numbers_are_the_sources(name):
    config = resolved(name)
    ratio = config.train.batch_size / 256
    scale = {"linear": ratio, "sqrt": ratio**0.5, "none": 1.0}[config.optim.lr_scaling]
    words = f"{config.method.name} {config.model.backbone} {config.model.stem}"
    *rest, group, size = SOURCES[name]
    assert [
        words,
        pytest.approx(config.optim.base_lr * scale, rel=1e-12),
        config.train.batch_size,
        config.train.epochs,
        config.method.temperature,
        config.optim.weight_decay,
        config.optim.warmup_epochs,
    ] == rest
    assert (config.train.bn_group, config.augment.size) == (group, size)
    assert config.optim.momentum == 0.9


@pytest.mark.parametrize(
    ("name", "momentum", "queue"),
    [
        ("moco-v1-imagenet", 0.999, 65536),
        ("moco-v2-imagenet", 0.999, 65536),
        ("moco-cifar10", 0.99, 4096),
        ("moco-cifar10-symmetric", 0.99, 4096),
        *((f"moco-{p}-{d}", 0.99, 4096) for p in POLICIES for d in ("cifar10", "stl10")),
        *((f"moco-{p}-imagenet100", 0.999, 65536) for p in POLICIES),
        ("moco-tiny", 0.996, 4096),
    ],
)
def test_queue_and_momentum(name, momentum, queue):
    method = resolved(name).method
    assert (method.momentum, method.queue_size) == (momentum, queue)
    assert method.momentum_schedule == "constant"
    assert method.shuffle_bn
    assert method.symmetric == name.endswith("symmetric")


@pytest.mark.parametrize(
    ("name", "head"),
    [
        # layers, width, dimension, batch-norm; a linear head has no more than its dimension
        ("simclr-imagenet", (2, 2048, 128, "all")),
        ("simclr-cifar10", (2, 2048, 128, "all")),
        ("simclr-cifar10-official", (3, 512, 128, "all")),
        ("simclr-cifar10-accumulate", (2, 512, 128, "hidden")),
        ("simclr-cifar10-adam-resnet18-256", (2, 512, 128, "none")),
        ("simclr-cifar10-adam-resnet50-512", (2, 2048, 128, "none")),
        ("simclr-200", (2, 2048, 128, "none")),
        ("moco-v1-imagenet", 128),
        ("moco-v2-imagenet", (2, 2048, 128, "none")),
        ("moco-v3-imagenet", (2, 4096, 256, "all")),
        ("moco-cifar10", 128),
        ("moco-aug-plus-imagenet100", 128),
    ],
)
def test_heads(name, head):
    model = resolved(name).model
    if isinstance(head, int):
        assert (model.head, model.embedding_dim) == ("linear", head)
    else:
        assert model.head == "mlp"
        found = (model.head_layers, model.head_width, model.embedding_dim, model.head_norm)
        assert found == head


def test_optimisers_and_schedules():
    lars = {name for name in SOURCES if resolved(name).optim.name == "lars"}
    adam = {name for name in SOURCES if resolved(name).optim.name == "adam"}
    drops = {name for name in SOURCES if resolved(name).optim.schedule == "drops"}
    assert lars == {
        "simclr-imagenet", "simclr-cifar10", "simclr-cifar10-official",
        "simclr-cifar10-accumulate", "moco-v3-imagenet",
    }  # fmt: skip
    assert adam == {n for n in SOURCES if n.startswith(("simclr-cifar10-adam", "simclr-200"))}
    assert drops == {"moco-v1-imagenet"} | {f"moco-{p}-imagenet100" for p in POLICIES}
    assert all(resolved(name).optim.drops == "0.6,0.8" for name in drops)  # 120 and 160 of 200
    v3 = resolved("moco-v3-imagenet")
    assert (v3.method.momentum, v3.method.momentum_schedule) == (0.99, "cosine")
    assert v3.model.predictor_width == 4096
    assert resolved("simclr-cifar10-accumulate").train.micro_batch == 512


def expected_policies():
    for data, full, small in [
        ("cifar10", 32, 16), ("cifar100", 32, 16), ("stl10", 96, 50), ("imagenet100", 224, 112),
    ]:  # fmt: skip
        down = {"size": small, "min_scale": 0.08}
        yield f"moco-baseline-{data}", augment.policy("aug-plus-base", size=full)
        yield f"moco-aug-plus-{data}", augment.policy("aug-plus", size=full)
        yield f"moco-downcrop-{data}", augment.policy("downcrop", **down)
        yield (
            f"moco-downcrop-aug-plus-{data}",
            augment.policy("downcrop", base="aug-plus", **down),
        )
        yield f"moco-triple-crop-{data}", augment.policy("triple-crop", size=full)
    simclr = (  # google-research/simclr, data_util.py, number by number
        augment.RandomResizedCrop(224, (0.08, 1.0), (3 / 4, 4 / 3), interpolation="bicubic"),
        augment.HorizontalFlip(0.5),
        augment.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        augment.Grayscale(0.2),
        augment.GaussianBlur(p=0.5),
    )
    yield "simclr-imagenet", augment.Policy((simclr, simclr))
    cifar = (
        augment.RandomResizedCrop(32, (0.08, 1.0), (3 / 4, 4 / 3), interpolation="bicubic"),
        augment.HorizontalFlip(0.5),
        augment.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        augment.Grayscale(0.2),
    )
    for name in ("simclr-cifar10", "simclr-cifar10-official"):
        yield name, augment.Policy((cifar, cifar))
    yield "simclr-cifar10-accumulate", augment.policy("simclr-cifar", size=32)
    yield "simclr-200", augment.policy("simclr", size=96, blur_p=1.0)
    yield "simclr-200-cifar10", augment.policy("simclr", size=32, blur_p=1.0)
    yield "moco-v1-imagenet", augment.policy("moco-v1", size=224)
    yield "moco-v2-imagenet", augment.policy("moco-v2", size=224)
    yield "moco-v3-imagenet", augment.policy("moco-v3", size=224, min_scale=0.2)
    for name in ("moco-cifar10", "moco-cifar10-symmetric"):
        yield name, augment.policy("moco-cifar", size=32)
    own = augment.Policy(
        (
            (
                augment.RandomResizedCrop(32),
                augment.HorizontalFlip(0.5),
                augment.ColorJitter(0.5, 0.5, 0.5, 0.1, p=0.8),
                augment.Grayscale(0.2),
                augment.GaussianBlur(kernel_size=3, p=1.0),
            ),
        )
        * 2
    )
    for backbone in ("resnet18", "resnet50"):
        for batch in (256, 512):
            yield f"simclr-cifar10-adam-{backbone}-{batch}", own


@pytest.mark.parametrize(("name", "policy"), list(expected_policies()))
def test_policies_are_what_the_name_says(name, policy):
    assert build_policy(resolved(name).augment) == policy


def test_every_source_has_its_policy_checked():
    assert {name for name, _ in expected_policies()} == set(SOURCES)


@pytest.mark.parametrize("name", NAMES)
def test_headers_say_command_source_departures_cost_and_expectation(name):
    header = configuration.recipe_text(name).split("\n\n", 1)[0].splitlines()
    assert header[0].startswith("# ")
    assert header[0].endswith(".")
    assert header[1] == "#"
    assert all(line.startswith("#") and len(line) <= 100 for line in header)
    assert [key for line in header for key in KEYS if line.startswith(f"# {key} ")] == list(KEYS)
    text = "\n".join(header)
    assert re.search(rf"(--recipe|-r) {name} |looktwice pretrain --data FOLDER", text)
    if name in SOURCES:
        assert "We have not run it: no GPU." in re.sub(r"\s+#\s+", " ", text)
    assert not re.search(r"\{[a-z.]+\}", text)


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_recipe_and_a_runs_configuration_can_be_fed_back(name, tmp_path, capsys):
    assert main(["recipes", name]) == 0
    printed = tmp_path / "mine.toml"
    printed.write_text(capsys.readouterr().out, "utf-8")
    config = resolved(name)
    assert resolve(file=printed, environ={}) == config
    stored = tmp_path / "config.toml"
    stored.write_text(configuration.to_toml(config), "utf-8")
    assert configuration.load(stored) == resolve(file=stored, environ={}) == config
    assert config.recipe == name
    assert configuration.diff(config) == []


def test_the_list_has_one_line_for_each_and_no_two_alike(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    pairs = [line.split(None, 1) for line in lines]
    assert [name for name, _ in pairs] == NAMES
    assert len({text for _, text in pairs}) == len(NAMES)
    assert len({line.index(text) for line, (_, text) in zip(lines, pairs, strict=True)}) == 1
    assert dict(pairs)["moco-downcrop-stl10"].startswith("MoCo v1 on STL-10, Downcrop")


def test_every_recipe_is_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
    missing = [name for name in NAMES if f"`{name}`" not in text]
    assert missing == []


FILE = """# On {data.title} with {policy}: {name}.

[augment]
policy = "simclr"
strength = 0.5
size = 48

[train]
epochs = 10.0

[variants]
name = "try-{policy}-{data}"

[variants.policy.plain]

[variants.policy.v2]
augment.policy = "moco-v2"
with.small.augment.min_scale = 0.5

[variants.data.small]
title = \"\"\"one line
and another\"\"\"
augment.size = 24
train.steps = 7

[variants.data.large]
title = "large ones"
"""


def test_variants_are_laid_over_their_file_as_layers_are():
    found = read_recipes(FILE, "try.toml")
    assert list(found) == ["try-plain-small", "try-plain-large", "try-v2-small", "try-v2-large"]
    assert found["try-plain-large"].values == {
        "augment.policy": "simclr", "augment.strength": 0.5, "augment.size": 48,
        "train.epochs": 10.0,
    }  # fmt: skip
    # A variant that names a policy clears the file's changes to its own; a length clears lengths.
    assert found["try-v2-large"].values == {
        "augment.policy": "moco-v2", "augment.size": 48, "train.epochs": 10.0,
    }  # fmt: skip
    assert found["try-v2-small"].values == {
        "augment.policy": "moco-v2", "augment.size": 24, "augment.min_scale": 0.5,
        "train.steps": 7,
    }  # fmt: skip
    assert found["try-plain-large"].header == "# On large ones with plain: try-plain-large.\n"
    two_lines = "# On one line\n#            and another with v2: try-v2-small.\n"
    assert found["try-v2-small"].header == two_lines
    assert found["try-v2-large"].tables == (
        '[augment]\npolicy = "moco-v2"\nsize = 48\n\n[train]\nepochs = 10.0\n'
    )


def test_a_file_without_axes_names_its_variants():
    found = read_recipes(
        "# {name}\n[variants.a]\n[variants.b]\nmethod.symmetric = true\n", "x.toml"
    )
    assert {name: dict(recipe.values) for name, recipe in found.items()} == {
        "a": {}, "b": {"method.symmetric": True},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("train.steps", "train.stepz",
         "try.toml, variant 'plain small': unknown key 'train.stepz'. Did you mean 'train.steps'"),
        ("train.steps", "trian.steps", "variant 'plain small': unknown key 'trian'. Did you mean"),
        ("train.steps = 7", "train.steps = true", "variant 'plain small': train.steps takes"),
        ("with.small.augment.min_scale", "with.smal.augment.min_scale",
         "variant 'v2 small': no variant is called 'smal'.*Did you mean 'small'"),
        ("with.small.augment.min_scale", "with.small.augment.min_scal", "'v2 small': unknown key"),
        ("{data.title}", "{data.titel}", r"nothing to write for {data.titel}. Did you mean"),
        ("epochs = 10.0", "epoch = 10.0", "try.toml: unknown key 'train.epoch'"),
        ("{data}", "{date}", r"nothing to write for {date}. Did you mean 'data'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_variant_are_refused_with_file_and_variant(old, new, message):
    assert old in FILE
    with pytest.raises(UsageError, match=message):
        read_recipes(FILE.replace(old, new), "try.toml")
