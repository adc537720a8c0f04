"""What is in views, and how near a gradient is to the true one: closed forms and slow loops."""

import numpy as np
import pytest
import torch
from torch import nn

from looktwice.augment import CenterCrop, Policy, policy
from looktwice.data import open_source
from looktwice.losses import margin_triplet, nt_logistic, nt_xent
from looktwice.methods import Embedded
from looktwice.study.gradients import NaiveAccumulation
from looktwice.study.views import bits_in_views, entropy, found_by_histogram
from looktwice.study.weights import LOSSES, OTHERS, POSITIVE, negative_weights


def source(pictures):
    return open_source(pictures)


def test_entropy_of_known_counts():
    assert entropy(np.array([5, 5, 5, 5, 0])) == pytest.approx(2)
    assert entropy(np.array([7, 0])) == 0


def test_noise_has_more_bits_than_flat_pictures():
    generator = np.random.default_rng(0)
    whole = Policy(((CenterCrop(16),), (CenterCrop(16),)))
    noise = generator.integers(0, 256, (20, 16, 16, 1), dtype=np.uint8)
    flat = np.full((20, 16, 16, 1), 128, np.uint8)
    png, pixel = bits_in_views(source(noise), whole, seed=0)
    assert pixel == pytest.approx(8, abs=0.05)
    assert png > 8 * 256
    png_flat, pixel_flat = bits_in_views(source(flat), whole, seed=0)
    assert pixel_flat == 0
    assert png_flat < png / 2


def test_equal_views_are_found_by_their_histograms_and_jittered_ones_less_often():
    generator = np.random.default_rng(0)
    tints = generator.integers(0, 200, (60, 1, 1, 3))
    pictures = (tints + generator.integers(0, 56, (60, 24, 24, 3))).astype(np.uint8)
    same = Policy(((CenterCrop(16),), (CenterCrop(16),)))
    assert found_by_histogram(source(pictures), same, seed=0) == 1
    crops = policy("simclr", size=16, strength=0.0, gray_p=0.0, blur_p=0.0)
    jittered = policy("simclr", size=16, strength=1.0, gray_p=0.2, blur_p=0.0)
    plain, changed = (found_by_histogram(source(pictures), p, seed=0) for p in (crops, jittered))
    assert plain > 0.8
    assert changed < 0.5 * plain


def test_naive_accumulation_is_the_mean_of_pieces_that_do_not_see_each_other():
    torch.manual_seed(0)
    z = torch.randn(12, 2, 5, dtype=torch.float64, requires_grad=True)
    method = NaiveAccumulation(nn.Identity(), nn.Identity(), piece=4, temperature=0.3)
    loss = method.loss(Embedded(z))
    expected = torch.stack([nt_xent(p[:, 0], p[:, 1], temperature=0.3) for p in z.split(4)]).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    gradient, other = (torch.autograd.grad(x, z, retain_graph=True)[0] for x in (loss, expected))
    torch.testing.assert_close(gradient, other, rtol=0, atol=1e-12)
    assert method.chance_loss(12) == pytest.approx(np.log(7), rel=1e-6)
    whole = nt_xent(z[:, 0], z[:, 1], temperature=0.3)
    assert abs(loss.item() - whole.item()) > 0.1


def test_weights_of_negatives_are_those_of_table_2():
    """arXiv 2002.05709, table 2: softmax, sigmoid, and all or nothing."""
    s = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    softmax = np.exp(s.numpy() / 0.1) / np.exp(OTHERS.numpy() / 0.1).mean()
    np.testing.assert_allclose(negative_weights("NT-Xent 0.1", s), softmax, rtol=1e-9)
    sigmoid = 1 / (1 + np.exp(-s.numpy() / 0.2))
    mean = (1 / (1 + np.exp(-OTHERS.numpy() / 0.2))).mean()
    np.testing.assert_allclose(negative_weights("NT-Logistic 0.2", s), sigmoid / mean, rtol=1e-9)
    margin = negative_weights("margin 0.4", s).numpy()
    assert ((margin > 0) == (s.numpy() > POSITIVE - 0.4)).all()


def test_the_losses_drawn_are_the_losses_trained_with():
    """Each query's loss from a table of similarities, averaged, is what `losses` gives."""
    generator = torch.Generator().manual_seed(0)
    z0, z1 = torch.randn(2, 6, 8, dtype=torch.float64, generator=generator)
    z = torch.nn.functional.normalize(torch.cat([z0, z1]), dim=1)
    similar = z @ z.T
    found = {
        "NT-Xent 0.5": nt_xent(z0, z1, temperature=0.5),
        "NT-Logistic 0.2": nt_logistic(z0, z1, temperature=0.2),
        "margin 0.4": margin_triplet(z0, z1, margin=0.4),
    }
    for name, expected in found.items():
        losses = []
        for query in range(12):
            others = [i for i in range(12) if i % 6 != query % 6]
            losses.append(LOSSES[name](similar[query, (query + 6) % 12], similar[query, others]))
        assert torch.stack(losses).mean().item() == pytest.approx(expected.item(), abs=1e-12), name
