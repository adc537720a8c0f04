"""t-SNE and the figures beside it, against scikit-learn and closed forms."""

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from looktwice.analysis import agreement, kept_neighbours, tsne
from looktwice.analysis.tsne import perplexity_of
from looktwice.errors import DataError


def clusters(count=120, classes=4, width=16, noise=0.15, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=generator)
    labels = torch.arange(count) % classes
    return centres[labels] + noise * torch.randn(count, width, generator=generator), labels


def test_what_is_near_in_features_is_near_on_the_plane():
    features, labels = clusters()
    flat = tsne(features)
    assert flat.shape == (120, 2)
    assert flat.dtype == np.float32
    assert trustworthiness(features, flat, n_neighbors=10, metric="cosine") > 0.9
    nearest = NearestNeighbors(n_neighbors=2).fit(flat).kneighbors(flat, return_distance=False)
    assert (labels[nearest[:, 1]] == labels).all()


def test_equal_bits_for_any_number_of_threads_and_other_ones_for_another_seed():
    features, _ = clusters(60)
    first = tsne(features, seed=3)
    assert np.array_equal(first, tsne(features, seed=3, threads=2))
    assert not np.array_equal(first, tsne(features, seed=4))


def test_only_directions_count():
    features, _ = clusters(40)
    lengths = 2.0 ** torch.randint(-3, 4, (40, 1), generator=torch.Generator().manual_seed(1))
    assert np.array_equal(tsne(features), tsne(features * lengths))


def test_perplexity_shrinks_with_the_points():
    assert perplexity_of(10_000) == 30
    assert perplexity_of(31) == 10
    assert np.isfinite(tsne(clusters(8)[0])).all()


def test_many_copies_of_one_picture_stay_finite():
    features, _ = clusters(80)
    features[:50] = features[0]
    flat = tsne(features)
    assert np.isfinite(flat).all()
    assert 0 <= kept_neighbours(features, flat) <= 1


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.ones(20, 4), "collapsed"),
        (torch.full((20, 4), torch.nan), "not finite"),
        (torch.eye(5), "too few"),
    ],
)
def test_refuses_what_has_no_neighbourhoods(features, message):
    with pytest.raises(DataError, match=message):
        tsne(features)


def test_kept_neighbours_as_scikit_learn_counts_them():
    features, _ = clusters(90, noise=1.0)
    flat = torch.randn(90, 2, generator=torch.Generator().manual_seed(2)).numpy()
    own = NearestNeighbors(n_neighbors=10, metric="cosine").fit(features)
    other = NearestNeighbors(n_neighbors=10).fit(flat)
    found = (one.kneighbors(return_distance=False) for one in (own, other))
    pairs = zip(*found, strict=True)
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in pairs])
    assert kept_neighbours(features, flat) == pytest.approx(expected, abs=1e-12)


def test_a_map_of_two_features_keeps_all_on_a_circle():
    angle = torch.arange(24) * 0.1
    features = torch.stack([angle.cos(), angle.sin()], dim=1)
    assert kept_neighbours(features, np.float32(features)) == 1


def test_agreement_by_hand():
    features = torch.tensor(
        [[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0], [-1, 0.1], [0, -1], [0.2, -1]]
    )
    assert agreement(features, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])) == 1
    assert agreement(features, torch.tensor([0, 0, 1, 2, 2, 1, 3, 3])) == 0.5
