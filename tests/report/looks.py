"""What a run's page shows of its features, without an encoder to compute it with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from looktwice.analysis import Similarities
from looktwice.report.histograms import histograms
from looktwice.report.insight import Insight
from looktwice.report.picture_map import picture_map


def made_insight(names: Sequence[str], labels: np.ndarray, classes: Sequence[str]) -> Insight:
    """Return an insight of random places, thumbnails and similarities."""
    generator = np.random.default_rng(0)
    count = len(names)
    flat = generator.normal(size=(count, 2)).astype(np.float32)
    thumbnails = generator.integers(0, 256, (count, 28, 28, 1), np.uint8)

    def similar(middle: float) -> Similarities:
        near, far = (np.clip(generator.normal(m, 0.1, 500), -1, 1) for m in (middle + 0.1, middle))
        return Similarities(near.astype(np.float32), far.astype(np.float32))

    return Insight(
        histograms=histograms({"Before training": similar(0.85), "After training": similar(0.3)}),
        map=picture_map(flat, thumbnails, names, labels, classes),
        map_words="Drawn by seed.",
        panels=(),
        missing=(f"CAM left out: {names[0]}.",),
    )
