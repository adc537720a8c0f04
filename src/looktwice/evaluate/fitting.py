"""The loop that trains classifiers on augmented pictures: a linear head, or a whole network."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from looktwice.augment import Policy, policy
from looktwice.checkpoint import (
    generator_tensors,
    list_checkpoints,
    load_checkpoint,
    load_generator_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
    prune_checkpoints,
    save_checkpoint,
)
from looktwice.data import Batch, Loader, Source
from looktwice.errors import RunError
from looktwice.optim import learning_rate, peak_learning_rate

MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained: SGD with momentum .9, no warm-up, no weight decay.

    Attributes:
        base_lr: learning rate at batch 256; in proportion at others.
        epochs: passes through the labelled pictures.
        batch_size: pictures a step; all of them where there are fewer.
        nesterov: whether the momentum is Nesterov's.
        drops: shares of the training after which the rate is a tenth; None: half a cosine to 0.
    """

    base_lr: float
    epochs: float
    batch_size: int
    nesterov: bool
    drops: tuple[float, ...] | None = None

    def lasting(self, epochs: float | None) -> Recipe:
        """Return the recipe with another length; None keeps its own."""
        return self if epochs is None else dataclasses.replace(self, epochs=epochs)


def crop_and_flip(size: int) -> Policy:
    """Return the views heads are trained on, of both papers: crop of area .08-1, flip."""
    return policy("supervised", size=size)


def fit(
    forward: Callable[[Tensor], Tensor],
    trained: nn.Module,
    source: Source,
    recipe: Recipe,
    *,
    size: int,
    seed: int,
    device: torch.device,
    folder: Path | None,
    threads: int = 1,
    scaled_decoding: bool = True,
) -> None:
    """Train a classifier by cross-entropy, in place; a killed one goes on to the same bits.

    A picture that cannot be read counts for nothing, however many there are (`cached.readable_part`
    counts them): the loader would put another one, of another label, in its place.

    Args:
        forward: maps pictures uint8 (B, C, S, S) to logits (B, classes).
        trained: all that `forward` has to learn, and all of it that changes.
        source: labelled pictures.
        recipe: how.
        size: S, side of the views in pixels.
        seed: of the order, the views and dropout.
        device: where `forward` computes.
        folder: of this one training's checkpoints, one an epoch; None: none.
        threads: that make views; their number changes no bit.
        scaled_decoding: as `Loader`.

    Raises:
        RunError: the loss is not finite, or a checkpoint cannot be written.
        DataError: no picture can be read.
    """
    batch_size = min(recipe.batch_size, len(source))
    views = crop_and_flip(size)
    loader = Loader(
        source,
        views,
        batch_size=batch_size,
        seed=seed,
        threads=threads,
        max_bad=1.0,
        scaled_decoding=scaled_decoding,
    )
    total = max(1, round(recipe.epochs * loader.steps_per_epoch))
    peak_lr = peak_learning_rate(recipe.base_lr, batch_size, "linear")
    optimizer = optim.SGD(trained.parameters(), lr=0.0, momentum=MOMENTUM, nesterov=recipe.nesterov)
    torch.manual_seed(seed)
    begin = 0 if folder is None else _restore(folder, trained, optimizer)
    with contextlib.closing(loader.batches(begin, total)) as batches:
        for batch in batches:
            rate = learning_rate(
                batch.step, total_steps=total, warmup_steps=0, peak_lr=peak_lr, drops=recipe.drops
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            pictures, labels = _readable(batch, loader, source)
            loss = F.cross_entropy(forward(pictures.to(device)), labels.to(device))
            if not math.isfinite(loss.item()):
                raise RunError(
                    f"the loss of the classifier is {loss.item()} at step {batch.step + 1}: its "
                    "learning rate is too large for these features; try another --variant"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            done = batch.step + 1
            if folder is not None and (done % loader.steps_per_epoch == 0 or done == total):
                _save(folder, done, trained, optimizer)


def _readable(batch: Batch, loader: Loader, source: Source) -> tuple[Tensor, Tensor]:
    """Return the pictures (B, C, S, S) and labels (B,) of a batch, those apart that are bad."""
    assert source.labels is not None
    indices = batch.indices.tolist()
    good = [place for place, index in enumerate(indices) if index not in loader.bad_pictures]
    pictures = torch.from_numpy(batch.views[0][:, 0]).permute(0, 3, 1, 2)
    return pictures[good], torch.from_numpy(source.labels[batch.indices[good]])


def _save(folder: Path, step: int, trained: nn.Module, optimizer: optim.Optimizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "trained": trained.state_dict(),
        "optimizer": optimizer_tensors(optimizer),
        "generators": generator_tensors(),
    }
    save_checkpoint(folder, step, parts, {"step": step})
    prune_checkpoints(folder, keep_last=1)


def _restore(folder: Path, trained: nn.Module, optimizer: optim.Optimizer) -> int:
    """Put the last checkpoint back and return its step; 0 without one."""
    found = list_checkpoints(folder)
    if not found:
        return 0
    parts, state = load_checkpoint(found[-1])
    trained.load_state_dict(parts["trained"])
    load_optimizer_tensors(optimizer, parts["optimizer"])
    load_generator_tensors(parts["generators"])
    step: int = state["step"]
    return step


def unfinished(folder: Path | None, *decides: object) -> Path | None:
    """Return the folder of one training's checkpoints: its name tells all that decides it."""
    if folder is None:
        return None
    return folder / hashlib.sha256(repr(decides).encode()).hexdigest()[:16]


def fingerprint(module: nn.Module) -> str:
    """Return a sha256 (hex) of every weight and buffer of a module, bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def linear_head(width: int, num_classes: int, seed: int) -> nn.Linear:
    """Return a linear classifier as both papers' code starts it: normal of sd .01, bias 0."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, num_classes)
    with torch.no_grad():
        head.weight.normal_(0, 0.01, generator=generator)
        head.bias.zero_()
    return head
