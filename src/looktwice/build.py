"""From a configuration to the parts of a run: the last place that sees the configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn, optim

from looktwice import config as configuration
from looktwice import distributed, launched
from looktwice import optim as optimisers
from looktwice.allocation import keep_freed_memory
from looktwice.augment import Policy
from looktwice.config import Config, ModelConfig
from looktwice.data import Loader, Splits
from looktwice.data.class_names import SHIPPED_LISTS
from looktwice.data.named import DATA_SETS
from looktwice.data.remote import is_remote
from looktwice.data.shards import is_pattern
from looktwice.errors import UsageError
from looktwice.large_batch import LargeBatch, activation_bytes, fitting_micro_batch
from looktwice.methods import Method, OwnMethod, Parts, build_method
from looktwice.models import (
    Encoder,
    EncoderSpec,
    backbone_normalisation,
    build_backbone,
    build_head,
    default_small_stem,
    feature_width,
)
from looktwice.monitor import Monitor
from looktwice.run import build_policy
from looktwice.tracking import Tracker, build_tracker

# What torch found when it started; it can be lowered by any run in this process.
_ALL_THREADS = torch.get_num_threads()

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where Linux tells what this process's control group may use."""


@dataclass(frozen=True)
class Training:
    """All parts of a run, built from its resolved configuration."""

    config: Config
    splits: Splits
    policy: Policy
    loader: Loader
    method: Method
    large_batch: LargeBatch
    encoder: Encoder
    optimizer: optim.Optimizer
    monitor: Monitor
    tracker: Tracker
    device: torch.device
    peak_lr: float
    warmup_steps: int
    drops: tuple[float, ...] | None

    @property
    def num_epochs(self) -> float:
        """Length of the run in epochs."""
        return self.config.train.steps / self.loader.steps_per_epoch


def settle(config: Config, splits: Splits) -> Config:
    """Replace every "automatic" value by the one chosen, so that the run can be repeated.

    Minutes are left: turning them into steps takes a trained step or two, see `train.calibrate`.
    """
    model = config.model
    stem = model.stem
    if stem == "auto":
        small = default_small_stem(model.backbone, config.augment.size)
        stem = "small" if small else "standard"
    device = config.train.device
    config = configuration.with_values(
        config,
        {
            "model.stem": stem,
            "model.image_size": model.image_size or _image_size(config, splits),
            "train.device": best_device() if device == "auto" else device,
            "train.threads": config.train.threads or all_threads(),
            **_absolute_paths(config),
        },
    )
    if not config.train.epochs:
        return config
    per_epoch = len(splits.train) // config.train.batch_size
    return with_steps(config, max(1, round(config.train.epochs * per_epoch)))


def settle_micro_batch(
    config: Config, splits: Splits, own_method: OwnMethod | None = None
) -> Config:
    """Replace "auto" by the largest piece whose activations fill half of the free memory."""
    if config.train.micro_batch != "auto":
        return config
    device = open_device(config.train.device)
    policy = build_policy(config.augment)
    method, encoder = _build_networks(config, splits, policy, device, own_method)
    few = 8
    views = tuple(
        encoder.normalize(torch.zeros(few, len(group), splits.train.channels, size, size))
        for size, group in policy.groups.items()
    )
    per_picture = activation_bytes(method, tuple(v.to(device) for v in views)) / few
    own = config.train.batch_size // distributed.world_size()
    micro_batch = fitting_micro_batch(
        own,
        config.train.bn_group,
        bytes_per_picture=per_picture,
        budget=free_memory(device) / 2,
    )
    chosen = distributed.from_first(micro_batch)
    return configuration.with_values(config, {"train.micro_batch": chosen})


def all_threads() -> int:
    """Return how many threads of torch use all cores, shared evenly by this machine's processes.

    torchrun sets OMP_NUM_THREADS to 1 where it is not set; any other number is the user's.
    """
    processes = launched.local_world_size()
    if processes == 1 or os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return _ALL_THREADS
    return max(1, launched.usable_cores() // processes)


def free_memory(device: torch.device) -> int:
    """Return the bytes this process may still take on a device: of the CPU's, its share of them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [_free_of_machine(), *_free_of_group()]
    return min(free) // launched.local_world_size()


def _free_of_machine() -> int:
    """Return the bytes that can be had, what the page cache would give back included."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux: half of all
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_of_group() -> list[int]:
    """Return the bytes that this process's control group may still take, if it has a limit."""
    try:
        limit, current = (
            int((CONTROL_GROUP / f"memory.{name}").read_text()) for name in ("max", "current")
        )
        inactive = next(
            int(line.split()[1])
            for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file")
        )
    except (OSError, ValueError, StopIteration):
        return []
    return [max(0, limit - current + inactive)]


def _absolute_paths(config: Config) -> dict[str, object]:
    """Return the paths that are there, absolute: a run may be resumed from elsewhere."""
    values = configuration.flatten(config)
    keys = ("data.source", "data.root", "data.classes", "model.init")
    names = {"data.source": DATA_SETS, "data.classes": SHIPPED_LISTS}
    paths = {
        key: Path(str(values[key]))
        for key in keys
        if values[key] and values[key] not in names.get(key, ())
    }
    here = {key for key, path in paths.items() if path.exists()}
    source = config.data.source
    if is_pattern(source) and not is_remote(source):
        here.add("data.source")
    return {key: str(paths[key].absolute()) for key in here}


def with_steps(config: Config, steps: int) -> Config:
    """Return the configuration with its length given in steps alone."""
    durations = {"train.steps": steps, "train.epochs": 0.0, "train.minutes": 0.0}
    return configuration.with_values(config, durations)


def _image_size(config: Config, splits: Splits) -> int:
    size = splits.train.picture_size
    return min(size) if size and max(size) <= 64 else config.augment.size


def best_device() -> str:
    """Return CUDA where there is one, then Apple's GPU, then the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def build(config: Config, splits: Splits, own: OwnMethod | None = None) -> Training:
    """Build every part of a run from a settled configuration; seeds torch's generators.

    Args:
        config: settled.
        splits: the pictures.
        own: makes the method, where it is one's own.

    Raises:
        UsageError: a device that is not here, or parts that do not fit together.
    """
    tracker = build_tracker(config.train.tracker)
    device = open_device(config.train.device)
    torch.set_num_threads(config.train.threads)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.train.seed)
    policy = build_policy(config.augment)
    policy.check_channels(splits.train.channels)
    loader = Loader(
        splits.train,
        policy,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        threads=config.data.threads,
        max_bad=config.data.max_bad,
        scaled_decoding=config.data.scaled_decoding,
        share=distributed.share(config.train.batch_size),
    )
    method, encoder = _build_networks(config, splits, policy, device, own)
    distributed.copy_from_first(list(method.state_dict().values()))
    if distributed.rank():  # layers that draw shall not drop the same in every process
        torch.manual_seed((config.train.seed + distributed.rank() * 0x9E3779B1) % 2**63)
    large_batch = LargeBatch(
        method,
        encoder.normalize,
        batch_size=config.train.batch_size,
        micro_batch=_micro_batch(config),
        bn_group=config.train.bn_group,
        amp=device.type == "cuda" and config.train.amp == "auto",
        seed=config.train.seed,
    )
    if config.train.compile:
        method.backbone.compile()
    return Training(
        config=config,
        splits=splits,
        policy=policy,
        loader=loader,
        method=method,
        large_batch=large_batch,
        encoder=encoder,
        optimizer=optimisers.build_optimizer(
            method,
            name=config.optim.name,
            momentum=config.optim.momentum,
            weight_decay=config.optim.weight_decay,
        ),
        monitor=Monitor(
            splits, policy, seed=config.train.seed, temperature=config.method.temperature
        ),
        tracker=tracker,
        device=device,
        peak_lr=optimisers.peak_learning_rate(
            config.optim.base_lr, config.train.batch_size, config.optim.lr_scaling
        ),
        warmup_steps=optimisers.warmup_steps(
            config.optim.warmup_epochs,
            steps_per_epoch=loader.steps_per_epoch,
            total_steps=config.train.steps,
        ),
        drops=(
            optimisers.parse_drops(config.optim.drops) if config.optim.schedule == "drops" else None
        ),
    )


def open_device(name: str) -> torch.device:
    """Return a device that works here, or raise UsageError."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name!r} cannot be used here: {reason}") from error
    return device


def _build_networks(
    config: Config, splits: Splits, policy: Policy, device: torch.device, own: OwnMethod | None
) -> tuple[Method, Encoder]:
    encoder = _build_encoder(config, splits.train.channels, policy)
    method = _build_method(config, splits, policy, encoder.backbone, own)
    method = method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method, encoder.to(device)


def _build_encoder(config: Config, channels: int, policy: Policy) -> Encoder:
    """Build what is drawn first from torch's generator: what a method adds changes nothing here."""
    model = config.model
    small_stem = model.stem == "small"
    backbone = build_backbone(
        model.backbone, channels=channels, small_stem=small_stem, init=model.init
    )
    feature_width(backbone, channels, (*policy.groups, model.image_size))
    mean, std = backbone_normalisation(backbone, model.init, channels)
    spec = EncoderSpec(model.backbone, channels, small_stem, model.image_size, mean, std)
    return Encoder(backbone, spec)


def _build_method(
    config: Config, splits: Splits, policy: Policy, backbone: nn.Module, own: OwnMethod | None
) -> Method:
    model = config.model
    num_features = feature_width(backbone, splits.train.channels, (policy.size,))
    width = model.head_width or num_features
    embedding_dim = num_features if model.head == "none" else model.embedding_dim
    parts = Parts(
        backbone=backbone,
        projection_head=projection_head(model, num_features),
        predictor=lambda: build_head(
            "mlp",
            num_features=embedding_dim,
            num_layers=2,
            width=model.predictor_width or width,
            embedding_dim=embedding_dim,
        ),
        classifier=lambda num_classes: nn.Linear(num_features, num_classes),
        embedding_dim=embedding_dim,
        num_views=policy.num_views,
        num_full=len(policy.groups[policy.size]),
        num_classes=0 if splits.train.labels is None else int(splits.train.labels.max()) + 1,
        batch_size=config.train.batch_size,
    )
    return build_method(config.method, parts, own)


def projection_head(model: ModelConfig, num_features: int) -> nn.Module:
    """Build the projection head (N, num_features) -> (N, embedding_dim) of a run, untrained."""
    return build_head(
        model.head,
        num_features=num_features,
        num_layers=model.head_layers,
        width=model.head_width or num_features,
        embedding_dim=num_features if model.head == "none" else model.embedding_dim,
        norm=model.head_norm,
    )


def _micro_batch(config: Config) -> int:
    assert config.train.micro_batch != "auto", "settled before"
    return config.train.micro_batch


def untrained_encoder(config: Config, channels: int) -> Encoder:
    """Return the encoder a run on pictures of 1 or 3 channels started from, weight for weight.

    With `model.init` that is the network at those weights; it is in eval mode.
    """
    torch.manual_seed(config.train.seed)
    return _build_encoder(config, channels, build_policy(config.augment)).eval()
