"""How many bits are in the views that a policy makes."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from looktwice.augment import Policy
from looktwice.data import Source
from looktwice.features import readable
from looktwice.monitor import MONITOR_EPOCH, sample

NUM_PICTURES = 512
NUM_BINS = 32


def bits_in_views(source: Source, policy: Policy, *, seed: int) -> tuple[float, float]:
    """Return the mean bits of a view as a PNG file, and the entropy of its values.

    Both are upper bounds on what a view tells, of different kinds: PNG finds neighbouring pixels
    that are alike (and has a few hundred bits of its own), the entropy of the histogram does not
    see where a pixel is. The entropy is that of all values of all views' channels together, as if
    pixels were independent.

    Args:
        source: at most `NUM_PICTURES` of its pictures are looked at.
        policy: the first view's first size is looked at.
        seed: of the views.

    Returns:
        Bits a picture, and bits a value of a channel (0 to 8).
    """
    chosen = sample(source, NUM_PICTURES)
    sizes, counts = [], np.zeros(256, np.int64)
    for index, picture in readable(chosen):
        made = policy([picture], seed=seed, epoch=MONITOR_EPOCH, indices=np.array([index]))
        view = (made[0] if isinstance(made, tuple) else made)[0, 0]
        sizes.append(8 * len(_png(view)))
        counts += np.bincount(view.ravel(), minlength=256)
    return float(np.mean(sizes)), entropy(counts)


def found_by_histogram(source: Source, policy: Policy, *, seed: int) -> float:
    """Return how often a view's partner has the nearest colour histogram, 0 .. 1.

    The short cut of arXiv 2002.05709, figure 6: crops of one picture share a distribution of
    intensities, which tells them from others without any look at what is in them. Histograms of
    `NUM_BINS` levels a channel are compared by the sum of absolute differences; the first two
    views of at most `NUM_PICTURES` pictures, each looking for its own among all others' seconds.
    """
    chosen = sample(source, NUM_PICTURES)
    histograms = []
    for index, picture in readable(chosen):
        made = policy([picture], seed=seed, epoch=MONITOR_EPOCH, indices=np.array([index]))
        views = (made[0] if isinstance(made, tuple) else made)[0, :2]
        histograms.append([_histogram(view) for view in views])
    first, second = np.moveaxis(np.asarray(histograms), 1, 0)
    distance = np.abs(first[:, None] - second[None]).sum(axis=2)
    return float((distance.argmin(axis=1) == np.arange(len(distance))).mean())


def _histogram(view: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the shares of `NUM_BINS` levels of each channel of a view (S, S, C), in one row."""
    levels = view.reshape(-1, view.shape[2]) // (256 // NUM_BINS)
    counts = [np.bincount(channel, minlength=NUM_BINS) for channel in levels.T]
    return np.concatenate(counts) / len(levels)


def entropy(counts: NDArray[np.int64]) -> float:
    """Return the entropy, in bits, of counts (N,)."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _png(view: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(view[..., 0] if view.shape[2] == 1 else view).save(file, "PNG", optimize=True)
    return file.getvalue()
