"""The loop that trains classifiers: beside one written by hand, killed, and with bad pictures."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from looktwice.augment import policy
from looktwice.data import ArraySource, permute
from looktwice.errors import BadPictureError, RunError
from looktwice.evaluate.fitting import Recipe, fingerprint, fit, linear_head

SIMCLR = Recipe(0.1, epochs=3, batch_size=4, nesterov=True)
MOCO = Recipe(2.0, epochs=3, batch_size=4, nesterov=False, drops=(0.4, 0.8))
NUM, SIDE, CLASSES = 14, 6, 3


@pytest.fixture
def source():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (NUM, 9, 9, 1), dtype=np.uint8)
    return ArraySource(images, np.arange(NUM) % CLASSES)


def forward_of(head):
    return lambda pictures: head(pictures.flatten(1).float() / 255)


def trained(source, recipe, folder=None, forward=None, seed=5):
    head = linear_head(SIDE * SIDE, CLASSES, seed=1)
    fit(
        (forward or forward_of)(head),
        head,
        source,
        recipe,
        size=SIDE,
        seed=seed,
        device=torch.device("cpu"),
        folder=folder,
    )
    return head


def by_hand(source, recipe, seed=5):
    """Softmax regression by plain sums: the views of the policy, the rates of the papers."""
    head = linear_head(SIDE * SIDE, CLASSES, seed=1)
    parameters = [p.detach().double().numpy() for p in (head.weight, head.bias)]
    velocities = [np.zeros_like(p) for p in parameters]
    views_of = policy("supervised", size=SIDE)
    per_epoch = NUM // recipe.batch_size
    total = int(recipe.epochs * per_epoch)
    for step in range(total):
        epoch, batch = divmod(step, per_epoch)
        positions = batch * recipe.batch_size + np.arange(recipe.batch_size)
        chosen = permute(NUM, seed, epoch, positions)
        pictures = np.stack([source.image(int(i)) for i in chosen])
        views = views_of(pictures, seed=seed, epoch=epoch, indices=chosen)
        x = views[:, 0].transpose(0, 3, 1, 2).reshape(len(chosen), -1) / 255
        logits = x @ parameters[0].T + parameters[1]
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        residual = (chances - np.eye(CLASSES)[source.labels[chosen]]) / len(chosen)
        gradients = [residual.T @ x, residual.sum(axis=0)]
        rate = recipe.base_lr * recipe.batch_size / 256
        if recipe.drops:
            rate *= 0.1 ** sum(step >= share * total for share in recipe.drops)
        else:
            rate *= (1 + math.cos(math.pi * step / total)) / 2
        for p, v, g in zip(parameters, velocities, gradients, strict=True):
            v *= 0.9
            v += g
            p -= rate * (g + 0.9 * v if recipe.nesterov else v)
    return parameters


@pytest.mark.parametrize("recipe", [SIMCLR, MOCO])
def test_it_is_the_loop_written_by_hand(source, recipe):
    head = trained(source, recipe)
    weight, bias = by_hand(source, recipe)
    np.testing.assert_allclose(head.weight.detach().numpy(), weight, rtol=0, atol=2e-6)
    np.testing.assert_allclose(head.bias.detach().numpy(), bias, rtol=0, atol=2e-6)
    start = linear_head(SIDE * SIDE, CLASSES, seed=1)
    assert (head.weight - start.weight).abs().max() > 1e-3


class KilledError(Exception):
    pass


def killing(at):
    """Make a forward pass that dies at its n-th call."""
    calls = []

    def make(head):
        def forward(pictures):
            calls.append(1)
            if len(calls) == at:
                raise KilledError
            return forward_of(head)(pictures)

        return forward

    return make


@pytest.mark.parametrize("recipe", [SIMCLR, MOCO])
def test_killed_anywhere_it_ends_with_the_same_bits(source, recipe, tmp_path):
    whole = fingerprint(trained(source, recipe))
    steps = np.random.default_rng(3).permutation(np.arange(1, 10))[:4]
    for at in [int(step) for step in steps]:
        folder = tmp_path / f"{at}"
        with pytest.raises(KilledError):
            trained(source, recipe, folder, killing(at))
        assert fingerprint(trained(source, recipe, folder)) == whole
        assert fingerprint(trained(source, recipe, folder, killing(1))) == whole  # nothing is left


def test_dropout_goes_on_too(source, tmp_path):
    def dropping(at):
        kill = killing(at)
        return lambda head: lambda x: nn.functional.dropout(kill(head)(x), 0.5)

    whole = fingerprint(trained(source, SIMCLR, forward=dropping(0)))
    with pytest.raises(KilledError):
        trained(source, SIMCLR, tmp_path / "a", dropping(6))
    assert fingerprint(trained(source, SIMCLR, tmp_path / "a", dropping(0))) == whole


def test_bad_pictures_count_for_nothing(source, monkeypatch):
    image = source.image

    def broken(i):
        if i == 3:
            raise BadPictureError("3", "torn")
        return image(i)

    monkeypatch.setattr(source, "image", broken)
    sizes = []

    def counting(head):
        def forward(pictures):
            sizes.append(len(pictures))
            return forward_of(head)(pictures)

        return forward

    trained(source, dataclasses.replace(SIMCLR, batch_size=NUM), forward=counting)
    assert sizes == [NUM - 1] * 3


def test_a_small_source_is_one_batch(source):
    sizes = []
    trained(
        source,
        dataclasses.replace(SIMCLR, batch_size=256),
        forward=lambda head: lambda x: (sizes.append(len(x)), forward_of(head)(x))[1],
    )
    assert sizes == [NUM] * 3


def test_a_loss_that_is_not_finite_is_one_line(source):
    with pytest.raises(RunError, match="at step 1: its learning rate is too large") as caught:
        trained(source, SIMCLR, forward=lambda head: lambda x: forward_of(head)(x) * math.nan)
    assert "\n" not in str(caught.value)


def test_a_fingerprint_sees_every_bit():
    layer = nn.BatchNorm1d(3)
    before = fingerprint(layer)
    layer.num_batches_tracked += 1
    assert fingerprint(layer) != before
