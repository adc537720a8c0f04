"""The configuration of a run: frozen dataclasses, their sources, and one validation.

Precedence, highest first: flag, environment variable (``LOOKTWICE_OPTIM_BASE_LR``), file
(``--config``), recipe, default. Only the standard library is used here.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import os
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from looktwice.errors import UsageError, did_you_mean

Scalar = str | int | float | bool
Auto = Literal["auto"]
Global = Literal["global"]
DEFAULT_RECIPE = "simclr-small"
ENVIRONMENT_PREFIX = "LOOKTWICE_"
DURATIONS = ("train.epochs", "train.steps", "train.minutes")
VIEWS, OWN = "augment.views", "own"
REPLACED = {
    "train.tensorboard": 'train.tracker: write tracker = "none" for false, "tensorboard" for true'
}
"""Keys of earlier versions, and what took their place."""
HEADER_INDENT = "\n#            "  # where the text of a recipe's header stands


def option(
    default: Scalar,
    text: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    flags: tuple[str, ...] = (),
    only: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> Any:
    """Declare a field: its default, its help (with unit), its closed range, its short flags.

    It does something `only` where other keys have one of some values.
    """
    limits = {"low": low, "high": high}
    return field(default=default, metadata={"text": text, "flags": flags, "only": only, **limits})


_EMBEDDED = {"method.name": ("simclr", "moco", "moco-v3", "supcon")}
_HEADED = {"method.name": (*_EMBEDDED["method.name"], OWN)}
_MLP = {**_HEADED, "model.head": ("mlp",)}
_SIMCLR = {"method.name": ("simclr",)}
_MOCO = {"method.name": ("moco",)}
_MOCO_V3 = {"method.name": ("moco-v3",)}
_MOMENTUM = {"method.name": ("moco", "moco-v3")}


@dataclass(frozen=True)
class DataConfig:
    """Where pictures come from."""

    source: str = option(
        "", "folder or file of pictures, or name of a data set", flags=("--data", "-d")
    )
    root: str = option(
        "",
        "folder that holds named data sets (default: $LOOKTWICE_DATA, ~/.cache/looktwice)",
        flags=("--data-root",),
    )
    classes: str = option(
        "", "class folders to take alone: a text file with one a line, or imagenet100"
    )
    download: bool = option(
        False,
        "fetch a named data set that is not on this machine into the first of those folders",
        flags=("--download",),
    )
    validation_fraction: float = option(
        0.1,
        "share of the training pictures set aside for validation, if none is given",
        low=0.01,
        high=0.5,
    )
    test_fraction: float = option(
        0.2, "share of labelled pictures set aside as test, if none is given", low=0.01, high=0.5
    )
    split_seed: int = option(
        0, "seed of that choice, whatever the run's seed", low=0, high=2**63 - 1
    )
    max_bad: float = option(
        0.01, "share of unreadable pictures above which the run stops", low=0, high=1
    )
    alpha: Literal["white", "black"] = option("white", "what lies under transparent parts of files")
    scaled_decoding: bool = option(True, "decode JPEGs no larger than the views need")
    threads: int = option(
        1, "threads that decode and augment (0: in the loop itself)", low=0, high=256
    )


@dataclass(frozen=True)
class AugmentConfig:
    """How a picture becomes views."""

    policy: str = option(
        "simclr", "name of the augmentation policy, or a TOML file of one's own (kept as views)"
    )
    base: str = option("auto", "policy that downcrop, triple-crop, multi-crop, one-branch build on")
    size: int = option(32, "side of a view, pixels", low=4, high=1024, flags=("--size",))
    min_scale: float | Auto = option("auto", "smallest crop, share of the area", low=1e-4, high=1)
    max_scale: float | Auto = option("auto", "largest crop, share of the area", low=1e-4, high=1)
    interpolation: Literal["auto", "bilinear", "bicubic"] = option("auto", "resampling of crops")
    flip_p: float | Auto = option("auto", "probability of a horizontal flip", low=0, high=1)
    strength: float | Auto = option(
        "auto", "factor on the colour jitter, 1 as in the policy's source", low=0, high=10
    )
    jitter_p: float | Auto = option("auto", "probability of colour jitter", low=0, high=1)
    gray_p: float | Auto = option("auto", "probability of losing colour", low=0, high=1)
    blur_p: float | Auto = option("auto", "probability of Gaussian blur", low=0, high=1)
    views: str = option("", "operations of each view, as JSON; [[augment.views]] in a file")


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: str = option(
        "resnet-tiny",
        "resnet-tiny (also -half, -double), any name timm knows, or torchvision:NAME",
        flags=("--backbone",),
    )
    stem: Literal["auto", "small", "standard"] = option(
        "auto", "small: 3×3 stride 1, no pooling; auto: small for timm's ResNets below 64-px views"
    )
    image_size: int = option(
        0,
        "side at which whole pictures enter the encoder, pixels "
        "(0: the pictures' own up to 64, else the view's)",
        low=0,
        high=1024,
    )
    head: Literal["none", "linear", "mlp"] = option("mlp", "projection head", only=_HEADED)
    head_layers: int = option(2, "linear layers of the mlp head", low=2, high=4, only=_MLP)
    head_width: int = option(
        0, "hidden units of the mlp head (0: the backbone's width)", low=0, high=16384
    )
    head_norm: Literal["hidden", "all", "none"] = option(
        "hidden",
        "batch-norm of the mlp head: of hidden layers, of the last one too, or none",
        only=_MLP,
    )
    predictor_width: int = option(
        0,
        "hidden units of MoCo v3's prediction head (0: the head's)",
        low=0,
        high=16384,
        only=_MOCO_V3,
    )
    embedding_dim: int = option(
        128,
        "dimensions of the embedding",
        low=2,
        high=16384,
        only={**_HEADED, "model.head": ("linear", "mlp")},
    )
    init: str = option(
        "",
        "starting weights: timm:NAME, torchvision:NAME, or a file, ours or of another library",
        flags=("--init",),
    )


@dataclass(frozen=True)
class MethodConfig:
    """What is learnt."""

    name: Literal["simclr", "moco", "moco-v3", "supcon", "supervised", "own"] = option(
        "simclr",
        "method; moco is v1 and v2, which differ in head and policy; own is given in Python",
        flags=("--method",),
    )
    loss: Literal["nt-xent", "nt-logistic", "margin", "dcl"] = option(
        "nt-xent", "loss of simclr", flags=("--loss",), only=_SIMCLR
    )
    temperature: float = option(
        0.5, "temperature of the softmax", low=1e-3, high=100, flags=("--temperature",)
    )
    normalize: bool = option(True, "scale embeddings to unit length", only=_EMBEDDED)
    margin: float = option(
        0.8,
        "margin of the margin loss",
        low=0,
        high=100,
        only={**_SIMCLR, "method.loss": ("margin",)},
    )
    semi_hard: bool = option(
        False,
        "semi-hard negatives, with nt-logistic and margin",
        only={**_SIMCLR, "method.loss": ("nt-logistic", "margin")},
    )
    symmetric: bool = option(False, "moco: each view is query once and key once", only=_MOCO)
    queue_size: int = option(
        65536, "moco: keys of earlier batches kept", low=2, high=10**7, only=_MOCO
    )
    momentum: float = option(
        0.999, "momentum of the momentum encoder", low=0, high=1, only=_MOMENTUM
    )
    momentum_schedule: Literal["constant", "cosine"] = option(
        "constant", "course of that momentum: constant, or half a cosine up to 1", only=_MOMENTUM
    )
    shuffle_bn: bool = option(
        True, "moco, moco-v3: keys' batch-norm groups are shuffled", only=_MOMENTUM
    )


@dataclass(frozen=True)
class OptimConfig:
    """How weights are changed."""

    name: Literal["sgd", "adam", "adamw", "lars"] = option("sgd", "optimiser")
    base_lr: float = option(
        0.3, "learning rate at batch size 256", low=0, high=1000, flags=("--lr",)
    )
    lr_scaling: Literal["linear", "sqrt", "none"] = option(
        "linear", "peak rate = base rate × (batch/256), × its square root, or × 1"
    )
    schedule: Literal["cosine", "drops"] = option(
        "cosine", "course of the rate after warm-up: half a cosine to 0, or tenfold drops"
    )
    drops: str = option(
        "0.6,0.8", "when the rate drops, shares of the run", only={"optim.schedule": ("drops",)}
    )
    momentum: float = option(
        0.9, "momentum of SGD and LARS", low=0, high=0.9999, only={"optim.name": ("sgd", "lars")}
    )
    weight_decay: float = option(
        1e-4, "weight decay (not on biases and normalisation)", low=0, high=1
    )
    warmup_epochs: float = option(
        10.0, "linear warm-up, epochs (at most a tenth of the run)", low=0, high=1000
    )


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    epochs: float = option(0.0, "length of the run, epochs", low=0, flags=("--epochs", "-e"))
    steps: int = option(0, "length of the run, steps", low=0, flags=("--steps",))
    minutes: float = option(
        0.0,
        "length of the run, minutes: turned into steps by a short calibration",
        low=0,
        flags=("--minutes", "-m"),
    )
    batch_size: int = option(
        256,
        "pictures a step, over all processes",
        low=2,
        high=10**6,
        flags=("--batch-size", "-b"),
    )
    micro_batch: int | Auto = option(
        0,
        "pictures a process holds activations of, same gradients (0: its whole share; auto: what "
        "fits the memory)",
        low=0,
        high=10**6,
        flags=("--micro-batch",),
    )
    bn_group: int | Global = option(
        "global", "pictures whose batch-norm statistics are shared, or global", low=1, high=10**6
    )
    seed: int = option(
        0, "seed of weights, order and views", low=0, high=2**63 - 1, flags=("--seed", "-s")
    )
    device: str = option(
        "auto", "cpu, cuda, cuda:1, mps; auto: the best there is", flags=("--device",)
    )
    threads: int = option(
        0, "torch's threads on the CPU (0: all cores)", low=0, high=1024, flags=("--threads",)
    )
    amp: Literal["auto", "off"] = option("auto", "mixed precision on GPUs (bfloat16), or off")
    compile: bool = option(False, "compile the network with torch.compile")
    deterministic: bool = option(
        False, "only operations that give the same bits twice: on GPUs for exact resuming, slower"
    )
    monitor_every: int = option(
        1, "epochs between measurements of health and k-NN", low=1, high=100000
    )
    checkpoint_every: int = option(0, "steps between checkpoints (0: every epoch)", low=0)
    keep_last: int = option(2, "checkpoints kept, the best one aside", low=1, high=10000)
    max_skipped: int = option(
        10, "steps in a row that may be skipped, since their loss or gradient is not finite", low=0
    )
    tracker: Literal["none", "tensorboard", "wandb"] = option(
        "none", "what gets each epoch's numbers too; extra of the same name, wandb offline"
    )


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    recipe: str = DEFAULT_RECIPE
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    method: MethodConfig = MethodConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()


@functools.cache
def sections() -> dict[str, type[Any]]:
    """Return each section's name and dataclass, in order."""
    hints: dict[str, type[Any]] = typing.get_type_hints(Config)
    return {name: kind for name, kind in hints.items() if name != "recipe"}


@functools.cache
def options() -> dict[str, dataclasses.Field[Any]]:
    """Return every dotted key and its field, in order."""
    return {
        f"{section}.{entry.name}": entry
        for section, kind in sections().items()
        for entry in dataclasses.fields(kind)
    }


def field_type(key: str) -> Any:
    """Return the type of a dotted key: str, int, float, bool, a Literal, or as float | Auto."""
    section, name = key.split(".")
    return _types(section)[name]


@functools.cache
def _types(section: str) -> dict[str, Any]:
    return typing.get_type_hints(sections()[section])


def flatten(config: Config) -> dict[str, Scalar]:
    """Return ``{"optim.base_lr": 0.3, …}`` (the recipe's name aside)."""
    return {key: _get(config, key) for key in options()}


def _get(config: Config, key: str) -> Scalar:
    section, name = key.split(".")
    value: Scalar = getattr(getattr(config, section), name)
    return value


def with_values(config: Config, values: Mapping[str, object], where: str = "settings") -> Config:
    """Return a copy with dotted keys replaced, each checked against its type and range.

    Raises:
        UsageError: an unknown key (the nearest is named), a wrong type, or a value out of range.
    """
    for key, value in values.items():
        checked = _checked(key, value, where)
        section, name = key.split(".")
        part = dataclasses.replace(getattr(config, section), **{name: checked})
        config = dataclasses.replace(config, **{section: part})
    return config


def _checked(key: str, value: object, where: str) -> Scalar:
    known = options()
    if key in REPLACED:
        raise UsageError(f"{where}: {key} is now {REPLACED[key]}")
    if key not in known:
        raise UsageError(f"{where}: unknown key {key!r}.{did_you_mean(key, known)}")
    kind, word = _number_or_word(field_type(key))
    if word and value == word:
        return word
    if kind is float and type(value) is int:
        value = float(value)
    if key == VIEWS and isinstance(value, list):
        value = json.dumps(value)
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            hint = did_you_mean(str(value), choices)
            raise UsageError(f"{where}: {key} is {value!r}, not one of {', '.join(choices)}.{hint}")
        return str(value)
    if kind is float and isinstance(value, float) and math.isfinite(value):
        value = float(value)  # numpy's too
    elif type(value) is not kind or value in (math.inf, -math.inf):
        raise UsageError(
            f"{where}: {key} takes {_article(field_type(key))}, not {value!r} "
            f"({type(value).__name__})"
        )
    limits = known[key].metadata
    if isinstance(value, int | float) and not limits["low"] <= value <= limits["high"]:
        raise UsageError(f"{where}: {key} is {value}, outside {range_text(key)}")
    return typing.cast(Scalar, value)


def _number_or_word(kind: Any) -> tuple[Any, str | None]:
    """Split ``float | Auto`` and its like into the number's type and the word that may stand."""
    if typing.get_origin(kind) is typing.Union:
        number, words = typing.get_args(kind)
        return number, typing.get_args(words)[0]
    return kind, None


def _article(kind: Any) -> str:
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    number, word = _number_or_word(kind)
    return names[number] + (f' or "{word}"' if word else "")


def range_text(key: str) -> str:
    """Return a key's range as text: ``[0, 1]``, ``≥ 0``, or nothing where any value is taken."""
    low, high = (options()[key].metadata[end] for end in ("low", "high"))
    if high < math.inf:
        return f"[{low:g}, {high:g}]"
    return f"≥ {low:g}" if low > -math.inf else ""


@dataclass(frozen=True)
class Recipe:
    """A shipped recipe.

    Attributes:
        header: comment lines; the first one says what it is.
        tables: its settings as TOML.
        values: its settings by dotted key.
    """

    header: str
    tables: str
    values: Mapping[str, object]


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(_recipes())


def recipe_text(name: str) -> str:
    """Return a shipped recipe as TOML: its header, its name, its settings.

    Raises:
        UsageError: no recipe has this name.
    """
    recipe = _recipe(name)
    return f"{recipe.header}\nrecipe = {toml_value(name)}\n\n{recipe.tables}"


def _recipe(name: str) -> Recipe:
    known = _recipes()
    if name not in known:
        raise UsageError(f"unknown recipe {name!r}.{did_you_mean(name, known)}")
    return known[name]


@functools.cache
def _recipes() -> dict[str, Recipe]:
    folder = resources.files("looktwice") / "recipes"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    found = [read_recipes(entry.read_text("utf-8"), entry.name) for entry in files]
    return {name: recipe for recipes in found for name, recipe in recipes.items()}


def read_recipes(text: str, file: str) -> dict[str, Recipe]:
    """Read the recipes of one file: itself, or its variants.

    A table of ``[variants]`` is one recipe: its tables are laid over the file's, its strings take
    the place of ``{variant.KEY}`` in the header. With ``name = "moco-{policy}-{data}"`` there
    is a recipe for every pair of ``[variants.policy.…]`` and ``[variants.data.…]``, both laid over
    the file in its order; their table ``with.VALUE`` holds only beside that value of the other.
    ``{name}`` in a header is the recipe's name, ``{policy}`` and ``{data}`` are the values'.

    Args:
        text: TOML that begins with a header of comments.
        file: its name, which is also the recipe's where there are no variants.

    Raises:
        UsageError: anything that is no valid setting, with the file and the variant.
    """
    header = re.match(r"(#.*\n)*", text)[0]  # type: ignore[index]
    tables = _toml(text, file)
    if "variants" not in tables:
        values = checked_settings(tables, file)
        return {file.removesuffix(".toml"): Recipe(header, text[len(header) :].lstrip(), values)}
    variants = tables.pop("variants")
    name = variants.pop("name", "{variant}")
    axes = variants if name != "{variant}" else {"variant": variants}
    shared = checked_settings(tables, file)
    found = {}
    for values_of_axes in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values_of_axes, strict=True))
        where = f"{file}, variant {' '.join(chosen.values())!r}"
        merged = shared
        for layer in _variant_layers(axes, chosen, where):
            merged = laid_over(merged, layer)
        texts = _header_texts(axes, chosen)
        texts["name"] = _filled(name, texts, where)
        tables_text = "\n".join(_section_lines(merged)) + "\n"
        found[texts["name"]] = Recipe(_filled(header, texts, where), tables_text, merged)
    return found


def _variant_layers(
    axes: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, str], where: str
) -> list[dict[str, object]]:
    """Return the settings of the chosen values, then those they have beside each other."""
    known = {value for values in axes.values() for value in values}
    alone, together = [], []
    for axis, value in chosen.items():
        tables = {k: v for k, v in axes[axis][value].items() if not isinstance(v, str)}
        beside = tables.pop("with", {})
        for other in beside:
            if other not in known:
                hint = did_you_mean(other, known)
                raise UsageError(f"{where}: no variant is called {other!r}, as in 'with'.{hint}")
        alone.append(checked_settings(tables, where))
        together += [checked_settings(beside[v], where) for v in chosen.values() if v in beside]
    return alone + together


def _header_texts(
    axes: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, str]
) -> dict[str, str]:
    texts = dict(chosen)
    for axis, value in chosen.items():
        strings = {k: v for k, v in axes[axis][value].items() if isinstance(v, str)}
        texts |= {f"{axis}.{key}": text for key, text in strings.items()}
    return texts


def _filled(text: str, texts: Mapping[str, str], where: str) -> str:
    """Replace ``{…}`` in a header or a name."""

    def text_of(match: re.Match[str]) -> str:
        if match[1] not in texts:
            raise UsageError(
                f"{where}: nothing to write for {match[0]}.{did_you_mean(match[1], texts)}"
            )
        return texts[match[1]].replace("\n", HEADER_INDENT)

    return re.sub(r"\{([a-z_.]+)\}", text_of, text)


def checked_settings(tables: Mapping[str, Any], where: str) -> dict[str, object]:
    """Return tables of settings by dotted key, each value checked.

    Raises:
        UsageError: an unknown key, a value of a wrong type or out of range.
    """
    values = _dotted(tables, where)
    for key, value in values.items():
        _checked(key, value, where)
    return values


def resolve(
    *,
    recipe: str | None = None,
    file: Path | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Merge recipe, file, environment and flags into one checked configuration.

    A layer that sets one of epochs, steps and minutes clears the other two of the layers below. A
    layer that names a policy, or gives one's own, clears what layers below changed in theirs, the
    size of the views aside.

    Raises:
        UsageError: an unknown recipe or key, a value of the wrong type or range.
    """
    file_values = _read_file(file) if file else {}
    file_recipe = file_values.pop("recipe", None)
    chosen = recipe or environ.get(f"{ENVIRONMENT_PREFIX}RECIPE") or file_recipe or DEFAULT_RECIPE
    config = Config(recipe=str(chosen))
    layers = [
        (f"recipe {chosen}", _recipe(str(chosen)).values),
        (str(file), file_values),
        ("environment", dict(_environment(environ))),
        ("flags", dict(flags or {})),
    ]
    for where, values in layers:
        config = _overlay(config, values, where)
    return validate(config)


def check_used(config: Config, typed: Iterable[str]) -> None:
    """Check that what was typed does something in the configuration it led to.

    Args:
        config: resolved.
        typed: dotted keys that a person gave for this run alone.

    Raises:
        UsageError: a key that means nothing with the method, head, loss, … chosen.
    """
    for key in typed:
        for other, values in options()[key].metadata["only"].items():
            value = _get(config, other)
            if value not in values:
                raise UsageError(
                    f"{key} does nothing where {other} is {value!r}: leave it out, or set {other} "
                    f"to {' or '.join(values)}"
                )


def _overlay(config: Config, values: Mapping[str, object], where: str) -> Config:
    given = [key for key in DURATIONS if values.get(key)]
    if len(given) > 1:
        raise UsageError(f"{where}: give one of {' and '.join(given)}, not {len(given)}")
    plain = flatten(Config())
    cleared: dict[str, object] = {
        key: field_type(key)(0) if key in DURATIONS else plain[key]
        for key in plain
        if _clears(values, key)
    }
    if "augment.policy" in values or VIEWS in values:
        values = _with_own_policy(values, where)
    return with_values(config, {**cleared, **values}, where)


def _clears(values: Mapping[str, object], key: str) -> bool:
    """Return whether a layer of these values takes back what layers below say of a key."""
    if key in DURATIONS:
        return any(values.get(duration) for duration in DURATIONS)
    names_policy = "augment.policy" in values or VIEWS in values
    return names_policy and key.startswith("augment.") and key != "augment.size"


def laid_over(below: Mapping[str, object], values: Mapping[str, object]) -> dict[str, object]:
    """Return one layer of settings of which another, over it, takes back or replaces some."""
    return {key: value for key, value in below.items() if not _clears(values, key)} | dict(values)


def _with_own_policy(values: Mapping[str, object], where: str) -> dict[str, object]:
    """Replace a policy's file by what is in it; one's own policies are called `OWN`."""
    changed = dict(values)
    name = str(values.get("augment.policy", OWN))
    if name.endswith(".toml"):
        if VIEWS in values:
            raise UsageError(f"{where}: give a policy's file or augment.views, not both")
        tables = _toml(_text(Path(name).expanduser()), name)
        if set(tables) != {"views"} or not isinstance(tables["views"], list):
            raise UsageError(f"{name}: a policy's file consists of [[views]] alone")
        changed[VIEWS] = tables["views"]
        name = OWN
    changed["augment.policy"] = name
    try:
        size = changed[VIEWS][0]["operations"][0]["size"]  # type: ignore[index]
    except (LookupError, TypeError):
        return changed  # no policy of one's own; or not a valid one, which is told when it is built
    return {"augment.size": size} | changed


def _read_file(path: Path) -> dict[str, object]:
    return parse(_text(path), str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise UsageError(f"no configuration file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read configuration file {path}: {error}") from error


def _toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not valid TOML: {error}") from None


def parse(text: str, where: str) -> dict[str, object]:
    """Parse TOML text into dotted keys (values unchecked).

    Raises:
        UsageError: the text is not TOML, or a key is unknown.
    """
    return _dotted(_toml(text, where), where)


def _dotted(tables: Mapping[str, Any], where: str) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, table in tables.items():
        if name == "recipe" and isinstance(table, str):
            values[name] = table
        elif name in sections() and isinstance(table, dict):
            values |= {f"{name}.{key}": value for key, value in table.items()}
        else:
            raise UsageError(f"{where}: unknown key {name!r}.{did_you_mean(name, sections())}")
    return values


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    names = {ENVIRONMENT_PREFIX + key.replace(".", "_").upper(): key for key in options()}
    reserved = {f"{ENVIRONMENT_PREFIX}{name}" for name in ("RECIPE", "DATA", "CACHE")}
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in reserved:
            continue
        if variable not in names:
            hint = did_you_mean(variable, names)
            raise UsageError(f"environment: unknown variable {variable}.{hint}")
        yield names[variable], from_text(names[variable], environ[variable], variable)


def from_text(key: str, text: str, where: str) -> Scalar:
    """Read a value from text by its key's type.

    Raises:
        UsageError: the text is not a value of that type.
    """
    kind, word = _number_or_word(field_type(key))
    if text == word:
        return text
    if kind is bool and text.lower() in {"true", "false", "1", "0", "yes", "no"}:
        return text.lower() in {"true", "1", "yes"}
    if kind in (int, float):
        try:
            return typing.cast(Scalar, kind(text))
        except ValueError:
            pass
    elif kind is not bool:
        return text
    raise UsageError(f"{where}: {key} takes {_article(field_type(key))}, not {text!r}")


def validate(config: Config) -> Config:
    """Check what concerns several keys; single values were checked as they came in.

    Raises:
        UsageError: keys that contradict each other.
    """
    augment = config.augment
    if augment.min_scale != "auto" != augment.max_scale and augment.min_scale > augment.max_scale:
        raise UsageError(
            f"augment.min_scale {augment.min_scale} is above augment.max_scale {augment.max_scale}"
        )
    plain = flatten(Config())
    for key, value in flatten(config).items():
        free = key in ("augment.policy", "augment.size", VIEWS) or not key.startswith("augment.")
        if augment.views and not free and value != plain[key]:
            raise UsageError(f"{key} changes a named policy, but this one is given as views")
    if (augment.policy == OWN) != bool(augment.views):
        raise UsageError(f"a policy of one's own is called {OWN!r} and given as augment.views")
    if not any(flatten(config)[key] for key in DURATIONS):
        raise UsageError("no length of the run: give --epochs, --steps or --minutes")
    return config


def to_toml(config: Config) -> str:
    """Return the configuration as TOML that `resolve(file=…)` reads back to the same value."""
    values: dict[str, object] = dict(flatten(config))
    del values[VIEWS]
    if config.augment.views:
        values[VIEWS] = json.loads(config.augment.views)
    return "\n".join([f"recipe = {toml_value(config.recipe)}", "", *_section_lines(values)]) + "\n"


def _section_lines(values: Mapping[str, object]) -> list[str]:
    """Return dotted keys as lines of TOML, in the order of the options."""
    lines: list[str] = []
    for section in sections():
        keys = [key for key in options() if key in values and key.startswith(f"{section}.")]
        if keys:
            lines += [*([""] if lines else []), f"[{section}]"]
            lines += [f"{key.split('.')[1]} = {toml_value(values[key])}" for key in keys]
    return lines


def toml_value(value: Any) -> str:
    """Return a string, number, truth value, list or table as inline TOML."""
    if isinstance(value, Mapping):
        pairs = (f"{name} = {toml_value(entry)}" for name, entry in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str):
        # JSON's escapes are valid in TOML's basic strings; DEL is the one TOML wants escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def load(path: Path) -> Config:
    """Read a complete configuration written by `to_toml`, environment and recipe left aside.

    Raises:
        UsageError: the file is missing or is no such configuration.
    """
    values = _read_file(path)
    recipe = str(values.pop("recipe", DEFAULT_RECIPE))
    return validate(with_values(Config(recipe=recipe), values, str(path)))


def diff(config: Config, keys: Iterable[str] | None = None) -> list[tuple[str, Scalar, Scalar]]:
    """Return (key, the recipe's value, this value) for every key that departs from its recipe."""
    values = _recipe(config.recipe).values
    base = flatten(_overlay(Config(recipe=config.recipe), values, config.recipe))
    mine = flatten(config)
    return [(key, base[key], mine[key]) for key in keys or mine if base[key] != mine[key]]
