"""Cosines of pairs of views, against a slow loop and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from looktwice.analysis import Similarities, similarities


def test_every_pair_is_compared_once():
    views = torch.randn(5, 2, 7, generator=torch.Generator().manual_seed(0))
    found = similarities(views)

    def cosine(a, b):
        return float(torch.dot(a, b) / a.norm() / b.norm())

    positives = [cosine(views[i, 0], views[i, 1]) for i in range(5)]
    negatives = [cosine(views[i, 0], views[j, 1]) for i in range(5) for j in range(5) if i != j]
    np.testing.assert_allclose(found.positives, positives, atol=1e-6)
    np.testing.assert_allclose(found.negatives, negatives, atol=1e-6)


def test_told_apart_is_the_area_under_the_roc_curve():
    generator = np.random.default_rng(0)
    positives = generator.normal(0.5, 1, 40).round(1).astype(np.float32)  # rounded: with ties
    negatives = generator.normal(0.0, 1, 300).round(1).astype(np.float32)
    truth = np.concatenate([np.ones(40), np.zeros(300)])
    expected = roc_auc_score(truth, np.concatenate([positives, negatives]))
    assert Similarities(positives, negatives).told_apart == pytest.approx(expected, abs=1e-12)
    equal = np.ones(3, np.float32)
    assert Similarities(equal, equal).told_apart == 0.5
