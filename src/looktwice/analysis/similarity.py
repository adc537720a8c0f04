"""How alike views of one picture are, beside views of two: the cosines themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Cosines = NDArray[np.float32]


@dataclass(frozen=True)
class Similarities:
    """Cosines of the features of views.

    Attributes:
        positives: of the two views of each picture, (N,).
        negatives: of a view of each picture with the other view of each other, (N (N - 1),).
    """

    positives: Cosines
    negatives: Cosines

    @property
    def told_apart(self) -> float:
        """How often a positive pair is more alike than a negative one, both drawn blindly, 0 to 1.

        The area under the ROC curve (Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747);
        0.5 is chance, and what equal cosines count.
        """
        order = np.sort(self.negatives)
        below = np.searchsorted(order, self.positives, "left").astype(np.float64)
        equal = np.searchsorted(order, self.positives, "right") - below
        return float((below + equal / 2).mean() / len(order))


def similarities(views: Tensor) -> Similarities:
    """Compare the features (N, 2, D) of two views of N pictures, N at least 2."""
    first, second = F.normalize(views.float(), dim=2).unbind(dim=1)
    cosines: Cosines = (first @ second.T).numpy()
    same = np.eye(len(cosines), dtype=bool)
    return Similarities(cosines[same], cosines[~same])
