"""An encoder as a scikit-learn transformer: `fit` trains a run, `transform` uses it."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from looktwice import config as configuration
from looktwice.build import best_device, open_device
from looktwice.data import ArraySource
from looktwice.estimator import load_encoder
from looktwice.features import encode, encoder_width, prepare
from looktwice.run import DEFAULT_FOLDER, next_free
from looktwice.train import pretrain


class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Learns features of pictures without labels, and transforms pictures to them.

    Each `fit` trains a new run, by `looktwice.pretrain`, and keeps nothing but its folder: pickles
    are small, and good as long as that folder is where it was.

    Args:
        recipe: name of a shipped recipe; None for the default one.
        settings: dotted keys over the recipe, as in ``{"train.epochs": 20}``.
        out: folder in which each fit makes a new run, ``<recipe>-NNN``; None for ``runs``.
        seed: of every random choice; equal seeds, settings, pictures and threads give equal bits,
            unless the length is given in minutes.
        verbose: whether progress is printed on standard error.

    Attributes:
        run_: absolute path of the run's folder, which `looktwice eval` and `looktwice.load_encoder`
            take.
        picture_shape_: (H, W) or (H, W, C) of the pictures seen in fit.
        n_features_in_: values a picture, H·W or H·W·C.
    """

    def __init__(
        self,
        recipe: str | None = None,
        *,
        settings: Mapping[str, object] | None = None,
        out: str | Path | None = None,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.settings = settings
        self.out = out
        self.seed = seed
        self.verbose = verbose

    def fit(self, X: NDArray[np.uint8], y: object = None) -> Embedder:  # noqa: N803, ARG002
        """Train a new run on pictures.

        A tenth of them (`data.validation_fraction`) is set aside to watch training.

        Args:
            X: uint8 (N, H, W) or (N, H, W, C), C in {1, 3}; left as it is.
            y: ignored, so that no label can leak.

        Raises:
            DataError: (a ValueError) X is no such array, or too small to train on.
            UsageError: (a ValueError) an unknown recipe or setting.
            RunError: the run cannot be written, or its loss is not finite.
        """
        pictures = np.asarray(X)
        ArraySource(pictures)
        settings = {"train.seed": self.seed, **(self.settings or {})}
        recipe = self.recipe or configuration.DEFAULT_RECIPE
        configuration.resolve(recipe=recipe, flags=settings)
        folder = next_free(Path(self.out or DEFAULT_FOLDER).absolute(), recipe)
        progress = sys.stderr if self.verbose else io.StringIO()
        try:
            pretrain(pictures, recipe=recipe, settings=settings, out=folder, file=progress)
        except BaseException:
            with contextlib.suppress(OSError):  # what was written before is kept
                folder.rmdir()
            raise
        self.run_ = str(folder)
        self.picture_shape_: tuple[int, ...] = pictures.shape[1:]
        self.n_features_in_ = math.prod(self.picture_shape_)
        self._n_features_out = encoder_width(load_encoder(self.run_))
        return self

    def transform(self, X: NDArray[np.uint8]) -> NDArray[np.float32]:  # noqa: N803
        """Return features (N, D), float32, of pictures.

        The last bits of a feature may depend on which pictures are transformed together.

        Args:
            X: uint8, of the shape seen in fit but for N; left as it is.

        Raises:
            NotFittedError: before fit.
            DataError: (a ValueError) X is no such array.
            ValueError: pictures of another shape than in fit.
            RunError: the run's folder is gone.
        """
        check_is_fitted(self)
        pictures = np.asarray(X)
        source = ArraySource(pictures)
        if pictures.shape[1:] != self.picture_shape_:
            raise ValueError(
                f"X has pictures of shape {pictures.shape[1:]}, but Embedder was fitted on "
                f"{self.picture_shape_}; looktwice.load_encoder({self.run_!r}) takes any size"
            )
        encoder = load_encoder(self.run_)
        prepared, _ = prepare(encoder, source)
        features: NDArray[np.float32] = encode(
            encoder.to(open_device(best_device())), prepared
        ).numpy()
        return features

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags
