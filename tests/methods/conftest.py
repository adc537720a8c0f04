"""Small pictures, and runs on them."""

import io

import numpy as np
import pytest
import torch

import looktwice
from looktwice.run import Run

SETTINGS = {
    "augment.size": 12,
    "model.image_size": 12,
    "model.embedding_dim": 16,
    "train.batch_size": 16,
    "train.steps": 3,
    "train.threads": 1,
    "optim.base_lr": 0.1,
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pictures():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (80, 14, 14, 1), dtype=np.uint8)
    return images, np.arange(80) % 4


@pytest.fixture
def pretrain(tmp_path, pictures):
    """Train on made-up pictures; return the run."""

    def call(data=None, *, out="run", method=None, **settings):
        settings = {**SETTINGS, **settings}
        if settings.get("method.name") == "supervised":
            del settings["model.embedding_dim"]
        path = looktwice.pretrain(
            pictures if data is None else data, recipe="simclr-tiny", out=tmp_path / out,
            method=method, file=io.StringIO(), settings=settings,
        )  # fmt: skip
        return Run(path)

    return call
